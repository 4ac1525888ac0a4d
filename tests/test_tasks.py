"""Every data set and every metric has one task."""

from typing import get_args

import pytest

from litevl.tasks import (
    TASKS,
    ClaimMetric,
    Dataset,
    QuestionMetric,
    RetrievalMetric,
    TargetMetric,
    task_of,
    task_of_metric,
)


def test_every_data_set_has_its_task() -> None:
    assert set(get_args(Dataset)) == set(TASKS)
    assert [task_of(name) for name in ("didemo", "msrvtt-qa")] == [
        "retrieval",
        "question-answering",
    ]


def test_unknown_data_set_is_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'msvd'; known: msrvtt, didemo, msvd-qa, msrvtt-qa"):
        task_of("msvd")


def test_every_metric_belongs_to_one_task() -> None:
    assert set(get_args(ClaimMetric)) < set(get_args(TargetMetric))
    assert not set(get_args(RetrievalMetric)) & set(get_args(QuestionMetric))
    tasks = {name: task_of_metric(name) for name in get_args(TargetMetric)}
    assert None not in tasks.values()
    assert (tasks["t2v/MdR"], tasks["majority/order"]) == ("retrieval", "question-answering")
    assert task_of_metric("loss") is None
