"""Clips and captions as tensors: one split of a data set, ready for the model.

Legend: B clips in a batch, T frames, S pixels, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from litevl.data.annotations import Clip
from litevl.data.dataset import FrameStore, normalise
from litevl.data.video import SAMPLERS
from litevl.model.tokenizer import Tokenizer, Tokens


@dataclass(frozen=True)
class ClipSet:
    """The clips of one split, their frames, and what turns captions into words."""

    clips: tuple[Clip, ...]
    store: FrameStore
    tokenizer: Tokenizer
    num_frames: int
    max_tokens: int
    twin_of: dict[str, str]  # clip id -> id of the clip that shows it backwards, where known

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clips)

    def frames(
        self,
        index: Sequence[int] | npt.NDArray[np.int64],
        sampler: str,
        rng: np.random.Generator,
        shuffle: bool = False,
    ) -> Tensor:
        """The clips' sampled frames, normalised: (B, T, 3, S, S). shuffle: in random order."""
        sample = SAMPLERS[sampler]
        pictures = []
        for clip in index:
            places = sample(self.store.num_frames(int(clip)), self.num_frames, rng)
            if shuffle:
                places = rng.permutation(places)
            pictures.append(self.store.frames(int(clip), places))
        return normalise(np.stack(pictures))

    def tokens(self, captions: Sequence[str]) -> Tokens:
        """Captions as words (B, W)."""
        return self.tokenizer(list(captions), self.max_tokens)

    def twins(self) -> tuple[Tensor, Tensor]:
        """Indices of the clips whose reversed twin is here too, and of those twins: (P,), (P,)."""
        place = {clip.id: number for number, clip in enumerate(self.clips)}
        pairs = [
            (place[clip.id], place[self.twin_of[clip.id]])
            for clip in self.clips
            if self.twin_of.get(clip.id) in place
        ]
        table = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def clusters(self) -> npt.NDArray[np.int64]:
        """A number for each clip's source video; clips of one source are not independent."""
        sources = {
            source: n for n, source in enumerate(dict.fromkeys(c.source for c in self.clips))
        }
        return np.array([sources[clip.source] for clip in self.clips], dtype=np.int64)
