"""Galleries larger than memory: features on the disk, and the best clips found block by block.

Legend: Q captions, G clips, k clips kept for each caption, S tokens of a clip, D width, E embedding
width.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from litevl.engine.checkpoint import read_checkpoint, write_checkpoint
from litevl.engine.distributed import ALONE, Group
from litevl.engine.rerank import Gallery, pair_logits
from litevl.errors import RunError
from litevl.model.litevl import LiteVLForRetrieval, TextFeatures, VideoFeatures, similarities

Score = Literal["itm+itc", "itm-only", "itc-only"]
BLOCK_CLIPS = 8192  # whose similarities to all captions are in memory at a time
HALF = torch.float16
BYTES = HALF.itemsize


class StoredFeatures:
    """Features of which only the embeddings are in memory; the tokens are read from a file.

    The file holds them in half precision, one clip after the other.
    """

    def __init__(self, file: Path, embedding: Tensor, num_tokens: int, width: int) -> None:
        """embedding: (G, E). num_tokens, width: S and D of each clip's tokens."""
        self.embedding = embedding
        self._file, self._shape = file, (num_tokens, width)

    def select(self, index: Tensor | slice) -> VideoFeatures:
        """The clips at the given indices, in that order; their tokens in float32."""
        rows = range(len(self.embedding))[index] if isinstance(index, slice) else index.tolist()
        size = self._shape[0] * self._shape[1] * BYTES
        content = bytearray(len(rows) * size)
        with self._file.open("rb") as file:
            for place, row in enumerate(rows):
                file.seek(row * size)
                if file.readinto(memoryview(content)[place * size : (place + 1) * size]) != size:
                    raise RunError(
                        f"{self._file}: ends within the features of clip {row} of "
                        f"{len(self.embedding)}\n  Delete it and the .pt beside it; the same "
                        "command makes them again."
                    )
        if not rows:
            tokens = torch.zeros(0, *self._shape, dtype=HALF)
        else:
            tokens = torch.frombuffer(content, dtype=HALF).view(-1, *self._shape)
        return VideoFeatures(tokens.to(self.embedding.device).float(), self.embedding[index])


def stored(
    encoded: Iterable[tuple[range, VideoFeatures]], count: int, file: Path, group: Group = ALONE
) -> StoredFeatures:
    """Features in a file, written unless it is there, in memory that does not grow with them.

    encoded: rows of the gallery and their features; each of the group's processes has its own. All
    of them must see the same file. count: rows in all. file: its name tells all that decides the
    features; it counts once its embeddings stand beside it.
    """
    device, beside = group.device, file.with_suffix(".pt")
    known = read_checkpoint(beside, device)
    if known is not None:
        return StoredFeatures(file, known["embedding"], *known["shape"])
    group.on_main(lambda: _create(file))
    embeddings, shape = {}, (0, 0)
    try:
        with file.open("r+b") as out:
            for rows, some in encoded:
                tokens = some.tokens.to("cpu", HALF).contiguous()
                shape = (tokens.shape[1], tokens.shape[2])
                out.seek(rows.start * tokens[0].numel() * BYTES)
                out.write(tokens.numpy().data)
                embeddings[rows] = some.embedding.float()
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise RunError(
            f"{file}: features cannot be written ({error.strerror})\n"
            "  Free some space, choose another --output, or leave evaluate.features out."
        ) from error
    shape = max(group.each(shape))  # a process may have had no rows
    embedding = group.assemble(embeddings, count)
    note = {"embedding": embedding, "shape": shape}
    group.on_main(lambda: write_checkpoint(beside, note))
    return StoredFeatures(file, embedding, *shape)


def _create(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")


@torch.inference_mode()
def top_k(
    captions: Tensor, gallery: Tensor, k: int, block: int = BLOCK_CLIPS
) -> tuple[Tensor, Tensor]:
    """The k clips most similar to each caption, and their similarities, best first: (Q, k) each.

    captions: (Q, E), gallery: (G, E), of unit length. In memory are the similarities to one block
    of clips. Of equal similarities that of the earlier clip is taken.
    """
    k = min(k, len(gallery))
    values = torch.empty(len(captions), 0, device=captions.device)
    places = torch.empty(len(captions), 0, dtype=torch.long, device=captions.device)
    for start in range(0, len(gallery), block):
        similarity = similarities(captions, gallery[start : start + block])  # (Q, block)
        best = earliest_top(similarity, min(k, similarity.shape[1]))
        values = torch.cat([values, best[0]], dim=1)
        places = torch.cat([places, best[1] + start], dim=1)
        order = values.argsort(dim=1, descending=True, stable=True)[:, :k]
        values, places = values.gather(1, order), places.gather(1, order)
    return places, values


def earliest_top(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the k highest of each row, best first; ties go to the lower column.

    similarity: (Q, G). Returns (Q, k), (Q, k). torch.topk takes any of those that are equal.
    """
    columns = similarity.topk(k, dim=1).indices
    lowest = similarity.gather(1, columns).amin(dim=1, keepdim=True)
    is_open = (similarity >= lowest).sum(dim=1) > k  # rows with a choice
    if is_open.any():
        order = similarity[is_open].argsort(dim=1, descending=True, stable=True)
        columns[is_open] = order[:, :k]
    columns = columns.sort(dim=1).values
    values = similarity.gather(1, columns)
    order = values.argsort(dim=1, descending=True, stable=True)
    return values.gather(1, order), columns.gather(1, order)


@dataclass(frozen=True)
class Found:
    """The best clips for each caption, best first."""

    clips: Tensor  # (Q, k), places in the gallery
    scores: Tensor  # (Q, k)


@torch.inference_mode()
def search(
    model: LiteVLForRetrieval,
    gallery: Gallery,
    text: TextFeatures,
    k: int,
    score: Score,
    at_once: int,
    title: str | None = None,
    group: Group = ALONE,
    folder: Path | None = None,
) -> Found:
    """The k clips most similar to each caption, in the order of `score`.

    Neither all scores nor all features are in memory at a time. at_once, group, folder: see
    `pair_logits`.
    """
    clips, total = top_k(text.embedding, gallery.embedding, k)  # (Q, k)
    if score != "itc-only" and clips.numel():
        captions = torch.arange(len(clips), device=clips.device).repeat_interleave(clips.shape[1])
        logits = pair_logits(
            model, gallery, text, captions, clips.flatten(), at_once, title, group, folder
        ).view(clips.shape)
        total = logits + total if score == "itm+itc" else logits
    order = total.argsort(dim=1, descending=True, stable=True)
    return Found(clips.gather(1, order), total.gather(1, order))
