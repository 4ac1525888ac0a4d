"""Text-video retrieval: dual-encoder ranking, re-ranking by the cross-encoder, diagnostics.

Legend: Q captions, G gallery clips, P pairs, k candidates, T frames, N patches.

A caption's score for a clip is ITM logit + ITC similarity among the k candidates with the highest
similarity; all others rank below them in the order of their similarity. Source: BLIP's video
evaluation (the sum is not in its paper); k and the score are the spec's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from litevl.data.fingerprint import file_hashes
from litevl.engine.clips import ClipSet
from litevl.engine.distributed import ALONE, Group
from litevl.engine.gallery import Score, stored
from litevl.engine.precision import computing
from litevl.engine.rerank import Gallery, digest, expect_finite, pair_logits
from litevl.model.litevl import LiteVLForRetrieval, TextFeatures, VideoFeatures, similarities
from litevl.spec import Resolved

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

    video: Gallery
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
    group: Group = ALONE,
    file: Path | None = None,
) -> Gallery:
    """All clips of the split. rng: draws frames for a random sampler, and the order to shuffle.

    The group's processes take the batches in turn and tell each other what came out. file: where
    the clips' tokens go, in half precision; None keeps them in memory. RunError where an embedding
    is not finite.
    """
    device = next(model.parameters()).device

    def encoded() -> Iterator[tuple[range, VideoFeatures]]:
        for number, start in enumerate(range(0, len(clips), batch_size)):
            index = range(start, min(start + batch_size, len(clips)))
            if group.does(number):
                frames = clips.frames(index, sampler, rng, shuffle)
                yield index, model.encode_video(frames.to(device))
            else:
                clips.places(index, sampler, rng, shuffle)  # the same draws as who does it

    if file is not None:
        gallery: Gallery = stored(encoded(), len(clips), file, group)
    else:
        tokens, embeddings = {}, {}
        for index, some in encoded():
            tokens[index], embeddings[index] = some.tokens, some.embedding
        gallery = VideoFeatures(*(group.assemble(a, len(clips)) for a in (tokens, embeddings)))
    expect_finite("embeddings of clips", gallery.embedding)
    return gallery


@torch.inference_mode()
def encode_captions(model: LiteVLForRetrieval, clips: ClipSet) -> TextFeatures:
    """The first caption of every clip; RunError where an embedding is not finite."""
    device = next(model.parameters()).device
    tokens = clips.tokens([clip.captions[0] for clip in clips.clips]).to(device)
    text = model.encode_text(tokens.input_ids, tokens.attention_mask)
    expect_finite("embeddings of captions", text.embedding)
    return text


def candidates(similarity: Tensor, k: int) -> Tensor:
    """True for the k highest of each row: (Q, G) bool. Ties go to the lower index."""
    order = similarity.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, order, True)


@torch.inference_mode()
def score_gallery(
    model: LiteVLForRetrieval,
    video: Gallery,
    text: TextFeatures,
    k: int,
    score: Score,
    batch_size: int,
    title: str | None = None,
    group: Group = ALONE,
    folder: Path | None = None,
) -> Scores:
    """Scores of all captions against all clips; each pair meets the cross-encoder once at most.

    k: candidates per caption and per clip. batch_size: clips at a time. folder: see `pair_logits`.
    """
    similarity = similarities(text.embedding, video.embedding).cpu()  # (Q, G)
    k = 0 if score == "itc-only" else k
    of_text, of_video = candidates(similarity, k), candidates(similarity.T, k).T
    logits = gallery_logits(
        model, video, text, of_text | of_video, batch_size, title, group, folder
    )
    return Scores(
        ranked(similarity, logits, of_text, score),
        ranked(similarity, logits, of_video, score),
        similarity.double().numpy(),
    )


@torch.inference_mode()
def score_captions(
    model: LiteVLForRetrieval,
    video: Gallery,
    text: TextFeatures,
    k: int,
    score: Score,
    batch_size: int,
    title: str | None = None,
    group: Group = ALONE,
    folder: Path | None = None,
) -> Floats:
    """`score_gallery(...).text_to_video` alone, for about half of its cost."""
    similarity = similarities(text.embedding, video.embedding).cpu()  # (Q, G)
    of_text = candidates(similarity, 0 if score == "itc-only" else k)
    logits = gallery_logits(model, video, text, of_text, batch_size, title, group, folder)
    return ranked(similarity, logits, of_text, score)


def gallery_logits(
    model: LiteVLForRetrieval,
    video: Gallery,
    text: TextFeatures,
    pairs: Tensor,
    batch_size: int,
    title: str | None,
    group: Group,
    folder: Path | None,
) -> Tensor:
    """Logits (Q, G) of the pairs that are True in (Q, G), 0 elsewhere; on the CPU."""
    rows, columns = pairs.nonzero(as_tuple=True)
    at_once = batch_size * PAIRS_PER_CLIP
    logits = torch.zeros(pairs.shape)
    logits[rows, columns] = pair_logits(
        model, video, text, rows, columns, at_once, title, group, folder
    ).cpu()
    return logits


def ranked(similarity: Tensor, logits: Tensor, chosen: Tensor, score: Score) -> Floats:
    """What ranks clips and captions: chosen pairs by `score`, all others below; all (Q, G)."""
    itc = similarity.double().numpy()
    if score == "itc-only":
        return itc
    paired = logits.double().numpy() + (itc if score == "itm+itc" else 0.0)
    return np.where(chosen.numpy(), paired, itc - BELOW_CANDIDATES)


@torch.inference_mode()
def twin_scores(
    model: LiteVLForRetrieval,
    video: Gallery,
    text: TextFeatures,
    clips: ClipSet,
    score: Score,
    batch_size: int,
    group: Group = ALONE,
) -> tuple[Floats, Floats]:
    """Each clip's score with its own caption and with that of its reversed twin: (P,), (P,)."""
    own, twin = clips.twins()
    if not len(own):
        return np.zeros(0), np.zeros(0)
    texts, videos = torch.cat([own, twin]), torch.cat([own, own])
    total = (text.embedding[texts].float() * video.embedding[videos].float()).sum(dim=1)
    if score == "itm-only":
        total = torch.zeros_like(total)
    if score != "itc-only":
        at_once = batch_size * PAIRS_PER_CLIP
        total = total + pair_logits(model, video, text, texts, videos, at_once, group=group)
    of_own, of_twin = total.double().cpu().numpy().reshape(2, -1)
    return of_own, of_twin


