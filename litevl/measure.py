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
from torch.utils.flop_counter import FlopCounterMode

from litevl.engine.precision import attention_kernel
from litevl.metrics import Metric
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.question_answering import LiteVLForQuestionAnswering
from litevl.model.tokenizer import Tokens
from litevl.spec import Resolved

Arrays = dict[str, npt.NDArray[Any]]
Model = LiteVLForRetrieval | LiteVLForQuestionAnswering


@dataclass(frozen=True)
class Scored:
    """Metrics of a run by split, the test split's values behind them, and examples to look at."""

    metrics: dict[str, dict[str, Metric]]
    arrays: Arrays
    strips: Arrays


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
    config = model.config
    size = config.image_size_px
    frames = torch.zeros(1, config.num_frames, 3, size, size, device=device)
    text = longest(settings.data.max_tokens, device)
    with attention_kernel(device):
        if isinstance(model, LiteVLForRetrieval):
            with FlopCounterMode(display=False) as of_clip:
                video = model.encode_video(frames)
            encoded = model.encode_text(text.input_ids, text.attention_mask)
            with FlopCounterMode(display=False) as of_pair:
                model.match(video, encoded)
        else:
            with FlopCounterMode(display=False) as of_clip:
                tokens = model.visual_encoder(frames)
            answer = longest(settings.data.max_answer_tokens or 0, device)
            with FlopCounterMode(display=False) as of_pair:
                model.answer_losses(model.ground(tokens, text), answer, 0.0)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops_per_clip": of_clip.get_total_flops(),
        "flops_per_pair": of_pair.get_total_flops(),
        "peak_memory_gib": peak / 2**30,
    }


def longest(num_tokens: int, device: torch.device) -> Tokens:
    """A text of that many words, (1, W)."""
    ids = torch.zeros(1, num_tokens, dtype=torch.long, device=device)
    return Tokens(ids, torch.ones_like(ids))
