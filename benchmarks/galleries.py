"""What a large gallery costs: memory of re-ranking, time and memory of choosing candidates.

Legend: G clips, Q captions, E embedding width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Measured, Way, measured_row, peak_memory_mib, quartiles
from benchmarks.worlds import NUM_WORDS, TINY, Setting, random_captions, random_frames, random_model
from litevl.benchmark_record import Conditions, Contender, Figure, Row
from litevl.engine.gallery import search, stored, top_k
from litevl.model.litevl import LiteVLForRetrieval, VideoFeatures, similarities

NUM_CAPTIONS, K, PAIRS_AT_ONCE = 64, 16, 64
NUM_QUERIES, NUM_NEAREST, EMBED_WIDTH = 1_000, 128, 256
CLIPS_ENCODED_AT_ONCE = 10  # few, so that the peak is not theirs
CPU = torch.device("cpu")


def galleries(setting: Setting) -> Measured:
    """Re-ranking from features on the disk, and the nearest of many embeddings; on the CPU."""
    few, many = (50, 500) if setting.quick else (1_000, 10_000)
    reranked = [reranked_row(num_clips, setting) for num_clips in (few, many)]
    asked = 500 if setting.quick else 100_000
    nearest = [nearest_row(num_clips, setting) for num_clips in (asked, 2 * asked)]
    figures = [
        Figure(
            name="re-ranking-memory",
            claim=f"Peak memory of re-ranking, {many:,} clips against {few:,}",
            unit="times",
            at_most=1.05,
            value=peak_of(reranked[1]) / peak_of(reranked[0]),
        ),
        Figure(
            name="nearest-seconds",
            claim=f"The {NUM_NEAREST} nearest of {asked:,} embeddings for {NUM_QUERIES:,} captions",
            unit="s",
            at_most=5.0,
            value=nearest[0].contender("ours").seconds.median,
        ),
        Figure(
            name="nearest-memory",
            claim=f"Peak memory of it beyond the embeddings, {2 * asked:,} clips against {asked:,}",
            unit="times",
            at_most=1.05,
            value=(peak_of(nearest[1]) - embeddings_mib(2 * asked))
            / (peak_of(nearest[0]) - embeddings_mib(asked)),
        ),
    ]
    return [*reranked, *nearest], figures


def peak_of(row: Row) -> float:
    """Peak memory of ours, in MiB."""
    peak = row.contender("ours").peak_memory_mib
    assert peak is not None
    return peak


def embeddings_mib(num_clips: int) -> float:
    """What the clips' embeddings take."""
    return num_clips * EMBED_WIDTH * 4 / 2**20


def reranked_row(num_clips: int, setting: Setting) -> Row:
    """A fresh process that encodes a gallery to the disk and re-ranks it."""
    peak, seconds = peak_memory_mib(rerank_gallery, num_clips, setting.quick)
    conditions: Conditions = {
        "clips": num_clips,
        "k": K,
        "model": "tiny" if setting.quick else "mini-BLIP's",
        "features": "on the disk",
    }
    ours = Contender(
        name="ours", seconds=quartiles([seconds]), items=NUM_CAPTIONS, peak_memory_mib=peak
    )
    name = f"memory/{num_clips}"
    return Row(name=name, item="captions", rounds=1, conditions=conditions, contenders=(ours,))


def rerank_gallery(num_clips: int, quick: bool) -> float:
    """Encode a gallery and re-rank it; returns the seconds that re-ranking took."""
    mini = LiteVLForRetrieval.from_blip("mini-blip").eval()
    model = random_model(TINY, CPU) if quick else mini
    words = random_captions(model.config, NUM_CAPTIONS, NUM_WORDS, CPU)
    with torch.inference_mode(), TemporaryDirectory(prefix="litevl-benchmark-") as folder:
        text = model.encode_text(words.input_ids, words.attention_mask)
        gallery = stored(encoded(model, num_clips), num_clips, Path(folder) / "gallery.features")
        started = time.perf_counter()
        search(model, gallery, text, K, "itm+itc", PAIRS_AT_ONCE)
        return time.perf_counter() - started


def encoded(model: LiteVLForRetrieval, num_clips: int) -> Iterator[tuple[range, VideoFeatures]]:
    """Features of as many clips as are encoded at once, again and again with other embeddings."""
    some = model.encode_video(random_frames(model.config, CLIPS_ENCODED_AT_ONCE, CPU))
    generator = torch.Generator().manual_seed(5)
    for start in range(0, num_clips, CLIPS_ENCODED_AT_ONCE):
        rows = range(start, min(start + CLIPS_ENCODED_AT_ONCE, num_clips))
        noise = torch.randn(some.embedding.shape, generator=generator)
        shown = VideoFeatures(some.tokens, F.normalize(noise, dim=-1))
        yield rows, shown.select(slice(0, len(rows)))


def nearest_row(num_clips: int, setting: Setting) -> Row:
    """Candidates chosen block by block, beside all similarities at once."""
    captions, clips = unit_vectors(NUM_QUERIES, 0), unit_vectors(num_clips, 1)
    ways = [
        Way("ours", lambda: top_k(captions, clips, NUM_NEAREST), NUM_QUERIES),
        Way("all-at-once", lambda: all_at_once(captions, clips), NUM_QUERIES),
    ]
    conditions: Conditions = {"clips": num_clips, "k": NUM_NEAREST, "width": EMBED_WIDTH}
    row = measured_row(f"nearest/{num_clips}", "captions", conditions, ways, setting.effort, CPU)
    contenders = tuple(
        each.model_copy(update={"peak_memory_mib": peak_memory_mib(WAYS[each.name], num_clips)[0]})
        for each in row.contenders
    )
    return row.model_copy(update={"contenders": contenders})


@torch.inference_mode()
def all_at_once(captions: Tensor, clips: Tensor) -> Tensor:
    """The nearest by the whole matrix of similarities: (Q, k)."""
    return similarities(captions, clips).topk(NUM_NEAREST, dim=1).indices


def nearest_by_blocks(num_clips: int) -> None:
    """Ours in a process that does nothing else."""
    top_k(unit_vectors(NUM_QUERIES, 0), unit_vectors(num_clips, 1), NUM_NEAREST)


def nearest_at_once(num_clips: int) -> None:
    """The other in a process that does nothing else."""
    all_at_once(unit_vectors(NUM_QUERIES, 0), unit_vectors(num_clips, 1))


WAYS = {"ours": nearest_by_blocks, "all-at-once": nearest_at_once}


def unit_vectors(count: int, seed: int) -> Tensor:
    """Random directions: (count, E)."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.empty(count, EMBED_WIDTH)
    for rows in torch.split(vectors, 10_000):  # in place: the peak is to be the search's
        rows.copy_(F.normalize(torch.randn(rows.shape, generator=generator), dim=-1))
    return vectors
