"""Clips, captions and questions as tensors: one split of a data set, ready for the model.

Legend: B clips in a batch, T frames, S pixels, W words, Q questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from litevl.data.annotations import Clip, Question
from litevl.data.dataset import Store, normalise
from litevl.data.samplers import Indices, sampler_of
from litevl.model.tokenizer import Tokenizer, Tokens


@dataclass(frozen=True)
class ClipSet:
    """The clips of one split, their frames, and what turns text into words."""

    clips: tuple[Clip, ...]
    store: Store
    tokenizer: Tokenizer
    num_frames: int
    max_tokens: int
    twin_of: dict[str, str]  # clip id -> id of the clip that shows it backwards, where known
    answers: tuple[str, ...] = ()  # the declared answer list
    max_answer_tokens: int = 0
    choices_per_segment: int | None = None  # of a random sampler

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clips)

    def frames(
        self,
        index: Sequence[int] | npt.NDArray[np.int64],
        sampler: str,
        rng: np.random.Generator,
        shuffle: bool = False,
        own: Sequence[int] | None = None,
    ) -> Tensor:
        """The clips' sampled frames, normalised: (B, T, 3, S, S). Arguments as for `pictures`."""
        return normalise(self.pictures(index, sampler, rng, shuffle, own))

    def pictures(
        self,
        index: Sequence[int] | npt.NDArray[np.int64],
        sampler: str,
        rng: np.random.Generator,
        shuffle: bool = False,
        own: Sequence[int] | None = None,
    ) -> Tensor:
        """The clips' sampled frames: uint8 (B, T, S, S, 3). shuffle: in random order.

        own: places in `index` of the clips to load, None for all; draws are made for all of them.
        """
        places = self.places(index, sampler, rng, shuffle)
        chosen = range(len(index)) if own is None else own
        asked = [(int(index[row]), places[row]) for row in chosen]
        return torch.from_numpy(self.store.pictures(asked))

    def places(
        self,
        index: Sequence[int] | npt.NDArray[np.int64],
        sampler: str,
        rng: np.random.Generator,
        shuffle: bool = False,
    ) -> list[Indices]:
        """Which frames `pictures` loads; the same draws."""
        sample, drawn = sampler_of(sampler, self.choices_per_segment), []
        for clip in index:
            places = sample(self.store.num_frames(int(clip)), self.num_frames, rng)
            drawn.append(rng.permutation(places) if shuffle else places)
        return drawn

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Captions or questions as words (B, W)."""
        return self.tokenizer(list(texts), self.max_tokens)

    def answer_tokens(self, answers: Sequence[str]) -> Tokens:
        """Answers as words (B, W)."""
        return self.tokenizer(list(answers), self.max_answer_tokens)

    def questions(self) -> list[tuple[int, Question]]:
        """Every question with the index of its clip, clip by clip."""
        return [
            (index, question)
            for index, clip in enumerate(self.clips)
            for question in clip.questions
        ]

    def needs_order(self) -> npt.NDArray[np.bool_] | None:
        """Whether only the order of frames answers a question: (Q,); None without any twins.

        It does where the clip that shows the same frames backwards is asked the same and has
        another answer.
        """
        of_clip = {
            clip.id: {question.text: question.answer for question in clip.questions}
            for clip in self.clips
        }
        if not any(self.twin_of.get(clip_id) in of_clip for clip_id in of_clip):
            return None
        found = []
        for index, question in self.questions():
            twin = of_clip.get(self.twin_of.get(self.clips[index].id, ""), {})
            found.append(twin.get(question.text, question.answer) != question.answer)
        return np.array(found, dtype=np.bool_)

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
