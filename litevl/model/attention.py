"""Scaled dot-product attention, as the device at hand computes it best.

Legend: B rows, H heads, W words that ask, S tokens that are seen, D/H width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

VECTOR_BYTES = 64  # what a CPU's widest registers hold


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(Q K^T / sqrt(D/H)) V: (B, H, W, D/H).

    query: (B, H, W, D/H). key, value: (B, H, S, D/H). mask: True where a token may be seen, of a
    shape that broadcasts to (B, H, W, S). dropout: share of the attention weights that is dropped.

    On the CPU it is written out: for sequences as short as a clip's frames, its patches or a
    caption, SDPA's kernels took 3 to 13 times as long in bf16, forward and backward (torch 2.13).
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)
    batch, heads, words, width = query.shape
    asked, seen, known = (
        part.flatten(0, 1) for part in (query, key, value)
    )  # (B * H, W or S, D/H)
    asked = asked * (1 / math.sqrt(width))
    # In half precision, where short rows cost most, and in training only: a row's last bit may then
    # depend on the rows beside it, and answers that are alike have to rank alike. Lengths are asked
    # last: an exported program takes any.
    may_turn = torch.is_grad_enabled() and seen.element_size() < 4
    turned = may_turn and words > 1 and seen.shape[1] * seen.element_size() < VECTOR_BYTES
    logits = seen @ asked.mT if turned else asked @ seen.mT  # (B * H, S, W) or (B * H, W, S)
    if mask is not None:
        hidden = ~mask if mask.ndim > 1 else ~mask[None]
        hidden = hidden.transpose(-2, -1) if turned else hidden
        added = torch.zeros(hidden.shape, dtype=logits.dtype).masked_fill_(hidden, -math.inf)
        logits = (logits.view(batch, heads, *logits.shape[1:]) + added).flatten(0, 1)
    if turned:
        # Softmax goes row by row, and spends most of its time between rows as short as these; from
        # front to back it takes as many of them at a time as fill a register.
        share = logits.transpose(0, 1).softmax(dim=0).permute(1, 2, 0)  # (B * H, W, S)
    else:
        share = logits.softmax(dim=-1)
    if dropout:  # a dropout of nothing would be a random step of an exported program
        share = F.dropout(share, dropout)
    return (share @ known).view(batch, heads, words, width)
