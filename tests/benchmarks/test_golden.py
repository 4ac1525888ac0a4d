"""Golden values: what is compared, how tolerances follow from spreads, and the tables printed."""

import math

import pytest

from benchmarks import golden
from benchmarks.golden import EXACT, REASONS, Entry, Golden, Header, compare, entry_of, kind_of

OLD, NEW = "a" * 40, "b" * 40


def entry(value, tolerance, commit=OLD):
    """An entry whose spreads do not matter."""
    return Entry(
        value=value,
        tolerance=tolerance,
        arithmetic_spread=0.0,
        seed_spread=0.0,
        reason="because",
        commit=commit,
    )


def golden_of(**metrics):
    """Golden values of one study, "small"."""
    header = Header(
        date="2026-01-01",
        commit=OLD,
        packages={"torch": "2.13.0"},
        machine={"processor": "abacus"},
        spreads="counted",
        seconds={"small": 1.0},
    )
    return Golden(header=header, metrics={f"small/{name}": e for name, e in metrics.items()})


def test_value_within_its_tolerance_is_no_finding():
    known = golden_of(loss=entry(1.0, 0.25))
    assert compare(known, {"small/loss": 1.25}, ["small"]) == []
    assert compare(known, {"small/loss": 0.75}, ["small"]) == []


def test_value_beyond_its_tolerance_is_found_with_its_history():
    (found,) = compare(golden_of(loss=entry(1.0, 0.25)), {"small/loss": 1.5}, ["small"])
    assert (found.problem, found.golden, found.now, found.tolerance) == ("moved", 1.0, 1.5, 0.25)
    assert (found.times, found.commit) == (2.0, OLD)


def test_metric_that_vanished_is_found():
    (found,) = compare(golden_of(loss=entry(1.0, 0.25)), {}, ["small"])
    assert (found.problem, found.now, found.times) == ("missing", None, math.inf)


def test_metric_that_is_not_golden_is_found():
    (found,) = compare(golden_of(), {"small/loss": 1.0}, ["small"])
    assert (found.problem, found.golden, found.now) == ("unknown", None, 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_within_a_tolerance(value):
    (found,) = compare(golden_of(loss=entry(1.0, 1e9)), {"small/loss": value}, ["small"])
    assert (found.problem, found.times) == ("not finite", math.inf)


def test_studies_that_did_not_run_are_not_missed():
    assert compare(golden_of(loss=entry(1.0, 0.25)), {}, ["other"]) == []


def test_worst_finding_comes_first():
    known = golden_of(near=entry(1.0, 0.1), far=entry(1.0, 0.1), gone=entry(1.0, 0.1))
    found = compare(known, {"small/near": 1.2, "small/far": 9.0}, ["small"])
    assert [finding.metric for finding in found] == ["small/gone", "small/far", "small/near"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train/loss@10", "trajectory"),
        ("train/vtm@60", "trajectory"),
        ("train/steps", "exact"),
        ("train/found", "exact"),
        ("test/outside_list", "exact"),
        ("test/majority", "exact"),
        ("test/type-majority/order", "exact"),
        ("test/answerable", "exact"),
        ("test/t2v/R@1", "outcome"),
        ("test/t2v/R@1-best-ties", "outcome"),
        ("test/accuracy/order", "outcome"),
        ("test/shuffle_sensitivity", "outcome"),
        ("test/top_score", "outcome"),
        ("validation/t2v-itc/R@1", "outcome"),
        ("validation/accuracy", "outcome"),
        ("temporal_scale/spread", "outcome"),
    ],
)
def test_name_says_what_kind_of_number_it_is(name, kind):
    assert kind_of(name) == kind_of(f"msrvtt/{name}") == kind


def test_exact_number_has_no_spread_and_no_room():
    found = entry_of("small/test/found", 64.0, [64.0], [64.0], None, NEW)
    assert (found.tolerance, found.arithmetic_spread, found.seed_spread) == (EXACT, None, None)
    assert found.reason == REASONS["exact"]


