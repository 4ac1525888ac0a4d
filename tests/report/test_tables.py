"""Cells and tables against values a reader can check."""

import pytest
from records import make_arrays, make_record, run_id

from litevl.record import Record
from litevl.report.runs import Run
from litevl.report.tables import (
    Cell,
    Table,
    commits_text,
    metric_cell,
    number,
    value_text,
)


@pytest.mark.parametrize(
    ("value", "text"), [(27.66, "27.7"), (-0.04, "0.0"), (0.0, "0.0"), (-3.25, "-3.2")]
)
def test_numbers_are_rounded_and_never_minus_zero(value: float, text: str) -> None:
    assert number(value) == text


def test_metric_cell_shows_value_and_interval_or_nothing() -> None:
    found = {"value": 4.25, "low": 1.0, "high": 8.0, "n": 10}
    assert metric_cell(found) == Cell("4.2", "[1.0, 8.0]")
    assert metric_cell(found, signed=True).text == "+4.2"
    assert metric_cell(found | {"value": 0.01}, signed=True).text == "0.0"
    assert metric_cell(found | {"low": None, "high": None}).text == "-"
    assert metric_cell(None) == Cell("-")


def test_labels_carry_the_direction_that_the_group_gives() -> None:
    groups = (("", 1), ("Text to video", 1), ("Video to text", 1), ("Use of time", 1))
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
