"""Text-dependent pooling: what of a clip the text side gets to see, and how much of it.

Legend: B clips or texts, T frames, N patches per frame, D width, K tokens, S tokens of a clip that
the text side sees: 1 + T + N, or T * (1 + N) for `concat`.

No parameters. Source: abstract of arXiv 2210.11929 (non-parametric, re-weights the fine-grained
video embedding conditioned on the text); the formulas are reconstructed, see DESIGN section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litevl.model.config import LiteVLConfig, Pooling
from litevl.model.shapes import expect


def text_weights(
    tokens: Tensor, text: Tensor, temperature: float, row: Tensor | None = None
) -> Tensor:
    """K * softmax(cos(tokens, text) / temperature): weights (B, K) with mean 1.

    tokens: (B, K, D). text: (B, D). A large temperature gives weights of 1, plain mean pooling.
    row: (B,), the row of tokens that each text meets; None where text i meets row i. In float32 or
    more: cosines in bf16 would move weights by percents.
    """
    sizes = expect("tokens", tokens, "B K D")
    known = {} if row is not None else {"B": sizes["B"]}
    expect("text", text, "B D", **known, D=sizes["D"])
    with torch.autocast(tokens.device.type, enabled=False):
        tokens, text = (F.normalize(in_full(part), dim=-1) for part in (tokens, text))
        if len(tokens) == 1:
            cosine = text @ tokens[0].T  # (B, K)
        else:
            tokens = tokens if row is None else tokens[row]
            cosine = (tokens @ text[:, :, None]).squeeze(-1)  # (B, K)
        return sizes["K"] * (cosine / temperature).softmax(dim=-1)


def in_full(x: Tensor) -> Tensor:
    """In float32, unless it is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def frame_and_patch_features(video: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over patches of each frame (B, T, D), and mean over frames of each patch (B, N, D).

    video: (B, T, 1 + N, D), CLS first.
    """
    patches = video[:, :, 1:]
    return patches.mean(dim=2), patches.mean(dim=1)


def pooled_tokens(video: Tensor, pooling: Pooling) -> Tensor:
    """What the text side sees of clips, before texts weigh it: (B, S, D).

    video: (B, T, 1 + N, D). The mean of the per-frame CLS tokens, the frames' features, the
    patches'; all tokens for `concat`.
    """
    if pooling == "concat":
        return video.flatten(1, 2)  # frame after frame, as BLIP does
    cls = video[:, :, 0].mean(dim=1, keepdim=True)
    return torch.cat([cls, *frame_and_patch_features(video)], dim=1)


def pooling_weights(
    tokens: Tensor,
    text: Tensor,
    config: LiteVLConfig,
    projections: tuple[nn.Linear, nn.Linear] | None,
    row: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Text-dependent weights of frames (B, T) and patches (B, N), mean 1; None where unused.

    tokens: (B, S, D) of `pooled_tokens`. text: (B, Dt), the texts' own CLS. projections: of the
    clip's side and the text's, where they are compared in BLIP's space. row: see `text_weights`.
    """
    pooling, temperature = config.pooling, config.pooling_temperature
    if not (weighs_frames(pooling) or weighs_patches(pooling)):
        return None, None
    tokens = tokens[:, 1:]
    if projections is not None:
        of_clip, of_text = projections
        tokens, text = of_clip(tokens), of_text(text)
    num_frames = tokens.shape[1] - config.num_patches
    frames, patches = tokens[:, :num_frames], tokens[:, num_frames:]
    return (
        text_weights(frames, text, temperature, row) if weighs_frames(pooling) else None,
        text_weights(patches, text, temperature, row) if weighs_patches(pooling) else None,
    )


def token_weights(
    num_tokens: int, frame_weights: Tensor | None, patch_weights: Tensor | None
) -> Tensor | None:
    """How much each text makes of each pooled token: (B, S), 1 for the CLS; None for 1 throughout.

    num_tokens: S. frame_weights: (B, T), patch_weights: (B, N), None where pooling has none.
    """
    some = patch_weights if frame_weights is None else frame_weights
    if some is None:
        return None
    weights = some.new_ones(len(some), num_tokens)
    if frame_weights is not None:
        weights[:, 1 : 1 + frame_weights.shape[1]] = frame_weights
    if patch_weights is not None:
        weights[:, -patch_weights.shape[1] :] = patch_weights
    return weights


def weighs_frames(pooling: Pooling) -> bool:
    """Whether the frame features are weighted by the text."""
    return pooling in ("text", "text-temporal")


def weighs_patches(pooling: Pooling) -> bool:
    """Whether the patch features are weighted by the text."""
    return pooling in ("text", "text-spatial")