def test_loss_may_move_ten_times_what_rounding_moved_it_whatever_seeds_do():
    found = entry_of("small/train/loss@10", 2.0, [2.01, 1.98], [9.0, 1.0], None, NEW)
    assert found.arithmetic_spread == pytest.approx(0.02)
    assert found.tolerance == pytest.approx(0.2)


def test_loss_that_rounding_never_moved_keeps_room_for_other_kernels():
    assert entry_of("small/train/loss@10", 2.0, [2.0], [9.0], None, NEW).tolerance == 2e-4


def test_outcome_may_move_three_standard_deviations_over_seeds():
    found = entry_of("small/test/t2v/R@1", 50.0, [50.0, 50.5], [56.0, 44.0], 1000, NEW)
    assert found.seed_spread == pytest.approx(6.0)
    assert found.tolerance == pytest.approx(18.0)


def test_outcome_may_move_as_far_as_rounding_moves_it():
    found = entry_of("small/test/t2v/R@1", 50.0, [50.0, 58.0], [50.0, 50.0], 1000, NEW)
    assert found.tolerance == pytest.approx(24.0)


def test_percentage_that_never_moved_may_move_by_two_queries_a_rank_by_two_percent():
    assert entry_of("s/test/t2v/R@5", 100.0, [100.0], [100.0], 64, NEW).tolerance >= 200 / 64
    assert entry_of("s/test/t2v/MnR", 2.0, [2.0], [2.0], None, NEW).tolerance == pytest.approx(0.04)


def test_renewal_keeps_the_commit_of_a_value_that_did_not_move():
    old = golden_of(still=entry(1.0, 0.1), moved=entry(1.0, 0.1))
    new = {
        "small/still": entry(1.05, 0.1, NEW),
        "small/moved": entry(1.2, 0.1, NEW),
        "small/fresh": entry(3.0, 0.1, NEW),
    }
    kept = golden.with_kept_commits(new, old)
    assert {name: e.commit for name, e in kept.items()} == {
        "small/still": OLD,
        "small/moved": NEW,
        "small/fresh": NEW,
    }
    assert kept["small/still"].value == 1.05
    assert golden.with_kept_commits(new, None) == new


def test_file_is_read_as_it_was_written(tmp_path):
    content = golden_of(loss=entry(1.0, 0.25), accuracy=entry(50.0, 3.0))
    golden.write_golden(content, tmp_path / "golden.json")
    assert golden.read_golden(tmp_path / "golden.json") == content


def test_table_of_findings_names_the_commit_and_its_subject():
    known = golden_of(loss=entry(1.0, 0.25), gone=entry(2.0, 0.1, NEW))
    found = compare(known, {"small/loss": 1.5, "small/new": 7.0}, ["small"])
    text = golden.findings_table(found, {OLD: "Losses are summed"})
    assert text.splitlines()[0].split() == [
        "metric", "golden", "now", "tolerance", "off", "by", "last", "moved", "by",
    ]  # fmt: skip
    assert [line.split() for line in text.splitlines()[2:]] == [
        ["small/gone", "2", "-", "0.1", "missing", "b" * 9],
        ["small/new", "-", "7", "-", "unknown", "-"],
        ["small/loss", "1", "1.5", "0.25", "2.0", "x", "a" * 9, "Losses", "are", "summed"],
    ]


def test_table_of_a_renewal_marks_what_moved_what_is_new_and_what_is_gone():
    old = golden_of(still=entry(1.0, 0.1), moved=entry(1.0, 0.1), gone=entry(5.0, 0.1))
    new = {
        "small/still": entry(1.05, 0.2),
        "small/moved": entry(1.2, 0.2),
        "small/fresh": entry(3.0, 0.2),
    }
    lines = [line.split() for line in golden.renewal_table(old, new).splitlines()[2:]]
    assert lines == [
        ["small/fresh", "-", "3", "-", "-", "0.2", "new"],
        ["small/gone", "5", "-", "-", "0.1", "-", "gone"],
        ["small/moved", "1", "1.2", "0.2", "0.1", "0.2", "*"],
        ["small/still", "1", "1.05", "0.05", "0.1", "0.2"],
    ]
