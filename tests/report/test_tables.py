"""Cells and tables against values a reader can check."""

from typing import Any

import pytest
from question_records import make_question_arrays
from records import make_arrays, make_record, run_id

from litevl.record import Record
from litevl.report import tables
from litevl.report.layout import Column
from litevl.report.runs import Run
from litevl.report.tables import (
    Cell,
    Heading,
    Table,
    commits_text,
    end,
    kinds_text,
    label,
    metric_cell,
    number,
    short_commit,
    shown_columns,
    value_text,
)
from litevl.report.verdicts import TargetResult
from litevl.spec import Target


@pytest.mark.parametrize(
    ("value", "text"), [(27.66, "27.7"), (-0.04, "0.0"), (0.0, "0.0"), (-3.25, "-3.2")]
)
def test_numbers_are_rounded_and_never_minus_zero(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(3.26, "+3.3"), (0.04, "0.0"), (-0.04, "0.0"), (-3.25, "-3.2")]
)
def test_differences_have_a_sign_unless_they_round_to_nothing(value: float, text: str) -> None:
    assert number(value, signed=True) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.033, "0.03"), (-0.033, "-0.03"), (-0.0004, "0.0"), (0.0, "0.0"), (0.26, "0.3")],
)
def test_an_intervals_end_shows_on_which_side_of_zero_it_lies(value: float, text: str) -> None:
    assert end(value) == text


def test_metric_cell_shows_value_and_interval_or_nothing() -> None:
    found = {"value": 4.25, "low": 1.0, "high": 8.0, "n": 10}
    assert metric_cell(found) == Cell("4.2", "[1.0, 8.0]")
    assert metric_cell(found, signed=True).text == "+4.2"
    assert metric_cell(found | {"value": 0.01}, signed=True).text == "0.0"
    assert metric_cell(found | {"low": None, "high": None}).text == "-"
    assert metric_cell(None) == Cell("-")


def test_labels_carry_the_direction_that_the_group_gives() -> None:
    groups = (
        *(Heading("", 1), Heading("Text to video", 1, "t2v")),
        *(Heading("Video to text", 1, "v2t"), Heading("Use of time", 1)),
    )
    table = Table("a", "A", ("variant", "R@1", "R@1", "order accuracy"), (), None, groups=groups)
    assert table.labels == ("variant", "t2v R@1", "v2t R@1", "order accuracy")


def test_settings_read_as_toml_has_them() -> None:
    assert [value_text(v) for v in (True, None, [1, False], "x", 0.5)] == [
        "true",
        "none",
        "1, false",
        "x",
        "0.5",
    ]


def test_commits_are_listed_once_and_changes_marked() -> None:
    arrays = make_arrays("full", 0, num_queries=4)
    runs = []
    for seed, code in enumerate(
        [{"commit": "a"}, {"commit": "a"}, {"commit": "a", "dirty": True}, {"commit": None}]
    ):
        record = make_record("full", seed, arrays)
        record["code"] |= code
        name = run_id("full", seed)
        runs.append(Run(name, "full", seed, None, Record.model_validate(record)))
    assert commits_text(runs) == "a, a+changes, unknown"


def test_short_commit_keeps_the_word_that_says_what_was_hashed() -> None:
    assert short_commit("0123456789", 4) == "0123"
    assert short_commit("source:0123456789", 4) == "source:0123"
    assert short_commit("0123456789", None) == "0123456789"


def test_kinds_are_counted_in_order_of_appearance() -> None:
    assert kinds_text(["failed", "complete", "failed"]) == "2 failed, 1 complete"


def test_label_says_over_how_many_questions_a_part_is_and_vanishes_without_any() -> None:
    when = Column("accuracy/when", "when", is_part=True)
    whole = Column("accuracy", "accuracy")
    runs = [
        Run(str(n), "full", 0, None, arrays=make_question_arrays("full", 0, n)) for n in (10, 20)
    ]
    assert label(when, runs[:1]) == "when, n = 2"
    assert label(when, runs) == "when, n = 2/4"
    assert label(whole, runs) == "accuracy"
    assert label(when, []) == "when"
    runs[0].arrays["kinds"][:] = "what"
    assert shown_columns((whole, when), runs) == (whole, when)
    assert shown_columns((whole, when), runs[:1]) == (whole,)
    assert shown_columns((whole, when), []) == (whole, when)


@pytest.mark.parametrize(
    ("metric", "verdict", "tone"),
    [
        ("t2v/R@1", "lower", "bad"),
        ("t2v/R@1", "higher", "warn"),
        ("t2v/MdR", "lower", "warn"),
        ("v2t/MnR", "higher", "bad"),
        ("t2v/MdR", "reproduced", "good"),
        ("t2v/MdR", "unknown", "quiet"),
    ],
)
def test_colour_of_a_target_says_what_is_worse(metric: str, verdict: Any, tone: str) -> None:
    note = {"source": "secondary", "note": "quoted"}
    target = Target.model_validate({"metric": metric, "provenance": note})
    assert tables._target_tone(TargetResult(target, verdict, None, (), "")) == tone