def evaluate(
    model: LiteVLForRetrieval,
    clips: ClipSet,
    settings: Resolved,
    rng: np.random.Generator,
    title: str | None = None,
    group: Group = ALONE,
    folder: Path | None = None,
) -> Evaluation:
    """Encode a split and score all its captions against all its clips, as the spec says.

    folder: where features go that the spec wants on the disk, and what is done of the re-ranking.
    """
    with evaluating(model, settings):
        video, text = encode(model, clips, settings, rng, False, group, folder)
        k, score, size = options_of(settings, clips)
        scores = score_gallery(model, video, text, k, score, size, title, group, folder)
    return Evaluation(video, text, scores)


def evaluate_shuffled(
    model: LiteVLForRetrieval,
    clips: ClipSet,
    settings: Resolved,
    rng: np.random.Generator,
    title: str | None = None,
    group: Group = ALONE,
    folder: Path | None = None,
) -> Floats:
    """Text-to-video scores (Q, G) with each clip's frames in a random order.

    What the model makes of the order of frames shows in how much it loses. folder: see `evaluate`.
    """
    with evaluating(model, settings):
        video, text = encode(model, clips, settings, rng, True, group, folder)
        k, score, size = options_of(settings, clips)
        return score_captions(model, video, text, k, score, size, title, group, folder)


@contextmanager
def evaluating(model: LiteVLForRetrieval, settings: Resolved) -> Iterator[None]:
    """The model as it is evaluated, in the spec's precision; afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        with computing(settings.evaluate.precision, next(model.parameters()).device):
            yield
    finally:
        model.train(was_training)


def encode(
    model: LiteVLForRetrieval,
    clips: ClipSet,
    settings: Resolved,
    rng: np.random.Generator,
    shuffle: bool,
    group: Group,
    folder: Path | None,
) -> tuple[Gallery, TextFeatures]:
    """A split's clips and captions as the model sees them."""
    sampler, size = settings.frames.eval_sampler, settings.evaluate.batch_size
    file = None
    if settings.evaluate.features == "disk" and folder is not None:
        key = features_key(model, clips, settings, rng, shuffle)
        file = folder / f"features-{key}.f16"
    video = encode_clips(model, clips, sampler, size, rng, shuffle, group, file)
    return video, encode_captions(model, clips)


def features_key(
    model: LiteVLForRetrieval,
    clips: ClipSet,
    settings: Resolved,
    rng: np.random.Generator,
    shuffle: bool,
) -> str:
    """A hash of all that decides a gallery's features: weights, clips, frames and precision."""
    paths = [clip.path for clip in clips.clips]
    hashes = file_hashes(paths)
    decides = {
        "weights": digest(model.parameters()),
        "clips": [hashes[path] for path in paths],
        "frames": settings.frames.model_dump(),
        "model": asdict(model.config),
        "evaluate": settings.evaluate.model_dump(),
        "rng": repr(rng.bit_generator.state),
        "shuffle": shuffle,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def options_of(settings: Resolved, clips: ClipSet) -> tuple[int, Score, int]:
    """Candidates, score and batch size, as the spec says."""
    options = settings.evaluate
    assert options.score is not None  # the spec's check for retrieval
    return min(options.rerank_k, len(clips)), options.score, options.batch_size
