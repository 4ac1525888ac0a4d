"""The tables of accounts, and what a page says about the runs behind its numbers."""

from pathlib import Path

import pytest
from pages import Page, read_csv, section
from records import change_record, make_plan, run_id, write_study

from litevl.record import write_plan
from litevl.report import render_report
from litevl.report.accounts import code_warnings, cost_table
from litevl.report.runs import load_study

no_pictures = pytest.mark.usefixtures("no_pictures")


def test_times_of_runs_with_other_threads_are_left_out_of_the_means(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=[0, 1])
    for name, seed in (("full", 0), ("mean-pooling", 0), ("mean-pooling", 1)):
        change_record(
            folder,
            run_id(name, seed),
            lambda r: (
                r["hardware"].update(threads=4),
                r["timings_seconds"].update(train=30.0, evaluate=3.0),
                r["cost"].update(device_hours=0.01, flops_per_clip=3_250_000_000),
            ),
        )
    change_record(folder, run_id("no-scaling", 0), lambda r: r["timings_seconds"].update(train=30))
    table = cost_table(load_study(tmp_path, "msrvtt", "mini"))
    shown = {row[0].detail: [cell.text for cell in row[1:7]] for row in table.rows}
    assert shown["full"] == ["3.40", "2.25", "0.030", "1.5", "0.1", "0.028"]
    assert shown["no-scaling"] == ["3.40", "1.25", "0.030", "1.0", "0.1", "0.028"]
    assert shown["mean-pooling"] == ["3.40", "3.25", "0.030", "-", "-", "-"]
    assert "leave out 3 of 10 runs" in table.note
    timed = table.frame.set_index("variant")["timed_seeds"]
    assert (timed["full"], timed["no-scaling"], timed["mean-pooling"]) == ("1", "0, 1", "")


def test_note_of_costs_is_silent_where_all_runs_had_the_same_machine(tmp_path: Path) -> None:
    write_study(tmp_path, ["full", "no-scaling"])
    assert "leave out" not in cost_table(load_study(tmp_path, "msrvtt", "mini")).note


@no_pictures
def test_finished_seeds_that_were_not_asked_for_are_not_called_other_settings(
    tmp_path: Path,
) -> None:
    folder = write_study(tmp_path / "records", ["full", "no-scaling"], seeds=[0, 1, 2])
    write_plan(folder, "mini", make_plan([run_id(name, 0) for name in ("full", "no-scaling")]))
    text = Page(render_report(folder.parent, tmp_path)).text
    told = "4 finished runs of these settings (seeds 1, 2) were not asked for by the last command"
    assert told in text
    assert "other settings" not in text


@no_pictures
def test_run_on_other_data_stands_in_the_table_apart(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "records", ["full", "no-scaling", "mean-pooling"])
    change_record(
        folder, run_id("mean-pooling", 0), lambda r: r["data"].update(fingerprint="0" * 64)
    )
    report = render_report(folder.parent, tmp_path)
    assert "it saw other data than most runs" in section(report, "not_comparable")
    shown = {row["variant"] for row in read_csv(report, "main") if row["value"]}
    assert shown == {"full", "no-scaling"}
    assert "did not all see the same data" in Page(report).text


def test_claim_between_variants_that_started_from_other_weights_is_warned_about(
    tmp_path: Path,
) -> None:
    folder = write_study(tmp_path, ["full", "no-temporal-attention", "no-scaling"])
    told = "A claim compares full with no-temporal-attention, which started from other weights"

    def is_told() -> bool:
        return told in " ".join(code_warnings(load_study(tmp_path, "msrvtt", "mini")))

    assert not is_told()
    for variant, expected in (("no-scaling", False), ("no-temporal-attention", True)):
        change_record(folder, run_id(variant, 0), lambda r: r["weights"].update(sha256="0" * 64))
        assert is_told() == expected
