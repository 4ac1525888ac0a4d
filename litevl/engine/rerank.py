"""The cross-encoder on pairs of captions and clips, clip by clip.

Legend: Q captions, G clips, P pairs.

N captions with k candidates each are N * k pairs, nearly all of the cost of evaluation, and most of
a pair's cost are keys and values of the clip's tokens. These are computed once for each clip, for
all captions that hold it among their candidates. What is in memory at a time depends on the pairs
that are scored together and not on the gallery.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from litevl.engine.distributed import ALONE, Group, shared
from litevl.errors import RunError
from litevl.model.litevl import LiteVLForRetrieval, TextFeatures, VideoFeatures
from litevl.whole import write_bytes

ALONE_FROM = 8  # captions; clips that meet fewer share a pass
SECONDS_BETWEEN_SAVES = 60.0


class Gallery(Protocol):
    """Clips to rank: `VideoFeatures`, or features on the disk."""

    @property
    def embedding(self) -> Tensor:
        """Of unit length: (G, E)."""

    def select(self, index: Tensor | slice) -> VideoFeatures:
        """The clips at the given indices, in that order."""


@torch.inference_mode()
def pair_logits(
    model: LiteVLForRetrieval,
    gallery: Gallery,
    text: TextFeatures,
    text_index: Tensor,
    clip_index: Tensor,
    at_once: int,
    title: str | None = None,
    group: Group = ALONE,
    folder: Path | None = None,
) -> Tensor:
    """The cross-encoder's logit for a match, for pairs of a caption and a clip: (P,) float32.

    text_index, clip_index: (P,), in any order. at_once: pairs that share a pass; bounds the memory.
    The group's processes take the passes in turn. folder: where what is done is kept once a
    minute; a later call with the very same model, features and pairs continues from there, whatever
    other calls there were. RunError where a logit is not finite.
    """
    device = text.cls.device
    order = clip_index.cpu().argsort(stable=True)
    clips, counts = torch.unique(clip_index.cpu(), return_counts=True)
    starts = counts.cumsum(0) - counts
    logits = torch.zeros(len(order), device=device)
    done = progress(folder, model, gallery, text, (text_index, clip_index), group)
    hidden = title is None or not group.is_main
    with tqdm(total=len(order), desc=title, unit="pair", leave=False, disable=hidden) as bar:
        for number, some in enumerate(passes(counts.tolist(), at_once)):
            first, last = int(starts[some[0]]), int(starts[some[-1]] + counts[some[-1]])
            rows = order[first:last]
            if group.does(number) and not done.fill(logits, rows):
                captions = text.select(text_index[rows.to(text_index.device)].to(device))
                if len(some) == 1:
                    clip = int(clips[some[0]])
                    found = model.match_one(
                        gallery.select(slice(clip, clip + 1)), captions, at_once
                    )
                else:
                    row = torch.repeat_interleave(torch.arange(len(some)), counts[some])
                    shown = captions.cut(int(captions.attention_mask.sum(dim=1).max()))
                    found = model.match(gallery.select(clips[some]), shown, row.to(device))
                logits[rows.to(device)] = found[:, 1].float()
                done.add(logits, rows)
            bar.update(len(rows))
    logits = group.sum(logits)  # each is one process's, 0 in the others
    expect_finite("matching logits", logits)
    return logits


def expect_finite(what: str, values: Tensor) -> None:
    """RunError where weights that diverged have made NaN, which would rank first.

    values: the same in all processes of a group.
    """
    if not values.isfinite().all():
        error = RunError(
            f"{what} hold NaN or infinity: training has diverged\n"
            "  Lower train.learning_rate or train.temporal_learning_rate, or use precision fp32."
        )
        raise shared(error)


def passes(counts: list[int], at_once: int) -> Iterator[list[int]]:
    """Which clips share a pass, given how many captions each meets."""
    together: list[int] = []
    for clip, count in enumerate(counts):
        is_full = sum(counts[each] for each in together) + count > at_once
        if together and (is_full or count >= ALONE_FROM):
            yield together
            together = []
        if count >= ALONE_FROM:
            yield [clip]
        else:
            together.append(clip)
    if together:
        yield together


class Progress:
    """What is done of the pairs, kept on the disk; without a file it remembers nothing."""

    def __init__(self, file: Path | None, num_pairs: int) -> None:
        """file: its name tells all that decides the logits; a damaged one is written anew."""
        self._file, self._last = file, time.monotonic()
        self._values = np.full(num_pairs, np.nan, np.float32)
        if file is not None and file.is_file():
            content = file.read_bytes()
            if len(content) == self._values.nbytes:
                self._values = np.frombuffer(content, np.float32).copy()

    def fill(self, logits: Tensor, rows: Tensor) -> bool:
        """Put in what is known of some pairs; False where not all of them are."""
        values = self._values[rows.numpy()]
        if self._file is None or np.isnan(values).any():
            return False
        logits[rows.to(logits.device)] = torch.from_numpy(values).to(logits.device)
        return True

    def add(self, logits: Tensor, rows: Tensor) -> None:
        """Note some pairs' logits; once a minute, all that is known goes to the disk."""
        if self._file is None:
            return
        self._values[rows.numpy()] = logits[rows.to(logits.device)].cpu().numpy()
        if time.monotonic() - self._last >= SECONDS_BETWEEN_SAVES:
            write_bytes(self._file, self._values.tobytes())
            self._last = time.monotonic()


def progress(
    folder: Path | None,
    model: LiteVLForRetrieval,
    gallery: Gallery,
    text: TextFeatures,
    pairs: Sequence[Tensor],
    group: Group,
) -> Progress:
    """What this process has done of the pairs before; each has a file of its own in the folder."""
    num_pairs = len(pairs[0])
    if folder is None:
        return Progress(None, num_pairs)
    decides = [*model.parameters(), gallery.embedding, text.cls, text.input_ids, *pairs]
    file = folder / f"rerank-{digest(decides)[:16]}-{group.rank}-{group.size}.part"
    return Progress(file, num_pairs)


def digest(tensors: Iterable[Tensor]) -> str:
    """A hash of tensors' bytes."""
    key = hashlib.sha256()
    for tensor in tensors:
        key.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return key.hexdigest()
