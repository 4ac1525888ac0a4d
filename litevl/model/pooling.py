"""Text-dependent pooling: what of a clip the text side gets to see, and how much of it.

Legend: B clips, T frames, N patches per frame, D width, K tokens.

No parameters. Source: abstract of arXiv 2210.11929 (non-parametric, re-weights the fine-grained
video embedding conditioned on the text); the formulas are reconstructed, see DESIGN section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from litevl.model.config import Pooling
from litevl.model.shapes import expect


def text_weights(tokens: Tensor, text: Tensor, temperature: float) -> Tensor:
    """K * softmax(cos(tokens, text) / temperature): weights (B, K) with mean 1.

    tokens: (B, K, D). text: (B, D). A large temperature gives weights of 1, plain mean pooling.
    """
    sizes = expect("tokens", tokens, "B K D")
    expect("text", text, "B D", B=sizes["B"], D=sizes["D"])
    cosine = F.cosine_similarity(tokens, text[:, None], dim=-1)  # (B, K)
    return sizes["K"] * (cosine / temperature).softmax(dim=-1)


def frame_and_patch_features(video: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over patches of each frame (B, T, D), and mean over frames of each patch (B, N, D).

    video: (B, T, 1 + N, D), CLS first.
    """
    patches = video[:, :, 1:]
    return patches.mean(dim=2), patches.mean(dim=1)


def pooled_tokens(
    video: Tensor,
    frame_weights: Tensor | None,
    patch_weights: Tensor | None,
    pooling: Pooling,
) -> Tensor:
    """The sequence that the text attends to: (B, 1 + T + N, D), or all tokens for `concat`.

    video: (B, T, 1 + N, D). frame_weights: (B, T), patch_weights: (B, N), None where pooling does
    not use them. The first token is the mean of the per-frame CLS tokens.
    """
    if pooling == "concat":
        return video.flatten(1, 2)  # (B, T * (1 + N), D), frame after frame, as BLIP does
    frames, patches = frame_and_patch_features(video)
    if frame_weights is not None:
        frames = frames * frame_weights[..., None].to(frames.dtype)
    if patch_weights is not None:
        patches = patches * patch_weights[..., None].to(patches.dtype)
    cls = video[:, :, 0].mean(dim=1, keepdim=True)
    return torch.cat([cls, frames, patches], dim=1)


def weighs_frames(pooling: Pooling) -> bool:
    """Whether the frame features are weighted by the text."""
    return pooling in ("text", "text-temporal")


def weighs_patches(pooling: Pooling) -> bool:
    """Whether the patch features are weighted by the text."""
    return pooling in ("text", "text-spatial")
