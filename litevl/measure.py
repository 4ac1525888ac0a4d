"""What is measured alike in every task: cost and the learned scale.

Legend: T frames.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from litevl.cost import Model, count
from litevl.metrics import Metric
from litevl.model.litevl import LiteVLForRetrieval
from litevl.schema import MOST_PIXELS
from litevl.spec import Resolved

Arrays = dict[str, npt.NDArray[Any]]

NUM_EXAMPLES = 8  # right ones, and as many wrong ones


@dataclass(frozen=True)
class Scored:
    """Metrics of a run by split, the test split's values behind them, and examples to look at."""

    metrics: dict[str, dict[str, Metric]]
    arrays: Arrays
    strips: Arrays


def weights_of(weights: torch.Tensor | None, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Pooling weights as they are recorded: 1 throughout where pooling does not look at the text.

    weights: (E, K) of E examples. Returns `shape`, which has E * K elements.
    """
    return np.ones(shape) if weights is None else weights.double().cpu().numpy().reshape(shape)


def shrunk(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Frames (..., S, S, 3) at no more than MOST_PIXELS a side, by means over whole squares."""
    size = frames.shape[-2]
    step = -(-size // MOST_PIXELS)
    small, *outer = size // step, *frames.shape[:-3]
    cut = frames[..., : small * step, : small * step, :]
    squares = cut.reshape(*outer, small, step, small, step, 3)
    return squares.mean(axis=(-4, -2)).round().astype(np.uint8) if step > 1 else frames


def picked(right: npt.NDArray[np.bool_], count: int) -> list[int]:
    """`count` queries answered right and as many wrong, drawn at random; always the same ones."""
    rng = np.random.default_rng(0)
    return [
        int(query)
        for group in (np.flatnonzero(right), np.flatnonzero(~right))
        for query in sorted(rng.permutation(group)[:count])
    ]


def learned_scale(model: Model) -> list[list[float]] | None:
    """The learned temporal scale per layer and frame, where there is one."""
    scales = model.visual_encoder.temporal_scales()
    return None if scales is None else [[float(value) for value in row] for row in scales]


def cost(model: Model, settings: Resolved, device: torch.device) -> dict[str, Any]:
    """Parameters, counted FLOPs of encoding one clip and scoring one pair, peak memory in GiB.

    A pair is a caption or a question with one answer, as long as the spec allows, and a clip that
    is encoded already.
    """
    data = settings.data
    counts = count(model, data.max_tokens, data.max_answer_tokens or 1, device)
    grounding = 0 if isinstance(model, LiteVLForRetrieval) else counts.text
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "parameters": counts.parameters,
        "flops_per_clip": counts.clip,
        "flops_per_pair": grounding + counts.pair,
        "peak_memory_gib": peak / 2**30,
    }
