"""Metrics of question answering against a slow version, hand-worked cases and the real MSVD-QA."""

import json
from collections import Counter
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litevl import metrics
from litevl.question_metrics import (
    PERCENTAGES,
    majority_right,
    members,
    per_question,
    question_metrics,
    shuffle_sensitivity,
)
from litevl.tasks import QuestionClaimMetric, QuestionMetric

TYPES = ("what", "who", "how", "when", "where")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# One question: right, listed, gold answer, type, needs order, source.
ROWS = st.lists(
    st.tuples(
        st.booleans(),
        st.booleans(),
        st.sampled_from("abc"),
        st.sampled_from(TYPES),
        st.booleans(),
        st.integers(0, 3),
    ).map(lambda row: (row[0] and row[1], *row[1:])),
    min_size=1,
    max_size=25,
)


def columns(rows: list[Any]) -> tuple[np.ndarray, ...]:
    right, listed, answers, kinds, in_time, clusters = zip(*rows, strict=True)
    return (
        np.array(right, float),
        np.array(listed, float),
        np.array(answers),
        np.array(kinds),
        np.array(in_time, bool),
        np.array(clusters),
    )


def slow_best(golds: list[str]) -> list[bool]:
    """Which golds the best single answer gets: each answer tried in the order it first occurs."""
    best: list[bool] = []
    for tried in golds:
        hits = [gold == tried for gold in golds]
        if sum(hits) > sum(best):
            best = hits
    return best


def slow_values(metric: str, rows: list[Any]) -> list[float]:
    """The values of a metric for each question of its group, one question at a time."""
    name, _, group = metric.partition("/")
    mine = [row for row in rows if group == "" or row[3] == group or (group == "order" and row[4])]
    if name == "accuracy":
        return [100.0 * row[0] for row in mine]
    if name == "answerable":
        return [100.0 * row[1] for row in mine]
    if name == "majority":
        return [100.0 * hit for hit in slow_best([row[2] for row in mine])]
    hits = {kind: iter(slow_best([r[2] for r in mine if r[3] == kind])) for kind in TYPES}
    return [100.0 * next(hits[row[3]]) for row in mine]


@settings(deadline=None)
@given(ROWS)
def test_every_metric_equals_a_count_question_by_question(rows: list[Any]) -> None:
    found = question_metrics(*columns(rows), rng())
    names = get_args(QuestionMetric)
    for name in names:
        values = slow_values(name, rows)
        assert (name in found) == bool(values)
        if values:
            assert found[name]["value"] == pytest.approx(sum(values) / len(values))
            assert found[name]["n"] == len(values)
    assert set(found) <= set(names)
    assert set(get_args(QuestionClaimMetric)) <= set(names)


@settings(deadline=None)
@given(ROWS)
def test_values_per_question_are_those_of_a_slow_loop(rows: list[Any]) -> None:
    right, listed, answers, kinds, in_time, _ = columns(rows)
    arrays = {"right": right, "in_list": listed, "answers": answers, "kinds": kinds}
    arrays["needs_order"] = in_time
    for name in get_args(QuestionMetric):
        values = per_question(name, arrays)
        slow = slow_values(name, rows)
        assert (values.tolist() if values is not None else []) == slow
        assert members(name, arrays).sum() == len(slow)


@settings(deadline=None)
@given(ROWS)
def test_no_fixed_answer_beats_the_best_one_and_types_only_help(rows: list[Any]) -> None:
    _, _, answers, kinds, _, _ = columns(rows)
    everywhere = majority_right(answers, np.zeros(len(answers))).sum()
    by_type = majority_right(answers, kinds).sum()
    assert all(100 * (answers == word).sum() <= everywhere for word in "abc")
    assert everywhere <= by_type


def test_best_answers_of_questions_checked_by_eye() -> None:
    answers = ["dog", "cat", "cat", "dog", "two", "two"]
    kinds = ["what", "what", "what", "who", "how", "how"]
    assert majority_right(answers, np.zeros(6)).tolist() == [100, 0, 0, 100, 0, 0]  # first of three
    assert majority_right(answers, kinds).tolist() == [0, 100, 100, 100, 100, 100]


def test_order_questions_have_baselines_of_their_own() -> None:
    found = question_metrics(
        right=[1, 0, 1, 0],
        in_list=[1, 1, 1, 0],
        answers=["left", "right", "red", "red"],
        kinds=["what", "when", "what", "what"],
        needs_order=[True, True, False, False],
        clusters=[0, 0, 1, 1],
        rng=rng(),
    )
    wanted = {
        "accuracy/order": (50.0, 2),
        "majority/order": (50.0, 2),
        "type-majority/order": (100.0, 2),  # one question of each type
        "majority": (50.0, 4),
        "type-majority": (75.0, 4),
        "majority/what": (100 * 2 / 3, 3),
        "answerable": (75.0, 4),
    }
    assert {name: (found[name]["value"], found[name]["n"]) for name in wanted} == wanted
    assert not any(name.endswith(("/who", "/how", "/where")) for name in found)


def test_without_knowledge_of_order_there_is_no_order_group() -> None:
    found = question_metrics([1.0], [1.0], ["two"], ["how"], None, [0], rng())
    named = {name + group for name in PERCENTAGES[:3] for group in ("", "/how")}
    assert set(found) == named | {"answerable"}
    assert found["accuracy"] == {"value": 100.0, "low": None, "high": None, "n": 1}


