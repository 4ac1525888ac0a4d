"""Re-ranking by the cross-encoder, timed beside its peers, and how its cost grows.

Legend: G clips, Q captions, k candidates, T frames, N patches, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Measured, Way, measured_row, ratio_figure
from benchmarks.peers import blip_reranked, straightforward_reranked
from benchmarks.worlds import (
    NUM_WORDS,
    PRECISIONS,
    SMALL,
    Setting,
    random_captions,
    random_frames,
    random_model,
)
from litevl.benchmark_record import Conditions, Figure, Row
from litevl.engine.evaluate import score_captions, score_gallery
from litevl.engine.precision import Precision, computing
from litevl.model.config import LiteVLConfig
from litevl.model.litevl import LiteVLForRetrieval, TextFeatures, VideoFeatures, similarities

BATCH_SIZE = 16  # clips at a time
NUM_TIMED = 16  # of a caption's candidates: BLIP's way takes half a minute for 64 on two cores


@dataclass(frozen=True)
class Encoded:
    """Clips and captions as the model sees them, and what peers start from."""

    model: LiteVLForRetrieval
    tokens: Tensor  # (G, T, 1 + N, D)
    video: VideoFeatures
    text: TextFeatures
    similarity: Tensor  # (Q, G)


@torch.inference_mode()
def gallery_of(
    config: LiteVLConfig, num_clips: int, num_captions: int, setting: Setting
) -> Encoded:
    """A gallery in which two encoded clips stand for all: no time depends on what they show."""
    model = random_model(config, setting.device)
    frames = random_frames(config, 2, setting.device)
    words = random_captions(config, num_captions, NUM_WORDS, setting.device)
    index = torch.arange(num_clips, device=setting.device) % 2
    with computing("fp32", setting.device):
        tokens = model.visual_encoder(frames)[index]
        video = model.encode_video(frames).select(index)
        text = model.encode_text(words.input_ids, words.attention_mask)
    return Encoded(model, tokens, video, text, similarities(text.embedding, video.embedding))


def ways_to_rerank(
    gallery: Encoded, k: int, num_clips: int, precision: Precision, device: torch.device
) -> list[Way]:
    """Ours clip by clip, over the first `num_clips` with all captions; peers over one caption.

    Each takes a slice, in the order of its own, of an evaluation in which every caption has k
    candidates and every clip is one for as many captions as there are; peers only NUM_TIMED of a
    caption's candidates, whose pairs cost no more than those of all k.
    """
    num_timed = min(k, NUM_TIMED)
    some = gallery.video.select(torch.arange(num_clips, device=device))
    num_captions = len(gallery.text.cls)

    def ours() -> object:
        with computing(precision, device):
            return score_gallery(gallery.model, some, gallery.text, k, "itm+itc", BATCH_SIZE)

    def by_caption(peer: Callable[..., Tensor]) -> Callable[[], object]:
        def call() -> object:
            with torch.inference_mode(), computing(precision, device):
                of_caption = gallery.similarity, gallery.text, num_timed, [0]
                return peer(gallery.model, gallery.tokens, *of_caption)

        return call

    return [
        Way("ours", ours, num_captions * num_clips),
        Way("straightforward", by_caption(straightforward_reranked), num_timed),
        Way("blip", by_caption(blip_reranked), num_timed),
    ]


def reranking(setting: Setting) -> Measured:
    """Pairs per second of the cross-encoder: ours, pair by pair, and BLIP's way."""
    k = 8 if setting.quick else 64
    gallery = gallery_of(setting.config, k, k, setting)
    rows, figures = [], []
    for precision in PRECISIONS:
        conditions: Conditions = {
            "model": setting.config_name,
            "precision": precision,
            "frames": setting.config.num_frames,
            "size_px": setting.config.image_size_px,
            "words": NUM_WORDS,
            "k": k,
            "captions_per_clip": k,
        }
        row = None
        if setting.can(precision):
            ways = ways_to_rerank(gallery, k, 2, precision, setting.device)
            row = measured_row(precision, "pairs", conditions, ways, setting.effort, setting.device)
            rows.append(row)
        for peer, at_least in (("blip", 6.0), ("straightforward", 1.6)):
            claim = f"Re-ranking, pairs per second against the {peer} way, {precision}"
            name = f"re-ranking-vs-{peer}-{precision}"
            figures.append(ratio_figure(name, claim, at_least, row, peer))
    figures.append(
        Figure(
            name="re-ranking-same-scores",
            claim="Largest difference between our scores and those computed pair by pair, fp32",
            unit="",
            at_most=1e-4,
            value=score_difference(gallery, setting.device),
        )
    )
    return rows, figures


