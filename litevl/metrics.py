"""Retrieval metrics with honest ties and intervals: numpy in, numpy out, nothing else.

Shapes: Q queries (captions), G gallery (clips), S seeds, C clusters, R resamples.

Two choices are ours and stated wherever a number is shown. Headline ranks are the worst that ties
allow, so a model that scores everything alike gets no credit. Intervals resample whole clusters of
queries, because clips cut from one source video are not independent: they speak about another test
set of the same kind, not about another training run (that is what seeds are for).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Literal["mean", "median"]

RESAMPLES = 2000
RECALL_CUTOFFS = (1, 5, 10)
PERCENT = (0.0, 100.0)
CHUNK_CELLS = 4_000_000  # weights drawn at a time: bounds the memory on large test sets


class Metric(TypedDict):
    """A value with its 95 % interval over `n` queries; None where there is none."""

    value: float
    low: float | None
    high: float | None
    n: int


def ranks(scores: ArrayLike, truth: ArrayLike) -> Ints:
    """Rank of the right gallery item for each query, from 1: the best and worst that ties allow.

    scores: (Q, G) higher is better.   truth: (Q,) index of the right item.   Returns (Q, 2).
    Raises ValueError on NaN or infinity, shapes that do not fit, and indices outside the gallery.
    """
    matrix, right_item = _checked(scores, truth)
    right = matrix[np.arange(len(matrix)), right_item][:, None]  # (Q, 1)
    above = (matrix > right).sum(axis=1)
    level = (matrix == right).sum(axis=1)  # counts the item itself
    return np.stack([above + 1, above + level], axis=1).astype(np.int64)


def _checked(scores: ArrayLike, truth: ArrayLike) -> tuple[Floats, Ints]:
    matrix, right_item = np.asarray(scores), np.asarray(truth)
    if matrix.dtype.kind not in "fiu":
        raise ValueError(f"scores should be numbers, got dtype {matrix.dtype}")
    if matrix.ndim != 2 or matrix.size == 0 or right_item.shape != matrix.shape[:1]:
        raise ValueError(
            f"scores should be (Q, G) and truth (Q,), got {matrix.shape} and {right_item.shape}"
        )
    if not np.isfinite(matrix).all():
        raise ValueError("scores hold NaN or infinity; a NaN would rank first")
    if (
        right_item.dtype.kind not in "iu"
        or right_item.min() < 0
        or right_item.max() >= matrix.shape[1]
    ):
        raise ValueError(f"truth should hold gallery indices from 0 to {matrix.shape[1] - 1}")
    return matrix, right_item.astype(np.int64)


def worst(ranking: ArrayLike) -> Ints:
    """The headline rank of each query, ties against us: the second column of (Q, 2)."""
    return _checked_ranks(ranking)[:, 1]


def _checked_ranks(ranking: ArrayLike) -> Ints:
    table = np.asarray(ranking)
    if table.ndim != 2 or table.shape[1] != 2 or len(table) == 0 or table.dtype.kind not in "iu":
        raise ValueError(
            f"ranks should be whole numbers of shape (Q, 2), got {table.dtype} {table.shape}"
        )
    if table.min() < 1 or (table[:, 0] > table[:, 1]).any():
        raise ValueError("ranks start at 1, and the best may not be above the worst")
    return table.astype(np.int64)


def hits_at(cutoff: int, ranking: ArrayLike) -> Floats:
    """100 for each query whose worst rank is within the cutoff, else 0. (Q, 2) -> (Q,)."""
    return np.where(worst(ranking) <= cutoff, 100.0, 0.0)


def recall_at(cutoff: int, ranking: ArrayLike) -> float:
    """Percentage of queries whose worst rank is within the cutoff. ranking: (Q, 2)."""
    return float(hits_at(cutoff, ranking).mean())


def order_right(right_scores: ArrayLike, twin_scores: ArrayLike) -> Floats:
    """1 where the right caption beats its time-reversed twin, 0.5 where they tie, 0 otherwise.

    right_scores, twin_scores: (Q,).   Returns (Q,).   Raises ValueError on NaN or infinity.
    """
    right, twin = np.asarray(right_scores, np.float64), np.asarray(twin_scores, np.float64)
    if right.shape != twin.shape or right.ndim != 1 or len(right) == 0:
        raise ValueError(f"both score lists should be (Q,), got {right.shape} and {twin.shape}")
    if not (np.isfinite(right).all() and np.isfinite(twin).all()):
        raise ValueError("scores hold NaN or infinity")
    return np.where(right == twin, 0.5, np.where(right > twin, 1.0, 0.0))


def order_accuracy(right: ArrayLike, clusters: ArrayLike, rng: np.random.Generator) -> Metric:
    """Percentage of captions that beat their twin; 50 is chance. right: (Q,) from `order_right`."""
    return interval(100.0 * np.asarray(right, np.float64), clusters, rng, bounds=PERCENT)


def shuffle_sensitivity(
    ranking: ArrayLike, shuffled: ArrayLike, clusters: ArrayLike, rng: np.random.Generator
) -> Metric:
    """Points of R@1 lost when frames are shuffled, paired by query. ranking, shuffled: (Q, 2)."""
    return paired_difference(hits_at(1, ranking), hits_at(1, shuffled), clusters, rng)


def direction_metrics(
    direction: str,
    ranking: ArrayLike,
    clusters: ArrayLike,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> dict[str, Metric]:
    """Recalls, median and mean rank of one direction, named `<direction>/R@1` and so on.

    direction: "t2v", "v2t", "t2v-itc" ...   ranking: (Q, 2).   clusters: (Q,) source of each query.
    Headline values take ties at their worst; `R@1-best-ties` takes them at their best and differs
    only if there are ties.
    """
    table = _checked_ranks(ranking)
    best = np.repeat(table[:, :1], 2, axis=1)  # (Q, 2)
    found = {
        f"{direction}/R@{k}": interval(
            hits_at(k, table), clusters, rng, resamples=resamples, bounds=PERCENT
        )
        for k in RECALL_CUTOFFS
    }
    found[f"{direction}/R@1-best-ties"] = interval(
        hits_at(1, best), clusters, rng, resamples=resamples, bounds=PERCENT
    )
    found[f"{direction}/MdR"] = interval(worst(table), clusters, rng, "median", resamples)
    found[f"{direction}/MnR"] = interval(worst(table), clusters, rng, "mean", resamples)
    return found


def retrieval_metrics(
    ranks_t2v: ArrayLike,
    ranks_v2t: ArrayLike,
    clusters: ArrayLike,
    rng: np.random.Generator,
) -> dict[str, Metric]:
    """Both directions' metrics, `t2v/...` over the Q captions and `v2t/...` over the G clips.

    ranks_t2v: (Q, 2).   ranks_v2t: (G, 2).   clusters: (Q,); caption i is of clip i.
    """
    forward = direction_metrics("t2v", ranks_t2v, clusters, rng)
    return forward | direction_metrics("v2t", ranks_v2t, clusters, rng)


def gallery_clusters(clusters: ArrayLike, truth: ArrayLike, num_gallery: int) -> Ints:
    """Cluster of each clip, taken from its captions: (Q,), (Q,) -> (G,), -1 without a caption."""
    of_clip = np.full(num_gallery, -1, np.int64)
    of_clip[np.asarray(truth)] = np.asarray(clusters)
    return of_clip


def paired_difference(
    ours: ArrayLike,
    theirs: ArrayLike,
    clusters: ArrayLike,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Metric:
    """Mean over seeds of the per-query `ours - theirs`, with a cluster bootstrap over queries.

    ours, theirs: (S, Q) or (Q,), same seeds and same queries in the same order.   clusters: (Q,).
    """
    left, right = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if left.shape != right.shape:
        raise ValueError(f"paired values should have one shape, got {left.shape} and {right.shape}")
    return interval(left - right, clusters, rng, "mean", resamples)


def interval(
    values: ArrayLike,
    clusters: ArrayLike,
    rng: np.random.Generator,
    statistic: Statistic = "mean",
    resamples: int = RESAMPLES,
    bounds: tuple[float, float] | None = None,
) -> Metric:
    """The statistic over queries, averaged over seeds, with its 95 % cluster-bootstrap interval.

    values: (Q,) or (S, Q); seeds share each resample of the queries.   clusters: (Q,) any labels.
    bounds: the range of one value, if it has one. Where every value sits on one end, resampling
    cannot move it; the interval's other end is then the exact binomial one (Clopper and Pearson
    1934) over the clusters. Fewer than two clusters: low and high are None. NaN or infinity:
    ValueError.
    """
    table = np.atleast_2d(np.asarray(values, np.float64))  # (S, Q)
    members = _cluster_index(clusters, table)
    num_clusters = int(members.max()) + 1
    value = float((table.mean(axis=1) if statistic == "mean" else np.median(table, axis=1)).mean())
    if num_clusters < 2:
        return {"value": value, "low": None, "high": None, "n": table.shape[1]}
    draws = np.concatenate(
        [
            _weighted_means(table, members, weights)
            if statistic == "mean"
            else _weighted_medians(table, members, weights)
            for weights in _resampled_weights(num_clusters, table.shape[1], rng, resamples)
        ]
    )
    low, high = (float(end) for end in np.quantile(draws, [0.025, 0.975]))
    if bounds is not None and (table == bounds[0]).all():
        high = bounds[0] + (bounds[1] - bounds[0]) * (1 - 0.025 ** (1 / num_clusters))
    if bounds is not None and (table == bounds[1]).all():
        low = bounds[0] + (bounds[1] - bounds[0]) * 0.025 ** (1 / num_clusters)
    return {"value": value, "low": low, "high": high, "n": table.shape[1]}


def _cluster_index(clusters: ArrayLike, table: Floats) -> Ints:
    """Clusters as 0 .. C-1, after checking that they and the values (S, Q) belong together."""
    labels = np.asarray(clusters)
    if table.ndim != 2 or table.size == 0 or labels.shape != table.shape[1:]:
        raise ValueError(
            f"values should be (S, Q) and clusters (Q,), got {table.shape} and {labels.shape}"
        )
    if not np.isfinite(table).all():
        raise ValueError("values hold NaN or infinity")
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _resampled_weights(
    num_clusters: int, num_queries: int, rng: np.random.Generator, resamples: int
) -> Iterator[Floats]:
    """How often each resample draws each cluster, in blocks of (r, C), `resamples` rows in all."""
    rows = max(1, CHUNK_CELLS // max(num_clusters, num_queries))
    for start in range(0, resamples, rows):
        r = min(rows, resamples - start)
        drawn = rng.integers(num_clusters, size=(r, num_clusters))
        drawn += num_clusters * np.arange(r)[:, None]  # one row of counters per resample
        counts = np.bincount(drawn.ravel(), minlength=r * num_clusters)
        yield counts.reshape(r, num_clusters).astype(np.float64)


def _weighted_means(table: Floats, members: Ints, weights: Floats) -> Floats:
    """Mean over seeds and over the queries of each resample. (S, Q), (Q,), (r, C) -> (r,)."""
    # Sums, not means, over the seeds: whole numbers add up alike in any order and on any machine.
    sums = np.bincount(members, weights=table.sum(axis=0))  # (C,)
    counts = np.bincount(members).astype(np.float64)  # (C,)
    means: Floats = (weights @ sums) / (weights @ counts) / len(table)
    return means


def _weighted_medians(table: Floats, members: Ints, weights: Floats) -> Floats:
    """Median of each resample's queries, averaged over seeds. (S, Q), (Q,), (r, C) -> (r,)."""
    medians = np.zeros(len(weights))
    for row in table:
        order = np.argsort(row, kind="stable")
        counted = weights[:, members[order]].cumsum(
            axis=1
        )  # (r, Q) queries up to and with this one
        total = counted[:, -1:]
        lower = (counted > (total - 1) // 2).argmax(axis=1)  # positions of the middle two
        upper = (counted > total // 2).argmax(axis=1)
        medians += (row[order[lower]] + row[order[upper]]) / 2
    return medians / len(table)
