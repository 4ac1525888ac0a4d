"""The report of a question-answering study: its numbers, their denominators, the baselines."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pages import Page, content, read_csv, section
from question_records import (
    make_question_arrays,
    question_run_id,
    write_question_study,
)
from records import change_record

from litevl.metrics import interval
from litevl.report import render_report
from litevl.report.figures import ablation_pictures, curve_pictures
from litevl.report.runs import load_study

FIGURES = {
    *("ablation-accuracy", "ablation-difference", "ablation-order"),
    *("curve-loss", "curve-validation-accuracy", "curve-validation-order", "temporal-scale"),
    "cost",
}
VARIANTS = ("full", "no-temporal-attention")


@pytest.fixture(scope="module")
def records_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions") / "records"
    write_question_study(folder, VARIANTS)
    return folder


@pytest.fixture(scope="module")
def page(records_dir: Path) -> Path:
    return render_report(records_dir, records_dir.parent)


def ask_what_and_who(folder: Path) -> None:
    """Leave two types of question in every run of a study, and nothing said about order."""
    for path in folder.glob("*-s0-0123abcd.npz"):
        arrays = dict(np.load(path)) | {"kinds": np.array(["what", "who"] * 50)}
        del arrays["needs_order"]
        np.savez(path, **arrays)
        metrics = {"accuracy": {"value": 100 * arrays["right"].mean(), "n": 100}}
        metrics["accuracy"] |= {"low": None, "high": None}
        change_record(folder, path.stem, lambda r, m=metrics: r["metrics"].update(test=m))


def test_folder_has_the_figures_of_the_task_and_no_other(page: Path) -> None:
    names = set(content(page.parent))
    drawn = {Path(name).stem for name in names if name.startswith("figures/")}
    assert drawn == FIGURES | {f"film-{place}" for place in range(1, 7)}
    assert all((page.parent / link).is_file() for link in Page(page).files)


def test_same_records_give_the_same_bytes(page: Path, records_dir: Path, tmp_path: Path) -> None:
    again = render_report(records_dir, tmp_path)
    assert content(again.parent) == content(page.parent)


def test_accuracy_by_type_stands_under_its_number_of_questions(page: Path) -> None:
    shown = section(page, "main").replace("\u00a0", " ")
    for kind in ("what", "who", "how", "when", "where", "order questions"):
        assert f"{kind}, n = 20</th>" in shown
    markdown = (page.parent / "report.md").read_text()
    assert "| accuracy, when, n = 20 |" in markdown
    assert "| use of time: order questions, n = 20 |" in markdown
    assert "when, n = 20 &" in (page.parent / "tables" / "main.tex").read_text()


def test_columns_of_questions_that_nobody_asked_are_left_out(tmp_path: Path) -> None:
    folder = write_question_study(tmp_path / "records", VARIANTS)
    ask_what_and_who(folder)
    report = render_report(folder.parent, tmp_path)
    shown = section(report, "main").replace("\u00a0", " ")
    assert "who, n = 50</th>" in shown
    assert not re.search(r"when[^<]*</th>", shown)
    assert "order questions" not in shown
    assert "order questions" not in section(report, "ablation")
    assert not (report.parent / "figures" / "ablation-order.png").exists()


def test_baselines_stand_below_the_variants_once_for_all_of_them(page: Path) -> None:
    arrays = make_question_arrays("full", 0)
    table = section(page, "main")
    foot = table.split('<tbody class="foot">')[1]
    _, counts = np.unique(arrays["answers"], return_counts=True)
    assert f"{counts.max():.1f}" in foot
    by_type = sum(
        np.unique(arrays["answers"][arrays["kinds"] == kind], return_counts=True)[1].max()
        for kind in np.unique(arrays["kinds"])
    )
    assert f"{by_type:.1f}" in foot
    outside = int((arrays["in_list"] == 0).sum())
    assert outside == 6
    assert "6 of 100 have an answer outside the list and count as wrong" in foot
    assert "94.0" in foot
    rows = [row for row in read_csv(page, "main") if row["variant"] == "any"]
    assert len(rows) == 7 + 7 + 1
    assert {row["metric"]: float(row["value"]) for row in rows}["majority"] == counts.max()
    main = (page.parent / "tables" / "main.tex").read_text()
    assert main.count(r"\midrule") == 2
    assert "| Majority answer of each type (baseline:" in (page.parent / "report.md").read_text()


def test_answers_that_the_list_has_from_other_splits_stand_beside_its_ceiling(
    page: Path, tmp_path: Path
) -> None:
    assert "the list holds" not in section(page, "main")
    folder = write_question_study(tmp_path / "records", VARIANTS)
    words = [f"word{n}" for n in range(7)]
    listed = {"source": "x.json", "count": 20, "only_validation": [], "only_test": words}
    for variant in VARIANTS:
        run_id = question_run_id(variant, 0)
        change_record(folder, run_id, lambda record: record["data"].update(answer_list=listed))
    report = render_report(folder.parent, tmp_path)
    foot = section(report, "main").split('<tbody class="foot">')[1]
    told = "the list holds 7 answers that only test questions have (word0, word1, word2, word3, "
    assert told + "word4, ... 2 more)" in foot
    assert "validation questions" not in foot


def test_baselines_of_different_tests_are_not_shown(tmp_path: Path) -> None:
    folder = write_question_study(tmp_path / "records", VARIANTS)
    path = folder / f"{question_run_id('full', 0)}.npz"
    np.savez(path, **dict(np.load(path)) | {"clusters": np.arange(100)})
    report = render_report(folder.parent, tmp_path)
    assert '<tbody class="foot">' not in section(report, "main")
    assert "Dashed: the majority" not in report.read_text()


def test_every_number_has_interval_count_seeds_and_commit(page: Path) -> None:
    for name in ("main", "ablation", "claims"):
        rows = [row for row in read_csv(page, name) if row["value"]]
        assert rows
        for row in rows:
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
            assert row["n"] in ("100", "20")
            assert row["seeds"] == "0"
            assert row["commits"] == "a" * 40


def test_ablation_compares_accuracy_in_all_and_on_order_questions(page: Path) -> None:
    rows = [row for row in read_csv(page, "ablation") if row["value"]]
    assert [(row["metric"], row["n"]) for row in rows] == [
        ("accuracy", "100"),
        ("accuracy/order", "20"),
    ]
    right = [make_question_arrays(name, 0)["right"] for name in VARIANTS]
    expected = interval(
        100 * (right[1] - right[0]), np.arange(100) // 4, np.random.default_rng(20221109)
    )
    assert float(rows[0]["value"]) == pytest.approx(expected["value"])
    assert float(rows[0]["low"]) == pytest.approx(expected["low"])


def test_data_table_counts_questions_and_answers_outside_the_list(page: Path) -> None:
    test = read_csv(page, "data")[1]
    assert test["split"].startswith("msvd-qa: test")
    assert (test["questions"], test["answer not in the list"]) == ("100", "6")
    assert "captions" not in test
    assert "a question with one answer" in section(page, "cost")


def test_figures_name_their_line_and_leave_it_out_where_there_is_none(records_dir: Path) -> None:
    accuracy, difference, order = ablation_pictures(load_study(records_dir, "msvd-qa", "mini"))
    assert accuracy.caption.endswith("Dashed: the majority answer of each type.")
    assert difference.caption.startswith("Accuracy minus that of full (points)")
    assert order.caption.endswith("Dashed: the majority answer of each type.")
    curves = curve_pictures(load_study(records_dir, "msvd-qa", "mini"))
    assert [picture.stem for picture in curves] == sorted(f for f in FIGURES if "curve" in f)
    assert not any("Dashed" in picture.caption for picture in curves)


def test_incomparable_run_stands_apart_with_its_own_counts(tmp_path: Path) -> None:
    folder = write_question_study(tmp_path / "records", VARIANTS)
    change_record(
        folder,
        question_run_id("no-temporal-attention", 0),
        lambda r: r["run"].update(comparable=False, not_comparable_because=["7 clips missing"]),
    )
    report = render_report(folder.parent, tmp_path)
    found = {row["metric"]: row["n"] for row in read_csv(report, "not_comparable")}
    assert found == {"accuracy": "100", "accuracy/order": "20"}
    assert "7 clips missing" in section(report, "not_comparable")
    assert "not run" in section(report, "main")


def test_nothing_run_yet_still_gives_the_columns_of_the_task(tmp_path: Path) -> None:
    folder = write_question_study(tmp_path / "records", ["full"])
    for path in folder.glob("*-s0-*"):
        path.unlink()
    assert json.loads((folder / "mini.plan.json").read_text())["ids"]
    report = render_report(folder.parent, tmp_path)
    shown = section(report, "main")
    for words in ("accuracy</th>", "when</th>", "order questions</th>", "not run"):
        assert words in shown
    assert '<tbody class="foot">' not in shown
