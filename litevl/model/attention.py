"""Scaled dot-product attention, as the device at hand computes it best.

Legend: B rows, H heads, W words that ask, S tokens that are seen, D/H width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(Q K^T / sqrt(D/H)) V: (B, H, W, D/H).

    query: (B, H, W, D/H). key, value: (B, H, S, D/H). mask: True where a token may be seen, of a
    shape that broadcasts to (B, H, W, S). dropout: share of the attention weights that is dropped.

    On the CPU it is written out: for sequences as short as a clip's frames, its patches or a
    caption, SDPA's kernels took up to 3 times as long in bf16, forward and backward (torch 2.13).
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)
    batch, heads, words, width = query.shape
    asked, seen, known = (
        part.flatten(0, 1) for part in (query, key, value)
    )  # (B * H, W or S, D/H)
    logits = (asked * (1 / math.sqrt(width))) @ seen.transpose(1, 2)  # (B * H, W, S)
    if mask is not None:
        added = torch.zeros(mask.shape, dtype=logits.dtype).masked_fill_(~mask, -math.inf)
        logits = (logits.view(batch, heads, words, seen.shape[1]) + added).flatten(0, 1)
    share = logits.softmax(dim=-1)
    if dropout:  # a dropout of nothing would be a random step of an exported program
        share = F.dropout(share, dropout)
    return (share @ known).view(batch, heads, words, width)
