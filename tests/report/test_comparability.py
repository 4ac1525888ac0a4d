"""With what the numbers of a report may be compared."""

from pathlib import Path
from typing import Any

import pytest
from pages import read_csv, section
from question_records import write_question_study
from records import change_record, make_plan, run_id, write_study

from litevl.record import write_plan
from litevl.report import render_report
from litevl.report.accounts import commands
from litevl.report.comparability import footnotes
from litevl.report.runs import load_study

SPEC = {
    "data": {"train_split": "9k"},
    "frames": {"num_frames": 8, "size_px": 64, "eval_sampler": "segment-middle"},
    "evaluate": {"rerank_k": 32, "score": "itm+itc"},
}


def notes_of(folder: Path, **changes: Any) -> list[str]:
    """The footnotes of a study of one run whose settings are SPEC with changes."""
    change_record(folder, run_id("full", 0), lambda record: record.update(spec=SPEC | changes))
    return footnotes(load_study(folder.parent, "msrvtt", "mini"))


def test_footnotes_say_what_decides_what_a_number_may_be_set_beside(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full"])
    found = notes_of(folder)
    assert [note.partition(":")[0] for note in found] == [
        *("Training split", "Frames", "Re-ranking", "Epoch", "Denominator"),
    ]
    assert found[0] == "Training split: 9k."
    assert "8 of 64 px, for the scores the middle frame of equal segments" in found[1]
    assert "the first 32 of the dual encoder (itm+itc)" in found[2]
    assert "60 captions of 60 test clips, 60 expected." in found[4]
    report = render_report(folder.parent, tmp_path)
    shown = section(report, "main")
    assert all(note in shown for note in found)
    assert all(note in (report.parent / "report.md").read_text() for note in found[:1])


def test_data_set_with_one_training_split_has_no_footnote_about_it(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full"])
    found = notes_of(folder, data=SPEC["data"] | {"train_split": None})
    assert found
    assert not any("Training split" in note for note in found)


def test_footnotes_of_runs_that_differ_are_all_said(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full", "no-scaling"])
    change_record(folder, run_id("no-scaling", 0), lambda record: record.update(spec=SPEC))
    other = {"evaluate": {"rerank_k": 128, "score": "itm+itc"}}
    told = [note for note in notes_of(folder, **other) if note.startswith("Re-ranking")]
    assert len(told) == 2


def test_footnotes_of_questions_name_the_list_and_what_lies_outside_it(tmp_path: Path) -> None:
    folder = write_question_study(tmp_path / "records", ["full"])

    def with_list(record: dict[str, Any]) -> None:
        record["data"]["splits"]["test"] |= {"questions": 100, "outside_list": 7}
        listed = {"source": "the published list", "count": 2423}
        listed |= {"only_validation": [], "only_test": ["mauve", "teal"]}
        record["data"]["answer_list"] = listed

    for path in folder.glob("*-full-s0-*.json"):
        change_record(folder, path.stem, with_list)
    found = footnotes(load_study(folder.parent, "msvd-qa", "mini"))
    assert "Answer list: 2423 answers, the published list; 2 known from test questions alone." in (
        found
    )
    assert found[-1].endswith("7 with an answer outside the list count as wrong.")
    assert not any(note.startswith("Re-ranking") for note in found)


def test_published_systems_stand_beside_ours_with_source_and_flags(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full", "no-scaling"], profile="paper")
    report = render_report(folder.parent, tmp_path)
    shown = section(report, "published")
    assert "Another model" in shown
    assert "7K; two looks at the test" in shown
    assert "its README" in shown
    rows = read_csv(report, "published")
    assert [row["system"] for row in rows][-2:] == ["Another model"] * 2  # the best comes last
    assert {row["system"] for row in rows} == {"full", "no-scaling", "Another model"}
    ours = {row["metric"]: row for row in rows if row["system"] == "full"}
    main = {row["metric"]: row for row in read_csv(report, "main") if row["variant"] == "full"}
    assert ours.keys() == {"t2v/R@1", "t2v/R@10"}
    for metric, row in ours.items():
        assert {key: row[key] for key in ("value", "low", "n")} == {
            key: main[metric][key] for key in ("value", "low", "n")
        }


def test_mini_profile_shows_no_published_system(tmp_path: Path) -> None:
    report = render_report(write_study(tmp_path / "records", ["full"]).parent, tmp_path)
    assert section(report, "published") == ""
    assert not (report.parent / "tables" / "published.csv").exists()
    assert "Another model" not in report.read_text()


@pytest.mark.parametrize("start", [None, "129m"])
def test_every_run_can_be_made_again_from_its_commit(tmp_path: Path, start: str | None) -> None:
    folder = write_study(tmp_path / "records", ["full", "no-scaling"], seeds=[0, 1])
    ids = [run_id(name, seed) for seed in (0, 1) for name in ("full", "no-scaling")]
    changes: dict[str, Any] = {}
    if start is not None:
        provenance = {"source": "reconstructed", "note": "our reading"}
        changes["start"] = {"name": start, "title": "L", "weights": "w.pth"}
        changes["start"] |= {"fetch": "blip:model_base", "provenance": provenance}
    write_plan(folder, "mini", make_plan(ids, **changes))
    change_record(folder, run_id("full", 1), lambda record: record["code"].update(commit="b" * 40))
    lines = commands(load_study(folder.parent, "msrvtt", "mini"))
    of_start = f" --start {start}" if start else ""
    head = f"litevl run reproductions/msrvtt.toml --profile mini{of_start}"
    assert lines == [
        f"git checkout {'a' * 40}",
        f"{head} --variant full --seed 0 --rerun",
        f"{head} --variant no-scaling --seed 0 --rerun",
        f"{head} --variant no-scaling --seed 1 --rerun",
        f"git checkout {'b' * 40}",
        f"{head} --variant full --seed 1 --rerun",
    ]
