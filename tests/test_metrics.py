"""The metrics against hand-worked examples, a slow version and symmetries."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litevl import metrics


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@st.composite
def matrices_with_ties(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores (Q, G) from very few distinct values, and a truth that covers the whole gallery."""
    num_gallery = draw(st.integers(1, 6))
    extra = draw(st.lists(st.integers(0, num_gallery - 1), max_size=5))
    truth = np.array(draw(st.permutations([*range(num_gallery), *extra])))
    cells = st.lists(st.integers(0, 2), min_size=num_gallery, max_size=num_gallery)
    rows = draw(st.lists(cells, min_size=len(truth), max_size=len(truth)))
    return np.array(rows, dtype=float), truth


def slow_ranks(scores: list[list[float]], right: list[set[int]]) -> list[list[int]]:
    """Best and worst place of the first right item: sorted with ties broken for and against it."""
    found = []
    for row, answers in zip(scores, right, strict=True):
        kind = sorted(range(len(row)), key=lambda i: (-row[i], i not in answers))
        cruel = sorted(range(len(row)), key=lambda i: (-row[i], i in answers))
        places = [next(p for p, i in enumerate(o, 1) if i in answers) for o in (kind, cruel)]
        found.append(places)
    return found


@given(matrices_with_ties())
def test_ranks_equal_those_of_a_slow_sort(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, truth = case
    assert metrics.ranks(scores, truth).tolist() == slow_ranks(
        scores.tolist(), [{int(t)} for t in truth]
    )


@given(matrices_with_ties(), st.randoms(use_true_random=False))
def test_ranks_do_not_depend_on_the_order_of_queries_or_gallery(
    case: tuple[np.ndarray, np.ndarray], random: Any
) -> None:
    scores, truth = case
    rows = random.sample(range(len(scores)), len(scores))
    columns = random.sample(range(scores.shape[1]), scores.shape[1])
    moved = metrics.ranks(scores[rows][:, columns], np.argsort(columns)[truth[rows]])
    assert (moved == metrics.ranks(scores, truth)[rows]).all()


def test_ranks_of_a_matrix_checked_by_eye() -> None:
    scores = [
        [0.9, 0.1, 0.3],  # right item first
        [0.5, 0.5, 0.2],  # right item level with one other
        [0.7, 0.8, 0.1],  # right item last
    ]
    assert metrics.ranks(scores, [0, 1, 2]).tolist() == [[1, 1], [1, 2], [3, 3]]


def test_a_model_that_scores_everything_alike_gets_no_credit() -> None:
    table = metrics.ranks(np.zeros((10, 10)), np.arange(10))
    found = metrics.direction_metrics("t2v", table, np.arange(10), rng())
    assert found["t2v/R@1"]["value"] == 0.0
    assert found["t2v/R@1-best-ties"]["value"] == 100.0
    assert found["t2v/R@10"]["value"] == 100.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    scores = np.eye(3)
    scores[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        metrics.ranks(scores, [0, 1, 2])
    with pytest.raises(ValueError, match="NaN or infinity"):
        metrics.order_right([0.0, bad], [0.0, 0.0])
    with pytest.raises(ValueError, match="NaN or infinity"):
        metrics.interval([0.0, bad], [0, 1], rng())


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        (np.zeros((2, 3)), [0, 1, 2], r"\(2, 3\) and \(3,\)"),
        (np.zeros((0, 3)), [], r"\(0, 3\)"),
        (np.zeros((2, 3)), [0, 3], "from 0 to 2"),
        (np.zeros((2, 3)), [0, -1], "from 0 to 2"),
        (np.zeros((2, 3)), [0.0, 1.0], "gallery indices"),
        (np.array([["a"]]), [0], "dtype"),
    ],
)
def test_scores_and_truth_that_do_not_fit_are_refused(
    scores: Any, truth: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.ranks(scores, truth)


@pytest.mark.parametrize("bad", [[[0, 1]], [[2, 1]], [[1.0, 1.0]], [1, 2], []])
def test_impossible_ranks_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="rank"):
        metrics.worst(np.array(bad))


def test_recall_counted_by_hand() -> None:
    table = [[1, 1], [1, 2], [5, 5], [11, 11]]
    assert metrics.recall_at(1, table) == 25.0  # the tied second query does not count
    assert metrics.recall_at(5, table) == 75.0


def test_order_accuracy_counts_a_tie_as_half() -> None:
    right = metrics.order_right([2.0, 1.0, 0.0, 3.0], [1.0, 1.0, 1.0, 0.0])
    assert right.tolist() == [1.0, 0.5, 0.0, 1.0]
    assert metrics.order_accuracy(right, range(4), rng())["value"] == 62.5


def test_shuffle_sensitivity_is_the_points_of_recall_lost() -> None:
    found = metrics.shuffle_sensitivity([[1, 1], [1, 1]], [[1, 1], [2, 2]], [0, 1], rng())
    assert found["value"] == 50.0


def test_retrieval_metrics_names_both_directions_and_counts_their_queries() -> None:
    t2v, v2t = np.array([[1, 1], [2, 3], [1, 1]]), np.array([[1, 1], [1, 2], [4, 4]])
    found = metrics.retrieval_metrics(t2v, v2t, [7, 8, 8], rng())
    names = {"R@1", "R@5", "R@10", "R@1-best-ties", "MdR", "MnR"}
    assert set(found) == {f"{way}/{name}" for way in ("t2v", "v2t") for name in names}
    assert (found["t2v/R@1"]["n"], found["v2t/R@5"]["n"]) == (3, 3)
    assert found["v2t/R@1-best-ties"]["value"] == pytest.approx(200 / 3)
    assert found["v2t/MnR"]["value"] == pytest.approx(7 / 3)


