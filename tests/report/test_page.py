"""The rendered folder: complete, closed in itself, always the same, safe against its content."""

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Page, content, read_csv, section
from records import (
    VARIANTS,
    change_arrays,
    change_record,
    make_plan,
    make_strips,
    run_id,
    write_study,
)

from litevl.errors import DataError, RunError
from litevl.record import read_arrays, read_record, write_plan, write_record
from litevl.report import render_report
from litevl.report.layout import RETRIEVAL
from litevl.report.page import breakable, markdown

no_pictures = pytest.mark.usefixtures("no_pictures")
HOSTILE = '<script>alert("x")</script> | $100 & 50% _a_ [b](http://c.d) \\ {e} ~ ^ #'


@pytest.fixture(scope="module")
def records_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "records"
    write_study(folder, seeds=[0, 1])
    return folder


@pytest.fixture(scope="module")
def page(records_dir: Path) -> Path:
    return render_report(records_dir, records_dir.parent)


def test_folder_holds_page_markdown_tables_and_figures_and_nothing_else(page: Path) -> None:
    assert page.parent.name == "msrvtt-mini"
    names = set(content(page.parent))
    assert {"index.html", "report.md", "tables/main.csv", "tables/main.tex"} <= names
    assert {"figures/ablation-recall.png", "figures/temporal-scale.png"} <= names
    assert sum(name.startswith("figures/film-") for name in names) == 6 * 3
    assert not any(name.startswith(".") or name.endswith(".tmp") for name in names)


def test_page_nests_well_and_links_only_to_files_beside_it(page: Path) -> None:
    found = Page(page)
    assert len(found.files) > 20
    assert all((page.parent / link).is_file() for link in found.files)
    ids = re.findall(r' id="([^"]+)"', page.read_text())
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in found.links if link.startswith("#")} <= set(ids)
    assert "http" not in page.read_text().replace("http-equiv", "")