@torch.inference_mode()
def score_difference(gallery: Encoded, device: torch.device, num_pairs: int = 2) -> float:
    """Largest difference of scores, ours to the straightforward way's, over a few pairs."""
    index = torch.arange(num_pairs, device=device)
    with computing("fp32", device):
        some, text = gallery.video.select(index), gallery.text.select(index)
        ours = score_gallery(gallery.model, some, text, num_pairs, "itm+itc", BATCH_SIZE)
        theirs = straightforward_reranked(
            gallery.model,
            gallery.tokens[:num_pairs],
            gallery.similarity[:num_pairs, :num_pairs],
            text,
            num_pairs,
            range(num_pairs),
        )
    return float((torch.as_tensor(ours.text_to_video) - theirs.cpu()).abs().max())


def growth(setting: Setting) -> Measured:
    """How the cost of a pair grows with frames and k, and that of a search with the gallery."""
    config = setting.config if setting.quick else SMALL
    effort = replace(setting.effort, seconds=3)
    rows = []

    def row(name: str, config: LiteVLConfig, k: int, num_clips: int) -> Row:
        gallery = gallery_of(config, num_clips, k, setting)
        ways = ways_to_rerank(gallery, k, min(4, num_clips), "fp32", setting.device)
        conditions: Conditions = {
            "model": "tiny" if setting.quick else "small",
            "precision": "fp32",
            "frames": config.num_frames,
            "patches": config.num_patches,
            "words": NUM_WORDS,
            "k": k,
        }
        return measured_row(name, "pairs", conditions, ways, effort, setting.device)

    for num_frames in (2, 4) if setting.quick else (2, 4, 8, 16, 32):
        rows.append(row(f"frames/{num_frames}", replace(config, num_frames=num_frames), 16, 16))
    for k in (2, 4) if setting.quick else (4, 16, 64):
        rows.append(row(f"k/{k}", config, k, k))
    for num_clips in (8, 16) if setting.quick else (64, 256, 1024):
        rows.append(search_row(config, num_clips, setting))
    return rows, []


def search_row(config: LiteVLConfig, num_clips: int, setting: Setting) -> Row:
    """Captions ranked and re-ranked over a gallery whose clips differ, each caption's 16 best."""
    num_captions, k = 32, min(16, num_clips)
    gallery = gallery_of(config, num_clips, num_captions, setting)
    spread = torch.randn(gallery.video.embedding.shape, generator=torch.Generator().manual_seed(4))
    embedding = F.normalize(spread.to(setting.device), dim=-1)
    video = replace(gallery.video, embedding=embedding)

    def search() -> object:
        with computing("fp32", setting.device):
            return score_captions(gallery.model, video, gallery.text, k, "itm+itc", BATCH_SIZE)

    conditions: Conditions = {
        "clips": num_clips,
        "k": k,
        "frames": config.num_frames,
        "precision": "fp32",
    }
    effort = replace(setting.effort, seconds=3)
    ways = [Way("ours", search, num_captions)]
    return measured_row(
        f"gallery/{num_clips}", "captions", conditions, ways, effort, setting.device
    )
