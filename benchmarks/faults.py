"""Faults that the regression check has to notice, each planted in the code that is really used.

A fault replaces a function where it is looked up: a method on its class, a function in the module
that imported its name. Inside `plant()` the library is broken, afterwards it is whole again.

Legend: B clips or pairs, T frames, K tokens, W words.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import litevl.engine.retrieval
import litevl.metrics
import litevl.model.pooling
from litevl.engine.clips import ClipSet
from litevl.model.losses import matching_loss
from litevl.model.text import Source, TextEncoder
from litevl.model.vision import Block, TemporalScale
from litevl.tasks import Task

Patch = AbstractContextManager[object]
RETRIEVAL: tuple[Task, ...] = ("retrieval",)
BOTH: tuple[Task, ...] = ("retrieval", "question-answering")


@dataclass(frozen=True)
class Fault:
    """A mistake that somebody could make."""

    name: str
    sentence: str
    tasks: tuple[Task, ...]  # what it can show in
    plant: Callable[[], Patch]


def temporal_attention_skipped() -> Patch:
    """The patches come back without having looked at other frames."""

    def across_time(_block: Block, patches: Tensor, _time: Tensor | None) -> Tensor:
        return patches

    return mock.patch.object(Block, "across_time", across_time)


def scale_stuck(at: float) -> Patch:
    """The temporal scale is the same number for all layers and frames, whatever gamma is."""

    def forward(_scale: TemporalScale, _patches: Tensor) -> float:
        return at

    return mock.patch.object(TemporalScale, "forward", forward)


def pooling_uniform() -> Patch:
    """All tokens weigh the same, as in mean pooling."""

    def text_weights(
        tokens: Tensor, text: Tensor, _temperature: float, _row: Tensor | None
    ) -> Tensor:
        return torch.ones(len(text), tokens.shape[1], device=tokens.device)  # (B, K)

    return mock.patch.object(litevl.model.pooling, "text_weights", text_weights)


def matching_labels_swapped() -> Patch:
    """VTM learns that pairs do not match and that hard negatives do."""

    def swapped(logits: Tensor, labels: Tensor, times: Tensor) -> Tensor:
        return matching_loss(logits, 1 - labels, times)

    return mock.patch.object(litevl.engine.retrieval, "matching_loss", swapped)


def negatives_replaced() -> Patch:
    """The hard negative of every row is the row itself."""

    def hard_negatives(similarity: Tensor, ids: Tensor, *_: object) -> Tensor:
        return torch.arange(len(ids), device=similarity.device)[:, None]

    return mock.patch.object(litevl.engine.retrieval, "hard_negatives", hard_negatives)


def frames_shuffled() -> Patch:
    """Clips reach the model with their frames in random order, in training and evaluation alike.

    The order has a generator of its own: all other draws stay as they were.
    """
    load, order = ClipSet.pictures, np.random.default_rng(0)

    def pictures(clips: ClipSet, *arguments: Any, **options: Any) -> Tensor:
        in_order = load(clips, *arguments, **options)  # (B, T, S, S, 3)
        return torch.stack([clip[order.permutation(len(clip))] for clip in in_order])

    return mock.patch.object(ClipSet, "pictures", pictures)


def padding_seen() -> Patch:
    """Words attend to padding, in themselves and where the decoder looks at a question."""
    encode = TextEncoder.forward

    def forward(
        encoder: TextEncoder,
        input_ids: Tensor,
        attention_mask: Tensor,
        source: Source | None = None,
        **options: Any,
    ) -> Tensor:
        everything = torch.ones_like(attention_mask)
        source = None if source is None else replace(source, mask=None)
        return encode(encoder, input_ids, everything, source, **options)

    return mock.patch.object(TextEncoder, "forward", forward)


def first_rank_missed() -> Patch:
    """Ranks counted from 0 by somebody who takes 0 for "not found"."""

    def hits_at(cutoff: int, ranking: npt.ArrayLike) -> npt.NDArray[np.float64]:
        from_zero = litevl.metrics.worst(ranking) - 1
        return np.where((from_zero > 0) & (from_zero < cutoff), 100.0, 0.0)

    return mock.patch.object(litevl.metrics, "hits_at", hits_at)


FAULTS = (
    Fault(
        "temporal-attention-skipped",
        "frames never look at each other",
        BOTH,
        temporal_attention_skipped,
    ),
    Fault(
        "scale-stuck-at-0",
        "temporal attention is computed and multiplied by 0",
        BOTH,
        lambda: scale_stuck(0.0),
    ),
    Fault(
        "pooling-weights-uniform",
        "the text no longer decides what it sees of the clip",
        BOTH,
        pooling_uniform,
    ),
    Fault(
        "matching-labels-swapped",
        "VTM is taught that pairs do not match",
        RETRIEVAL,
        matching_labels_swapped,
    ),
    Fault(
        "negatives-are-positives",
        "VTM meets no clip or caption but the right one",
        RETRIEVAL,
        negatives_replaced,
    ),
    Fault(
        "frames-shuffled",
        "the loader loses the order of frames",
        BOTH,
        frames_shuffled,
    ),
    Fault(
        "padding-mask-ignored",
        "words attend to padding",
        BOTH,
        padding_seen,
    ),
    Fault(
        "rank-0-is-a-miss",
        "R@K counts ranks from 0 and takes 0 for not found",
        RETRIEVAL,
        first_rank_missed,
    ),
    Fault(
        "scale-never-learned",
        "the scale stays 1, where it starts, whatever gamma learns",
        BOTH,
        lambda: scale_stuck(1.0),
    ),
)
