"""How a device computes best: autocast where it is faster, and the attention kernel to use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Precision = Literal["fp32", "bf16", "auto"]


def settle(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision to compute in: `auto` is bf16 where the device multiplies it natively."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if device.type == "cpu" and has_bf16 else "fp32"


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Autocast to the settled precision, with the kernel that suits the device."""
    with ExitStack() as stack:
        if settle(precision, device) == "bf16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        stack.enter_context(attention_kernel(device))
        yield


def attention_kernel(device: torch.device) -> AbstractContextManager[object]:
    """SDPA's plain kernel on the CPU, its own choice elsewhere.

    On sequences as short as a clip's frames or a caption, the CPU flash kernel's backward was
    measured 3 to 10 times slower than two batched products (torch 2.13, fp32 and bf16).
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else ExitStack()


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
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