def test_same_records_give_the_same_bytes_in_another_place_and_process(
    page: Path, records_dir: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from litevl.report import render_report;"
        "render_report(Path(sys.argv[1]), Path(sys.argv[2]));"
        "assert 'torch' not in sys.modules, 'a report needs no torch'"
    )
    config = tmp_path / "matplotlibrc"
    config.write_text("font.size: 30\naxes.facecolor: red\n")
    subprocess.run(
        [sys.executable, "-c", code, str(records_dir), str(tmp_path / "again")],
        check=True,
        env={"MATPLOTLIBRC": str(config), "PATH": "", "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
    )
    assert content(tmp_path / "again" / "msrvtt-mini") == content(page.parent)


def test_page_says_its_profile_in_title_first_and_last(page: Path) -> None:
    text = page.read_text()
    assert re.search(r"<title>[^<]*: mini profile</title>", text)
    assert re.search(r"<h1>.*mini profile.*</h1>", text)
    assert text.count("never set beside the paper&#39;s") == 2
    assert "no MSRVTT clips under data/msrvtt" in text
    assert (
        (page.parent / "report.md")
        .read_text()
        .startswith("# Text-to-video retrieval on MSRVTT: mini")
    )


def test_mini_report_never_shows_a_published_number(page: Path) -> None:
    for name, stored in content(page.parent).items():
        assert b"83.2" not in stored or name.endswith(".png"), name
    assert not (page.parent / "tables" / "targets.csv").exists()


@no_pictures
def test_paper_report_sets_published_and_own_numbers_side_by_side(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full"], profile="paper")
    report = render_report(folder.parent, tmp_path)
    (row,) = read_csv(report, "targets")
    assert (row["published"], row["tolerance"], row["verdict"]) == ("83.21", "1.2", "lower")
    shown = section(report, "targets")
    assert "83.2" in shown
    assert "within 1.2" in shown
    assert "Code of the numbers below: " + "a" * 40 in report.read_text()
    assert "quoted by another paper" in shown


def test_every_number_in_the_tables_has_interval_count_seeds_and_commit(page: Path) -> None:
    for name in ("main", "ablation", "claims"):
        rows = read_csv(page, name)
        assert rows
        for row in rows:
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
            assert row["n"] == "60"
            assert row["seeds"] == "0, 1"
            assert row["commits"] == "a" * 40


def test_page_shows_the_numbers_of_the_csv(page: Path) -> None:
    shown = section(page, "main")
    for row in read_csv(page, "main"):
        if row["metric"] != "shuffle_sensitivity":  # may be -0.0, shown as 0.0
            assert f"{float(row['value']):.1f}" in shown
            assert f"[{float(row['low']):.1f}, {float(row['high']):.1f}]" in shown


@no_pictures
def test_number_without_an_interval_is_not_shown(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full"])
    change_arrays(folder, run_id("full", 0), clusters=np.zeros(60, int))
    report = render_report(folder.parent, tmp_path)
    assert all(row["value"] == "" for row in read_csv(report, "main"))
    assert section(report, "main").count("no interval") == len(RETRIEVAL.columns)


@no_pictures
def test_failed_missing_and_damaged_runs_are_listed_with_the_reason(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records")
    change_record(
        folder,
        run_id("no-scaling", 0),
        lambda r: r.update(status="failed", error="loss is NaN at step 12", metrics={}),
    )
    (folder / f"{run_id('mean-pooling', 0)}.json").unlink()
    (folder / f"{run_id('concat-pooling', 0)}.json").write_text("{")
    report = render_report(folder.parent, tmp_path)
    runs = section(report, "runs")
    assert "loss is NaN at step 12" in runs
    assert "not run" in runs
    assert "concat-pooling-s0-0123abcd.json: damaged" in runs
    assert str(tmp_path) not in report.read_text()
    assert section(report, "main").count("not run") == 3 * len(RETRIEVAL.columns)
    assert "2 complete, 1 failed, 1 not run, 1 damaged" in report.read_text()


@no_pictures
def test_incomparable_run_stands_apart_and_never_in_the_main_tables(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full", "no-scaling"])
    change_record(
        folder,
        run_id("no-scaling", 0),
        lambda r: r["run"].update(comparable=False, not_comparable_because=["7 clips missing"]),
    )
    report = render_report(folder.parent, tmp_path)
    value = read_csv(report, "not_comparable")[0]["value"]
    assert value
    assert "7 clips missing" in section(report, "not_comparable")
    for name in ("main", "ablation", "cost"):
        assert not any(
            r["variant"] == "no-scaling" and r.get("value") for r in read_csv(report, name)
        )


@no_pictures
def test_run_without_a_commit_shows_no_number_at_all(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full"])
    change_record(folder, run_id("full", 0), lambda record: record["code"].update(commit=None))
    report = render_report(folder.parent, tmp_path)
    assert all(row["value"] == "" for row in read_csv(report, "not_comparable"))
    assert all(row["value"] == "" for row in read_csv(report, "main"))


@no_pictures
def test_changed_code_and_mixed_commits_are_warned_about(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full", "no-scaling", "mean-pooling"])
    change_record(folder, run_id("full", 0), lambda r: r["code"].update(dirty=True))
    change_record(folder, run_id("no-scaling", 0), lambda r: r["code"].update(commit="b" * 40))
    change_record(folder, run_id("no-scaling", 0), lambda r: r["weights"].update(sha256="c" * 64))
    change_record(
        folder, run_id("mean-pooling", 0), lambda r: r["data"].update(fingerprint="d" * 64)
    )
    text = Page(render_report(folder.parent, tmp_path)).text
    assert "2 different commits: aaaaaaaaaaaa, bbbbbbbbbbbb" in text
    assert "1 of 2 runs used code that was changed after the commit named" in text
    assert "did not all start from the same weights" in text
    assert "did not all see the same data" in text


@no_pictures
def test_where_weights_come_from_and_what_became_of_them_is_shown(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full"])
    found = {
        "layout": "transformers",
        "revision": "5" * 40,
        "fresh": ["itm_head.bias"],
        "resized": ["visual_encoder.pos_embed: 24 x 24 patches (384 px) to 14 x 14 (224 px)"],
        "notes": ["config.json says vision_config.layer_norm_eps 1e-05; BLIP's 1e-06 is used"],
    }
    change_record(folder, run_id("full", 0), lambda r: r["weights"].update(found))
    report = render_report(folder.parent, tmp_path)
    text = Page(report).text
    for shown in ("in the layout of transformers", "revision 555555555555", "itm_head.bias"):
        assert shown in text
    assert found["resized"][0] in text
    assert found["notes"][0] in text
    (row,) = read_csv(report, "weights")
    assert {row[name] for name in ("layout", "revision")} == {"transformers", "5" * 40}
    assert row["fresh"] == "itm_head.bias"


def make_hostile(folder: Path) -> None:
    """Put markup of three languages wherever a record or plan holds free text."""
    name = run_id("full", 0)
    arrays = read_arrays(folder / f"{name}.json")
    arrays["captions"] = np.array([HOSTILE] * len(arrays["captions"]))
    record = read_record(folder / f"{name}.json").model_dump(by_alias=True)
    record["run"] |= {"title": HOSTILE, "profile_reason": HOSTILE}
    record["data"]["notes"] = [HOSTILE]
    record["weights"] |= {"source": HOSTILE, "new_by_design": [HOSTILE]}
    record["spec"] = {"model": {"weights": HOSTILE}}
    write_record(folder, record, arrays, make_strips(arrays, size_px=16))
    plan = json.loads((folder / "mini.plan.json").read_text())
    plan["claims"][0]["sentence"] = HOSTILE
    plan["provenance"] = {"model.weights": {"source": "paper", "note": HOSTILE}}
    plan["variants"][0]["title"] = HOSTILE
    plan["command"] = HOSTILE
    write_plan(folder, "mini", plan)
    change_record(
        folder,
        run_id("no-scaling", 0),
        lambda r: r.update(status="failed", error=HOSTILE, metrics={}),
    )


@no_pictures
def test_markup_in_records_stays_text_in_every_format(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full", "no-scaling"])
    make_hostile(folder)
    report = render_report(folder.parent, tmp_path)
    found = Page(report)
    assert found.tags.count("script") == 1  # the page's own, which finds examples
    assert found.text.count("<script>") >= 8
    assert all((report.parent / link).is_file() for link in found.files)
    text = (report.parent / "report.md").read_text()
    outside_code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert "<script>" not in outside_code
    assert "[b](" not in outside_code
    tables = [line for line in text.splitlines() if line.startswith("|")]
    for line, following in pairwise(tables):
        if "---" in following:
            columns = len(re.findall(r"(?<!\\)\|", line))
            assert len(re.findall(r"(?<!\\)\|", following)) == columns
    for path in (report.parent / "tables").glob("*.tex"):
        for line in path.read_text().splitlines():
            plain = re.sub(r"\\[\\&%$#_{}a-zA-Z]+", "", line)  # commands and escaped specials
            assert line.startswith("%") or not re.search(r"[%#_^~<>]", plain), (
                f"{path.name}: {line}"
            )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a\\|b"),
        ("<b> & *c*", "&lt;b> &amp; \\*c\\*"),
        ("two\nlines", "two lines"),
        ("a_b [c] `d`", "a\\_b \\[c\\] \\`d\\`"),
    ],
)
def test_markdown_text_shows_as_it_reads(text: str, expected: str) -> None:
    assert markdown(text) == expected


def test_names_may_break_but_numbers_may_not() -> None:
    assert breakable("model.scaling: no-op") == "model.<wbr>scaling: no-<wbr>op"
    assert breakable("[-26.7, 20.8]") == "[-26.7, 20.8]"
    assert breakable("<i>") == "&lt;i&gt;"


def test_latex_table_has_the_same_columns_in_every_row(page: Path) -> None:
    for path in (page.parent / "tables").glob("*.tex"):
        lines = path.read_text().splitlines()
        spec = re.search(r"\\begin\{tabular\}\{([lr]+)\}", path.read_text())
        assert spec is not None
        rows = [line for line in lines if line.endswith(r" \\") and "multicolumn" not in line]
        assert len(rows) >= 2
        assert all(len(re.findall(r"(?<!\\)&", row)) == len(spec[1]) - 1 for row in rows)
        assert [rule for rule in ("top", "mid", "bottom") if rf"\{rule}rule" not in lines] == []
    main = (page.parent / "tables" / "main.tex").read_text()
    assert r"\cmidrule(lr){4-7}" in main
    assert "$-$" in (page.parent / "tables" / "ablation.tex").read_text()


@no_pictures
def test_what_an_earlier_rendering_left_is_cleared_away(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full", "no-scaling"])
    report = render_report(folder.parent, tmp_path)
    assert (report.parent / "figures" / "ablation-difference.png").exists()
    (report.parent / "notes.txt").write_text("the reader's own")
    write_plan(folder, "mini", make_plan([run_id("full", 0)], claims=[]))
    render_report(folder.parent, tmp_path)
    assert not (report.parent / "figures" / "ablation-difference.png").exists()
    assert not (report.parent / "tables" / "claims.csv").exists()
    assert (report.parent / "notes.txt").exists()


@no_pictures
def test_nothing_run_yet_still_gives_a_page(tmp_path: Path) -> None:
    plan = make_plan([run_id(name, 0) for name in VARIANTS])
    write_plan(tmp_path / "records" / "msrvtt", "mini", plan)
    text = Page(render_report(tmp_path / "records", tmp_path)).text
    assert "5 not run" in text
    assert "no record says so yet" in text


@no_pictures
def test_strips_that_cannot_be_read_become_a_warning(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full"])
    (folder / f"{run_id('full', 0)}.strips.npz").write_bytes(b"PK")
    report = render_report(folder.parent, tmp_path)
    assert "strips.npz: the per-query values cannot be read" in Page(report).text
    assert str(tmp_path) not in report.read_text()
    assert section(report, "examples") == ""


@no_pictures
def test_studies_are_rendered_together_or_one_by_name(tmp_path: Path) -> None:
    records = tmp_path / "records"
    write_study(records, ["full"])
    write_study(records, ["full"], profile="paper")
    assert render_report(records, tmp_path) == tmp_path
    assert (tmp_path / "msrvtt-paper" / "index.html").exists()
    found = render_report(records, tmp_path, spec="msrvtt", profile="mini")
    assert found == tmp_path / "msrvtt-mini" / "index.html"


@no_pictures
def test_no_records_and_no_writing_give_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)no records of didemo.*litevl run"):
        render_report(tmp_path, tmp_path, spec="didemo")
    folder = write_study(tmp_path / "records", ["full"])
    (tmp_path / "msrvtt-mini").write_text("a file in the way")
    with pytest.raises(RunError, match="cannot be written"):
        render_report(folder.parent, tmp_path)


def test_only_the_figures_and_examples_import_matplotlib() -> None:
    package = Path(sys.modules["litevl"].__path__[0])
    users = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) matplotlib", path.read_text(), re.MULTILINE)
    ]
    assert sorted(users) == ["report/examples.py", "report/figures.py"]


def test_changed_settings_are_named_in_the_ablation(page: Path) -> None:
    shown = section(page, "ablation")
    assert "model.temporal_attention: true -&gt; false; model.scaling: dynamic -&gt; none" in shown


def test_settings_carry_their_provenance(page: Path) -> None:
    rows = {row["setting"]: row for row in read_csv(page, "settings")}
    assert rows["model.scaling"]["source"] == "reconstructed"
    assert rows["model.scaling"]["note"] == "our form of it"
    assert rows["train.seeds"]["value"] == "0, 1, 2"
    assert rows["train.seeds"]["source"] == "-"


@no_pictures
def test_record_of_any_kind_of_run_can_be_rendered(tmp_path: Path) -> None:
    """A run that stopped before it had data, weights or costs leaves gaps, not an error."""
    folder = write_study(tmp_path / "records", ["full"])

    def stop_early(record: dict[str, Any]) -> None:
        for part in ("data", "weights", "timings_seconds", "cost", "selection"):
            record[part] = None
        record |= {"metrics": {}, "curves": {}, "temporal_scale": None}
        record |= {"status": "interrupted", "error": None}

    change_record(folder, run_id("full", 0), stop_early)
    assert "interrupted" in section(render_report(folder.parent, tmp_path), "runs")
