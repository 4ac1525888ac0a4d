"""Fine-tuning for video question answering, and answering a split's questions.

Legend: B questions and C clips in a batch, T frames, Q questions of a split, K answers kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from litevl.data.annotations import Question
from litevl.data.dataset import epoch_batches, normalise
from litevl.engine.clips import ClipSet
from litevl.engine.distributed import ALONE, Group, rows_at_once
from litevl.engine.features import parts_of
from litevl.engine.precision import computing, sendable
from litevl.model.question_answering import LiteVLForQuestionAnswering, answer_tokens
from litevl.model.tokenizer import Tokens
from litevl.spec import Precision, Resolved

PAIRS_PER_QUESTION = 4  # a pair of question and answer costs less memory than a clip


@dataclass(frozen=True)
class Batch:
    """Questions and the clips they are about, each clip once.

    Where several processes share a batch, all but `ids` is this process's part of it.
    """

    frames: Tensor  # uint8 (C, T, S, S, 3)
    clip_of_question: Tensor  # (B,) from 0 to C - 1
    questions: Tokens
    answers: tuple[str, ...]  # as annotated: only training turns them into words
    ids: tuple[str, ...]  # of all questions of the batch

    def select(self, rows: range) -> Batch:
        """Some of the questions, with the clips that they are about."""
        part = slice(rows.start, rows.stop)
        clips, clip_of_question = torch.unique(self.clip_of_question[part], return_inverse=True)
        return Batch(
            self.frames[clips.to(self.frames.device)],
            clip_of_question,
            self.questions.select(torch.arange(rows.start, rows.stop)),
            self.answers[part],
            self.ids,
        )


@dataclass(frozen=True)
class Answers:
    """The listed answers that the model likes best for each question, best first."""

    top: npt.NDArray[np.int64]  # (Q, K) places in the answer list
    scores: npt.NDArray[np.float64]  # (Q, K) log-likelihoods


def gather(
    clips: ClipSet,
    asked: Sequence[tuple[int, Question]],
    sampler: str,
    rng: np.random.Generator,
    shuffle: bool = False,
    own: range | None = None,
) -> Batch:
    """Questions as a batch. rng: draws frames for a random sampler, and the order to shuffle.

    own: the questions that this process works on, None for all; draws are made for all of them.
    """
    index, clip_of_question = np.unique([clip for clip, _ in asked], return_inverse=True)
    rows = range(len(asked)) if own is None else own
    needed, clip_of_own = np.unique(clip_of_question[rows.start : rows.stop], return_inverse=True)
    questions = [question for _, question in asked[rows.start : rows.stop]]
    return Batch(
        clips.pictures(index, sampler, rng, shuffle, own=needed.tolist()),
        torch.from_numpy(clip_of_own),
        clips.tokens([question.text for question in questions]),
        tuple(question.answer for question in questions),
        tuple(question.id for _, question in asked),
    )


def answer_questions(
    model: LiteVLForQuestionAnswering,
    clips: ClipSet,
    settings: Resolved,
    rng: np.random.Generator,
    precision: Precision,
    shuffle: bool = False,
    title: str | None = None,
    group: Group = ALONE,
) -> Answers:
    """Rank the declared answers for every question of the split, as the spec says.

    shuffle: each clip's frames in a random order, to see what the model makes of their order. The
    group's processes take the batches in turn and tell each other what came out.
    """
    size, sampler = settings.evaluate.batch_size, settings.frames.eval_sampler
    device = next(model.parameters()).device
    listed = answer_tokens(list(clips.answers), clips.tokenizer, clips.max_answer_tokens).to(device)
    k = min(settings.evaluate.rerank_k, len(clips.answers))
    asked = clips.questions()
    was_training = model.training
    model.eval()
    top, scores = {}, {}
    hidden = title is None or not group.is_main
    starts = tqdm(range(0, len(asked), size), desc=title, leave=False, disable=hidden)
    with computing(precision, device):
        for number, start in enumerate(starts):
            rows = range(start, min(start + size, len(asked)))
            some = asked[rows.start : rows.stop]
            if not group.does(number):
                index = np.unique([clip for clip, _ in some])
                clips.places(index, sampler, rng, shuffle)  # the same draws as who does it
                continue
            batch = gather(clips, some, sampler, rng, shuffle)
            ranking = model.rank_answers(
                normalise(batch.frames.to(device)),
                batch.questions.to(device),
                listed,
                k,
                pairs_at_once=size * PAIRS_PER_QUESTION,
                clip_of_question=batch.clip_of_question.to(device),
            )
            top[rows], scores[rows] = ranking.indices, ranking.scores.double()
    model.train(was_training)
    found = (group.assemble(parts, len(asked)).cpu().numpy() for parts in (top, scores))
    return Answers(*found)


def is_right(answers: Answers, clips: ClipSet) -> npt.NDArray[np.float64]:
    """1 for each question whose first answer is the right one, else 0: (Q,)."""
    gold = [question.answer for _, question in clips.questions()]
    chosen = [clips.answers[place] for place in answers.top[:, 0]]
    return np.array([float(a == b) for a, b in zip(gold, chosen, strict=True)])


class AnsweringObjective:
    """What `train` needs to know of question answering; see `litevl.engine.train.Objective`."""

    best_by: ClassVar[str] = "accuracy"

    def __init__(
        self,
        model: LiteVLForQuestionAnswering,
        settings: Resolved,
        train_clips: ClipSet,
        validation_clips: ClipSet,
        seed: int,
        group: Group = ALONE,
    ) -> None:
        self.model = model
        self.settings, self.seed, self.group = settings, seed, group
        self.clips, self.validation_clips = train_clips, validation_clips
        self.asked = train_clips.questions()
        self.device = next(model.parameters()).device
        options = settings.train
        self.at_once = rows_at_once(options.batch_size, options.device_batch_size, group)

    def parts(self) -> dict[str, nn.Module]:
        """What a checkpoint holds besides the optimizer."""
        return {"model": self.model}

    def num_batches(self, epoch: int) -> int:
        """Steps of an epoch."""
        return len(self._indices(np.random.default_rng([self.seed, epoch])))

    def _indices(self, rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
        options = self.settings.train
        sources = [self.clips.clips[clip].source for clip, _ in self.asked]
        return epoch_batches(sources, options.batch_size, options.group_by_source, rng)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the given one on: every question once, with random frames.

        Every process draws for the whole batch and loads the clips of its own share.
        """
        rng, sampler = np.random.default_rng([self.seed, epoch]), self.settings.frames.train_sampler
        for number, index in enumerate(self._indices(rng)):
            asked = [self.asked[int(place)] for place in index]
            if number < first:
                clips = np.unique([clip for clip, _ in asked])
                self.clips.places(clips, sampler, rng)  # the same draws as the run before
                continue
            own = self.group.share(len(index)) or range(1)
            batch = gather(self.clips, asked, sampler, rng, own=own)
            yield replace(batch, frames=sendable(batch.frames, self.device))

    def backward(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """Add the gradients of this process's share of the answers' loss; return that share."""
        total = torch.zeros((), device=self.device)
        batch = replace(batch, frames=batch.frames.to(self.device, non_blocking=True))
        for rows in parts_of(range(len(self.group.share(len(batch.ids)))), self.at_once):
            part = batch.select(rows)
            with computing(self.settings.train.precision, self.device):
                loss = self.model.loss(
                    normalise(part.frames),
                    part.questions.to(self.device),
                    self.clips.answer_tokens(part.answers).to(self.device),
                    clip_of_question=part.clip_of_question.to(self.device),
                )
                loss = loss * (len(rows) / len(batch.ids))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return {"answer": total}

    def after_step(self) -> None:
        """Nothing follows."""

    def names(self, batch: Batch) -> list[str]:
        """The questions of a batch, for messages."""
        return [f"question {number}" for number in batch.ids]

    def validate(self) -> dict[str, float]:
        """Accuracy, and that of the questions about order, in percent; empty without questions."""
        clips = self.validation_clips
        if not clips.questions():
            return {}
        rng = np.random.default_rng(self.seed)
        answers = answer_questions(
            self.model,
            clips,
            self.settings,
            rng,
            self.settings.train.precision,
            group=self.group,
        )
        right, needs_order = is_right(answers, clips), clips.needs_order()
        point = {self.best_by: 100 * float(right.mean())}
        if needs_order is not None and needs_order.any():
            point["order_accuracy"] = 100 * float(right[needs_order].mean())
        return point
