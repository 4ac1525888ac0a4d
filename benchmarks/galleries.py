"""What a large gallery costs: memory of re-ranking, and time of choosing candidates.

Legend: G clips, Q captions, S tokens of a clip, D width, E embedding width.
"""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F

from benchmarks.harness import Measured, peak_memory_mib, quartiles
from benchmarks.worlds import (
    NUM_WORDS,
    TINY,
    Setting,
    random_captions,
    random_frames,
    random_model,
)
from litevl.benchmark_record import Conditions, Contender, Figure, Row
from litevl.engine.evaluate import score_captions
from litevl.model.litevl import LiteVLForRetrieval, VideoFeatures

NUM_CAPTIONS, K, BATCH_SIZE = 64, 16, 16
CPU = torch.device("cpu")


def galleries(setting: Setting) -> Measured:
    """Peak memory of re-ranking, each gallery in a fresh process on the CPU."""
    sizes = (50, 500) if setting.quick else (1_000, 10_000)
    rows, peaks = [], []
    for num_clips in sizes:
        peak, seconds = peak_memory_mib(rerank_gallery, num_clips, setting.quick)
        peaks.append(peak)
        contender = Contender(
            name="ours", seconds=quartiles([seconds]), items=NUM_CAPTIONS, peak_memory_mib=peak
        )
        conditions: Conditions = {
            "clips": num_clips,
            "k": K,
            "model": "tiny" if setting.quick else "mini-BLIP's",
        }
        rows.append(
            Row(
                name=f"memory/{num_clips}",
                item="captions",
                rounds=1,
                conditions=conditions,
                contenders=(contender,),
            )
        )
    figures = [
        Figure(
            name="re-ranking-memory",
            claim=f"Peak memory of re-ranking, {sizes[1]:,} clips against {sizes[0]:,}",
            unit="times",
            at_most=1.05,
            value=peaks[1] / peaks[0],
        ),
        Figure(
            name="top-128-of-100000",
            claim="The 128 nearest of 100,000 embeddings for 1,000 queries",
            unit="s",
            at_most=5.0,
            value=None,
            why_not="nothing chooses candidates block by block yet",
        ),
    ]
    return rows, figures


def rerank_gallery(num_clips: int, quick: bool) -> float:
    """Re-rank a gallery of features that were made beforehand; returns the seconds it took."""
    mini = LiteVLForRetrieval.from_blip("mini-blip").eval()
    model = random_model(TINY, CPU) if quick else mini
    words = random_captions(model.config, NUM_CAPTIONS, NUM_WORDS, CPU)
    with torch.inference_mode():
        text = model.encode_text(words.input_ids, words.attention_mask)
        video = spread_gallery(model, num_clips)
        started = time.perf_counter()
        score_captions(model, video, text, K, "itm+itc", BATCH_SIZE)
        return time.perf_counter() - started


def spread_gallery(model: LiteVLForRetrieval, num_clips: int) -> VideoFeatures:
    """Features of two clips that stand for all, each with an embedding of its own."""
    two = model.encode_video(random_frames(model.config, 2, CPU))
    generator = torch.Generator().manual_seed(5)
    embedding = torch.randn(num_clips, model.config.embed_width, generator=generator)
    tokens = two.tokens[torch.arange(num_clips) % 2]
    return VideoFeatures(tokens, F.normalize(embedding, dim=-1))