def test_interval_resamples_the_sources_of_the_groups_own_questions() -> None:
    num = 400
    kinds = np.tile(["what", "who"], num // 2)
    right, clusters = rng(1).integers(0, 2, num).astype(float), np.arange(num) // 8
    found = question_metrics(right, np.ones(num), ["a"] * num, kinds, None, clusters, rng())
    own = kinds == "who"
    alone = metrics.interval(100 * right[own], clusters[own], rng(3), bounds=metrics.PERCENT)
    assert found["accuracy/who"]["low"] == pytest.approx(alone["low"], abs=1.0)
    assert found["accuracy/who"]["high"] == pytest.approx(alone["high"], abs=1.0)
    assert found["majority"]["high"] == 100.0
    assert found["majority"]["low"] == pytest.approx(100 * 0.025 ** (1 / 50))  # 50 sources


def test_group_from_one_source_has_no_interval() -> None:
    kinds = ["what", "what", "what", "who", "who"]
    right, clusters = [1, 0, 1, 0, 1], [0, 1, 2, 3, 3]
    found = question_metrics(right, [1] * 5, ["a"] * 5, kinds, None, clusters, rng())
    assert found["accuracy/what"]["low"] is not None
    assert found["accuracy/who"] == {"value": 50.0, "low": None, "high": None, "n": 2}


def test_shuffle_sensitivity_is_the_points_of_accuracy_lost() -> None:
    found = shuffle_sensitivity([1, 1, 0, 1], [1, 0, 1, 0], [0, 1, 2, 3], rng())
    assert (found["value"], found["n"]) == (25.0, 4)
    arrays = {"right": np.array([1.0, 0.0]), "kinds": np.array(["what", "what"])}
    shuffled = arrays | {"shuffled_right": np.array([0.0, 1.0])}
    values = per_question("shuffle_sensitivity", shuffled)
    assert values is not None
    assert values.tolist() == [100.0, -100.0]
    assert per_question("shuffle_sensitivity", arrays) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": ["a"]}, r"every array should be \(Q,\), got .*'answers': \(1,\)"),
        ({"clusters": [0, 1, 2]}, r"every array should be \(Q,\)"),
        ({"needs_order": [True]}, r"'needs_order': \(1,\)"),
        ({"kinds": ["what", "why"]}, r"unknown question types \['why'\]"),
        ({"in_list": [0, 1]}, "counts as right though its answer is not listed"),
        ({"right": [np.nan, 0.0]}, "NaN or infinity"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    change: dict[str, Any], message: str
) -> None:
    arrays: dict[str, Any] = {
        "right": [1, 0],
        "in_list": [1, 1],
        "answers": ["a", "b"],
        "kinds": ["what", "who"],
        "needs_order": None,
        "clusters": [0, 1],
    }
    assert question_metrics(**arrays, rng=rng())
    with pytest.raises(ValueError, match=message):
        question_metrics(**arrays | change, rng=rng())


@pytest.mark.parametrize(("answers", "groups"), [([], []), (["a"], ["x", "y"]), ([["a"]], [["x"]])])
def test_best_answers_need_a_group_for_each_answer(answers: Any, groups: Any) -> None:
    with pytest.raises(ValueError, match=r"should be \(Q,\)"):
        majority_right(answers, groups)


@pytest.mark.data
def test_baselines_of_msvd_qa_are_those_counted_by_hand(annotations: Any) -> None:
    folder = annotations / "msvd_qa" / "original"
    rows = json.loads((folder / "val_qa.json").read_text())
    training = Counter(row["answer"] for row in json.loads((folder / "train_qa.json").read_text()))
    listed = {answer for answer, _ in training.most_common(1000)}
    answers = [row["answer"] for row in rows]
    kinds = [row["question"].split()[0] for row in rows]
    in_list = [float(answer in listed) for answer in answers]
    clusters = [row["video_id"] for row in rows]
    found = question_metrics(np.zeros(len(rows)), in_list, answers, kinds, None, clusters, rng())

    most = {
        kind: Counter(a for a, k in zip(answers, kinds, strict=True) if k == kind).most_common(1)[0]
        for kind in TYPES
    }
    assert most == {
        "what": ("play", 161),
        "who": ("man", 1066),
        "how": ("two", 126),
        "when": ("stage", 46),
        "where": ("place", 6),
    }
    assert Counter(answers).most_common(1) == [("man", 1072)]
    counts = {"what": 3995, "who": 2168, "how": 185, "when": 51, "where": 16}
    wanted = {
        "accuracy": (0, 6415),
        "majority": (1072, 6415),  # 16.71 %
        "type-majority": (161 + 1066 + 126 + 46 + 6, 6415),  # 21.90 %
        "answerable": (5749, 6415),  # the denominator of those who drop the other 666
        **{f"accuracy/{kind}": (0, n) for kind, n in counts.items()},
        **{f"majority/{kind}": (most[kind][1], n) for kind, n in counts.items()},
        **{f"type-majority/{kind}": (most[kind][1], n) for kind, n in counts.items()},
    }
    assert found.keys() == wanted.keys()
    for name, (hits, n) in wanted.items():
        assert (found[name]["value"], found[name]["n"]) == (pytest.approx(100 * hits / n), n)
    assert round(found["majority"]["value"], 2) == 16.71
    assert round(found["type-majority"]["value"], 2) == 21.90
    assert round(found["answerable"]["value"], 2) == 89.62
