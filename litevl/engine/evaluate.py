"""Text-video retrieval: dual-encoder ranking, re-ranking by the cross-encoder, diagnostics.

Legend: Q captions, G gallery clips, P pairs, k candidates, T frames, N patches.

A caption's score for a clip is ITM logit + ITC similarity among the k candidates with the highest
similarity; all others rank below them in the order of their similarity. Source: BLIP's video
evaluation (the sum is not in its paper); k and the score are the spec's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from litevl.engine.clips import ClipSet
from litevl.engine.precision import computing
from litevl.model.litevl import LiteVLForRetrieval, TextFeatures, VideoFeatures, similarities
from litevl.spec import Resolved

Score = Literal["itm+itc", "itm-only", "itc-only"]
Floats = npt.NDArray[np.float64]
BELOW_CANDIDATES = 1_000.0  # more than any logit; keeps the order of the similarities
PAIRS_PER_CLIP = 4  # a pair costs less memory than a clip; more at a time was slower on CPUs


@dataclass(frozen=True)
class Scores:
    """Every caption against every clip, higher is better; all (Q, G)."""

    text_to_video: Floats  # candidates chosen among the clips of each caption
    video_to_text: Floats  # candidates chosen among the captions of each clip
    itc: Floats  # similarities alone


@dataclass(frozen=True)
class Evaluation:
    """A gallery as the model saw it, and its scores. Captions are the clips' first ones."""

    video: VideoFeatures
    text: TextFeatures
    scores: Scores


@torch.inference_mode()
def encode_clips(
    model: LiteVLForRetrieval,
    clips: ClipSet,
    sampler: str,
    batch_size: int,
    rng: np.random.Generator,
    shuffle: bool = False,
) -> VideoFeatures:
    """All clips of the split. rng: draws frames for a random sampler, and the order to shuffle."""
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(clips), batch_size):
        index = range(start, min(start + batch_size, len(clips)))
        parts.append(model.encode_video(clips.frames(index, sampler, rng, shuffle).to(device)))
    return VideoFeatures(
        torch.cat([part.tokens for part in parts]), torch.cat([part.embedding for part in parts])
    )


@torch.inference_mode()
def encode_captions(model: LiteVLForRetrieval, clips: ClipSet) -> TextFeatures:
    """The first caption of every clip."""
    device = next(model.parameters()).device
    tokens = clips.tokens([clip.captions[0] for clip in clips.clips]).to(device)
    return model.encode_text(tokens.input_ids, tokens.attention_mask)


@torch.inference_mode()
def matching_logits(
    model: LiteVLForRetrieval,
    video: VideoFeatures,
    text: TextFeatures,
    text_index: Tensor,
    video_index: Tensor,
    batch_size: int,
    title: str | None = None,
) -> Tensor:
    """The cross-encoder's logit for a match, for pairs of a caption and a clip: (P,) float32."""
    starts = range(0, len(text_index), batch_size)
    logits = []
    for start in tqdm(starts, desc=title, leave=False, disable=title is None):
        part = slice(start, start + batch_size)
        pair_video, pair_text = video.select(video_index[part]), text.select(text_index[part])
        logits.append(model.match(pair_video, pair_text)[:, 1].float())
    return torch.cat(logits) if logits else torch.zeros(0)


def candidates(similarity: Tensor, k: int) -> Tensor:
    """True for the k highest of each row: (Q, G) bool. Ties go to the lower index."""
    order = similarity.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, order, True)


@torch.inference_mode()
def score_gallery(
    model: LiteVLForRetrieval,
    video: VideoFeatures,
    text: TextFeatures,
    k: int,
    score: Score,
    batch_size: int,
    title: str | None = None,
) -> Scores:
    """Scores of all captions against all clips; each pair meets the cross-encoder once at most.

    k: candidates per caption and per clip. batch_size: clips at a time.
    """
    similarity = similarities(text.embedding, video.embedding).cpu()  # (Q, G)
    itc = similarity.double().numpy()
    if score == "itc-only":
        return Scores(itc, itc, itc)
    of_text = candidates(similarity, k)
    of_video = candidates(similarity.T, k).T
    rows, columns = (of_text | of_video).nonzero(as_tuple=True)
    logits = torch.zeros_like(similarity)
    device = text.cls.device
    logits[rows, columns] = matching_logits(
        model,
        video,
        text,
        rows.to(device),
        columns.to(device),
        batch_size * PAIRS_PER_CLIP,
        title,
    ).cpu()
    paired = logits.double().numpy() + (itc if score == "itm+itc" else 0.0)
    below = itc - BELOW_CANDIDATES
    return Scores(
        np.where(of_text.numpy(), paired, below), np.where(of_video.numpy(), paired, below), itc
    )


@torch.inference_mode()
def twin_scores(
    model: LiteVLForRetrieval,
    video: VideoFeatures,
    text: TextFeatures,
    clips: ClipSet,
    score: Score,
    batch_size: int,
) -> tuple[Floats, Floats]:
    """Each clip's score with its own caption and with that of its reversed twin: (P,), (P,)."""
    own, twin = clips.twins()
    if not len(own):
        return np.zeros(0), np.zeros(0)
    found = []
    for caption in (own, twin):
        itc = (text.embedding[caption].float() * video.embedding[own].float()).sum(dim=1)
        total = itc if score != "itm-only" else torch.zeros_like(itc)
        if score != "itc-only":
            total = total + matching_logits(
                model, video, text, caption, own, batch_size * PAIRS_PER_CLIP
            )
        found.append(total.double().cpu().numpy())
    return found[0], found[1]


def evaluate(
    model: LiteVLForRetrieval,
    clips: ClipSet,
    settings: Resolved,
    rng: np.random.Generator,
    shuffle: bool = False,
    title: str | None = None,
) -> Evaluation:
    """Encode a split and score all its captions against all its clips, as the spec says.

    shuffle: each clip's frames in a random order, to see what the model makes of their order.
    """
    options, sampler = settings.evaluate, settings.frames.eval_sampler
    assert options.score is not None  # the spec's check for retrieval
    was_training = model.training
    model.eval()
    with computing(options.precision, next(model.parameters()).device):
        video = encode_clips(model, clips, sampler, options.batch_size, rng, shuffle)
        text = encode_captions(model, clips)
        scores = score_gallery(
            model,
            video,
            text,
            min(options.rerank_k, len(clips)),
            options.score,
            options.batch_size,
            title,
        )
    model.train(was_training)
    return Evaluation(video, text, scores)