def test_gallery_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="clusters"):
        metrics.retrieval_metrics([[1, 1]] * 3, [[1, 1]] * 2, [0, 1, 2], rng())


def test_cluster_of_a_clip_is_that_of_its_captions() -> None:
    assert metrics.gallery_clusters([7, 8, 8], [0, 2, 2], 3).tolist() == [7, -1, 8]


def slow_bootstrap(
    values: np.ndarray, clusters: np.ndarray, statistic: Any, resamples: int
) -> list[float]:
    """Clusters drawn with replacement, their queries strung together, the statistic: R times."""
    labels, source, draws = np.unique(clusters), rng(1), []
    for _ in range(resamples):
        drawn = source.choice(labels, size=len(labels))
        rows = np.concatenate([np.flatnonzero(clusters == label) for label in drawn])
        draws.append(np.mean([statistic(seed[rows]) for seed in values]))
    return draws


@pytest.mark.parametrize(("name", "statistic"), [("mean", np.mean), ("median", np.median)])
def test_interval_agrees_with_a_slow_cluster_bootstrap(name: Any, statistic: Any) -> None:
    source = rng(2)
    clusters = np.repeat(np.arange(60), source.integers(1, 5, 60))
    values = source.integers(1, 40, (2, len(clusters))) + 10.0 * (clusters % 3)
    found = metrics.interval(values, clusters, rng(3), name, resamples=4000)
    draws = slow_bootstrap(values, clusters, statistic, 4000)
    spread = float(np.std(draws))
    assert found["low"] is not None
    assert found["high"] is not None
    assert found["value"] == pytest.approx(np.mean([statistic(seed) for seed in values]))
    assert found["low"] == pytest.approx(np.quantile(draws, 0.025), abs=0.25 * spread)
    assert found["high"] == pytest.approx(np.quantile(draws, 0.975), abs=0.25 * spread)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=12))
def test_weighted_median_is_the_median_of_the_repeated_values(pairs: list[tuple[int, int]]) -> None:
    values, weights = (np.array(column, float) for column in zip(*pairs, strict=True))
    weights[0] += 1  # some cluster is always drawn
    found = metrics._weighted_medians(values[None], np.arange(len(pairs)), weights[None])
    assert found[0] == np.median(np.repeat(values, weights.astype(int)))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_each_resample_draws_as_many_clusters_as_there_are(num_clusters: int, seed: int) -> None:
    blocks = list(metrics._resampled_weights(num_clusters, 10**6, rng(seed), 10))
    weights = np.concatenate(blocks)
    assert len(blocks) == 3  # four rows fit in a block of four million cells
    assert weights.shape == (10, num_clusters)
    assert (weights.sum(axis=1) == num_clusters).all()


def test_clusters_that_agree_inside_widen_the_interval() -> None:
    values = np.repeat(100.0 * (np.arange(50) % 2), 8)
    alone = metrics.interval(values, np.arange(400), rng())
    grouped = metrics.interval(values, np.repeat(np.arange(50), 8), rng())
    widths = [m["high"] - m["low"] for m in (alone, grouped)]
    assert widths[1] == pytest.approx(widths[0] * 8**0.5, rel=0.15)


def test_one_cluster_gives_no_interval() -> None:
    found = metrics.interval([0.0, 100.0], [3, 3], rng())
    assert found == {"value": 50.0, "low": None, "high": None, "n": 2}


def test_recall_at_its_bound_gets_the_exact_binomial_end() -> None:
    perfect = metrics.interval([100.0] * 20, range(20), rng(), bounds=metrics.PERCENT)
    hopeless = metrics.interval([0.0] * 20, range(20), rng(), bounds=metrics.PERCENT)
    assert perfect["low"] == pytest.approx(100 - 16.84, abs=0.01)  # Clopper-Pearson, 20 of 20
    assert perfect["high"] == 100.0
    assert hopeless["low"] == 0.0
    assert hopeless["high"] == pytest.approx(16.84, abs=0.01)


def test_the_same_generator_state_gives_the_same_interval() -> None:
    values = rng(5).normal(size=(3, 100))
    first = metrics.interval(values, range(100), rng(1))
    assert first == metrics.interval(values, range(100), rng(1))
    assert first["low"] != metrics.interval(values, range(100), rng(2))["low"]


def test_paired_difference_is_antisymmetric_and_narrower_than_unpaired() -> None:
    hard = rng(1).normal(scale=10, size=200)  # how hard each query is, the same for both
    ours = hard + 1.0 + rng(2).normal(size=(3, 200))
    theirs = hard + rng(3).normal(size=(3, 200))
    found = metrics.paired_difference(ours, theirs, range(200), rng(4))
    mirrored = metrics.paired_difference(theirs, ours, range(200), rng(4))
    assert found["low"] is not None
    assert found["high"] is not None
    assert mirrored["low"] == pytest.approx(-found["high"])
    assert found["low"] > 0
    unpaired = metrics.interval(ours, range(200), rng(4))
    assert found["high"] - found["low"] < (unpaired["high"] - unpaired["low"]) / 5


def test_paired_difference_needs_the_same_seeds_and_queries() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(3, 4\)"):
        metrics.paired_difference(np.zeros((2, 4)), np.zeros((3, 4)), range(4), rng())


def test_two_thousand_resamples_of_ten_thousand_queries_take_seconds() -> None:
    table = np.repeat(rng().integers(1, 100, (10_000, 1)), 2, axis=1)
    start = time.perf_counter()
    metrics.interval(metrics.hits_at(1, table), np.arange(10_000), rng())
    assert time.perf_counter() - start < 5
