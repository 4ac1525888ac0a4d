"""Metrics of question answering, by group of questions, beside what the best fixed answers get.

Shapes: Q questions, n questions of one group.

A metric is named `<name>` over all questions, or `<name>/<group>`: a question type ("what", "who"
and so on), or "order" for the questions that only the order of frames answers. What depends on the
questions alone is not stored but computed from them here, by the names that records give their
arrays (`litevl.schema.QUESTION_ARRAYS`).
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from litevl.data.annotations import OTHER_TYPE, QUESTION_TYPES
from litevl.metrics import PERCENT, Floats, Metric, interval, paired_difference

TYPES = (*QUESTION_TYPES, OTHER_TYPE)
GROUPED = ("accuracy", "majority", "type-majority")  # these are given for every group
PERCENTAGES = (*GROUPED, "answerable")


def majority_right(answers: ArrayLike, groups: ArrayLike) -> Floats:
    """100 for each question whose answer is the most frequent one of its group, else 0.

    answers, groups: (Q,).   Returns (Q,). Their mean is what the best single answer for each group,
    chosen in hindsight, gets right. Of equally frequent answers the one that comes first is taken.
    """
    gold, group_of = np.asarray(answers), np.asarray(groups)
    if gold.shape != group_of.shape or gold.ndim != 1 or len(gold) == 0:
        raise ValueError(f"answers and groups should be (Q,): {gold.shape} and {group_of.shape}")
    right = np.zeros(len(gold))
    for group in np.unique(group_of):
        mine = group_of == group
        # The first met of the most frequent, as `Counter` promises.
        best, _ = Counter(gold[mine].tolist()).most_common(1)[0]
        right[mine] = np.where(gold[mine] == best, 100.0, 0.0)
    return right


def members(metric: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Which questions a metric is about, (Q,): all, those of a type, or those about order."""
    kinds, group = arrays["kinds"], metric.partition("/")[2]
    if group == "order":
        return np.asarray(arrays.get("needs_order", np.zeros(len(kinds))), np.bool_)
    return np.ones(len(kinds), np.bool_) if group == "" else np.asarray(kinds == group)


def per_question(metric: str, arrays: Mapping[str, NDArray[Any]]) -> Floats | None:
    """A metric's value for each question of its group, (n,): 0 or 100, or points lost or won.

    Their mean is the metric. None where the run did not record it, or has no such question.
    """
    mine = members(metric, arrays)
    name = metric.partition("/")[0]
    if not mine.any():
        return None
    if name == "accuracy":
        return 100.0 * np.asarray(arrays["right"], np.float64)[mine]
    if name == "majority":
        return majority_right(arrays["answers"][mine], np.zeros(mine.sum()))
    if name == "type-majority":
        return majority_right(arrays["answers"][mine], arrays["kinds"][mine])
    if metric == "answerable":
        return 100.0 * np.asarray(arrays["in_list"], np.float64)
    if metric == "shuffle_sensitivity" and "shuffled_right" in arrays:
        return 100.0 * np.asarray(arrays["right"] - arrays["shuffled_right"], np.float64)
    return None


def question_metrics(
    right: ArrayLike,
    in_list: ArrayLike,
    answers: ArrayLike,
    kinds: ArrayLike,
    needs_order: ArrayLike | None,
    clusters: ArrayLike,
    rng: np.random.Generator,
) -> dict[str, Metric]:
    """Accuracy and both baselines for every group that occurs, and the share of listed answers.

    right: (Q,) 1 or 0.   in_list: (Q,) 1 where the gold answer is listed, else 0.   answers: (Q,)
    the gold ones.   kinds: (Q,) of TYPES.   needs_order: (Q,) bool, None where not known.
    clusters: (Q,) source of each question's clip. The interval of a baseline keeps its answers
    fixed: it is about the questions, not about the choice. Raises ValueError for lengths that
    differ, an unknown type, and a right answer that is not listed.
    """
    named = {"right": right, "in_list": in_list, "answers": answers, "kinds": kinds}
    named |= {} if needs_order is None else {"needs_order": needs_order}
    arrays = {name: np.asarray(values) for name, values in named.items()}
    source = np.asarray(clusters)
    if len({array.shape for array in (*arrays.values(), source)}) > 1 or source.ndim != 1:
        shapes = {name: array.shape for name, array in (arrays | {"clusters": source}).items()}
        raise ValueError(f"every array should be (Q,), got {shapes}")
    unknown = sorted(set(arrays["kinds"].tolist()) - set(TYPES))
    if unknown:
        raise ValueError(f"unknown question types {unknown}; known: {TYPES}")
    if (arrays["right"] > arrays["in_list"]).any():
        raise ValueError("a question counts as right though its answer is not listed")
    groups = ["", *(f"/{group}" for group in (*TYPES, "order"))]
    found: dict[str, Metric] = {}
    for metric in (*(name + group for name in GROUPED for group in groups), "answerable"):
        values = per_question(metric, arrays)
        if values is not None:
            of_values = source[members(metric, arrays)]
            found[metric] = interval(values, of_values, rng, bounds=PERCENT)
    return found


def shuffle_sensitivity(
    right: ArrayLike, shuffled_right: ArrayLike, clusters: ArrayLike, rng: np.random.Generator
) -> Metric:
    """Points of accuracy lost when frames are shuffled, paired by question.

    right, shuffled_right: (Q,) 1 or 0.   clusters: (Q,).
    """
    ours, theirs = (100.0 * np.asarray(values, np.float64) for values in (right, shuffled_right))
    return paired_difference(ours, theirs, clusters, rng)
