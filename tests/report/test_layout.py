"""Which task's tables and figures a study gets, and that the choices fit the records."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from question_records import (
    QUESTION_CLAIM,
    make_question_arrays,
    question_run_id,
    write_question_study,
)
from records import change_record, make_arrays, make_plan, write_study

from litevl.data.annotations import OTHER_TYPE
from litevl.record import write_plan
from litevl.report.layout import (
    DATASET_TITLES,
    QUESTION_ANSWERING,
    RETRIEVAL,
    Layout,
    dataset_of,
    layout_of,
)
from litevl.report.runs import Study, load_study, per_query
from litevl.tasks import Dataset


def with_another_type(arrays: dict) -> dict:
    """The arrays with a question of a type that only own data have."""
    kinds = arrays["kinds"].copy()
    kinds[-1] = OTHER_TYPE
    return arrays | {"kinds": kinds}


def test_every_data_set_has_a_title() -> None:
    assert tuple(DATASET_TITLES) == get_args(Dataset)


@pytest.mark.parametrize(
    ("layout", "arrays"),
    [
        (RETRIEVAL, make_arrays("full", 0)),
        (QUESTION_ANSWERING, with_another_type(make_question_arrays("full", 0))),
    ],
)
def test_every_metric_shown_is_one_that_records_can_hold(layout: Layout, arrays: dict) -> None:
    columns = (*layout.columns, *layout.compared, *layout.combined)
    names = [column.metric for column in columns]
    names += [metric for baseline in layout.baselines for metric in baseline.metrics.values()]
    names += [panel.metric for panel in layout.panels]
    names += [panel.line for panel in layout.panels if isinstance(panel.line, str)]
    assert [name for name in names if per_query(name, arrays) is None] == []
    known = {column.metric for column in layout.columns}
    assert all(known.issuperset(baseline.metrics) for baseline in layout.baselines)


def planned(folder: Path, **changes: object) -> Study:
    name = folder.name
    write_plan(folder, "mini", make_plan([f"{name}-mini-full-s0-00000000"], **changes))
    return load_study(folder.parent, name, "mini")


def test_records_say_the_task_whatever_the_spec_is_called(tmp_path: Path) -> None:
    folder = write_question_study(tmp_path, ["full"])
    study = replace(load_study(tmp_path, "msvd-qa", "mini"), spec="msrvtt")
    assert dataset_of(study) == "msvd-qa"
    assert layout_of(study) is QUESTION_ANSWERING
    change_record(
        folder,
        question_run_id("full", 0),
        lambda record: record.update(status="failed", error="out of memory", data=None, metrics={}),
    )
    (folder / f"{question_run_id('full', 0)}.npz").unlink()
    failed = replace(load_study(tmp_path, "msvd-qa", "mini"), spec="mine", plan=None)
    assert dataset_of(failed) == "msvd-qa"


def test_plan_says_the_task_where_nothing_ran(tmp_path: Path) -> None:
    by_file = planned(tmp_path / "mine", spec_file="reproductions/msrvtt_qa.toml")
    assert (dataset_of(by_file), layout_of(by_file)) == ("msrvtt-qa", QUESTION_ANSWERING)
    by_name = planned(tmp_path / "msvd-qa", spec_file="x.toml")
    assert (dataset_of(by_name), layout_of(by_name)) == ("msvd-qa", QUESTION_ANSWERING)
    by_claim = planned(tmp_path / "other", spec_file="x.toml", claims=[QUESTION_CLAIM])
    assert (dataset_of(by_claim), layout_of(by_claim)) == ("", QUESTION_ANSWERING)
    by_nothing = planned(tmp_path / "third", spec_file="x.toml", claims=[])
    assert (dataset_of(by_nothing), layout_of(by_nothing)) == ("", RETRIEVAL)


def test_settings_of_any_shape_are_no_obstacle(tmp_path: Path) -> None:
    folder = write_study(tmp_path, ["full"])
    for table in ("text", {"dataset": ["msvd-qa"]}, {"dataset": "unknown"}):
        for path in folder.glob("*-s0-*.json"):
            change_record(folder, path.stem, lambda r, t=table: r["spec"].update(data=t))
            assert json.loads(path.read_text())["spec"]["data"] == table
        assert dataset_of(load_study(tmp_path, "msrvtt", "mini")) == "msrvtt"
