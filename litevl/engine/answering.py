"""Fine-tuning for video question answering, and answering a split's questions.

Legend: B questions and C clips in a batch, T frames, Q questions of a split, K answers kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from litevl.data.annotations import Question
from litevl.data.dataset import epoch_batches
from litevl.engine.clips import ClipSet
from litevl.engine.precision import computing
from litevl.model.question_answering import LiteVLForQuestionAnswering, answer_tokens
from litevl.model.tokenizer import Tokens
from litevl.spec import Precision, Resolved

PAIRS_PER_QUESTION = 4  # a pair of question and answer costs less memory than a clip


@dataclass(frozen=True)
class Batch:
    """Questions and the clips they are about, each clip once."""

    frames: Tensor  # (C, T, 3, S, S)
    clip_of_question: Tensor  # (B,) from 0 to C - 1
    questions: Tokens
    answers: tuple[str, ...]  # as annotated: only training turns them into words
    ids: tuple[str, ...]  # of the questions


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
) -> Batch:
    """Questions as a batch. rng: draws frames for a random sampler, and the order to shuffle."""
    index, clip_of_question = np.unique([clip for clip, _ in asked], return_inverse=True)
    return Batch(
        clips.frames(index, sampler, rng, shuffle),
        torch.from_numpy(clip_of_question),
        clips.tokens([question.text for _, question in asked]),
        tuple(question.answer for _, question in asked),
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
) -> Answers:
    """Rank the declared answers for every question of the split, as the spec says.

    shuffle: each clip's frames in a random order, to see what the model makes of their order.
    """
    size, sampler = settings.evaluate.batch_size, settings.frames.eval_sampler
    device = next(model.parameters()).device
    listed = answer_tokens(list(clips.answers), clips.tokenizer, clips.max_answer_tokens).to(device)
    k = min(settings.evaluate.rerank_k, len(clips.answers))
    asked = clips.questions()
    was_training = model.training
    model.eval()
    top, scores = [], []
    with computing(precision, device):
        for start in tqdm(
            range(0, len(asked), size), desc=title, leave=False, disable=title is None
        ):
            batch = gather(clips, asked[start : start + size], sampler, rng, shuffle)
            ranking = model.rank_answers(
                batch.frames.to(device),
                batch.questions.to(device),
                listed,
                k,
                pairs_at_once=size * PAIRS_PER_QUESTION,
                clip_of_question=batch.clip_of_question.to(device),
            )
            top.append(ranking.indices.cpu())
            scores.append(ranking.scores.double().cpu())
    model.train(was_training)
    return Answers(torch.cat(top).numpy(), torch.cat(scores).numpy())


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
    ) -> None:
        self.model = model
        self.settings, self.seed = settings, seed
        self.clips, self.validation_clips = train_clips, validation_clips
        self.asked = train_clips.questions()
        self.device = next(model.parameters()).device

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

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch: every question once, with random frames of its clip."""
        rng = np.random.default_rng([self.seed, epoch])
        for index in self._indices(rng):
            asked = [self.asked[int(place)] for place in index]
            yield gather(self.clips, asked, self.settings.frames.train_sampler, rng)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """The loss of the answers."""
        loss = self.model.loss(
            batch.frames.to(self.device),
            batch.questions.to(self.device),
            self.clips.answer_tokens(batch.answers).to(self.device),
            clip_of_question=batch.clip_of_question.to(self.device),
        )
        return {"answer": loss}

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
            self.model, clips, self.settings, rng, self.settings.train.precision
        )
        right, needs_order = is_right(answers, clips), clips.needs_order()
        point = {self.best_by: 100 * float(right.mean())}
        if needs_order is not None and needs_order.any():
            point["order_accuracy"] = 100 * float(right[needs_order].mean())
        return point
