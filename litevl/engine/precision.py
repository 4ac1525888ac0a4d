"""How a device computes best: autocast, kernels; the same numbers from the same seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16", "auto"]


def settle(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision to compute in: `auto` is bf16 where the device multiplies it natively."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if device.type == "cpu" and has_bf16 else "fp32"


def computing(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to the settled precision."""
    is_bf16 = settle(precision, device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=is_bf16)


def compile_encoders(parts: Iterable[nn.Module]) -> None:
    """torch.compile for the encoders of a model, and of the momentum copy that each step asks too.

    parts: as `Objective.parts` gives them.
    """
    for part in parts:
        for name, module in part.named_modules():
            if name.rpartition(".")[2] in ("visual_encoder", "text_encoder"):
                module.compile()


def sendable(tensor: Tensor, device: torch.device) -> Tensor:
    """The same tensor in memory from which it is copied to the device while that computes."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On the CPU, the same numbers from the same seed, bit for bit.

    Without it, the backward of indexing adds up in whatever order its threads arrive. CUDA needs
    settings from before the process started and is left as it is.
    """
    before = torch.are_deterministic_algorithms_enabled()
    of_torch: Any = torch.utils.deterministic
    fills = of_torch.fill_uninitialized_memory
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    # What is never read needs no filling; it took 6 % of a step of the mini profile.
    of_torch.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        of_torch.fill_uninitialized_memory = fills
