"""Questions about one clip, answered by a trained model.

Legend: G listed answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from litevl.errors import WeightsError
from litevl.model.question_answering import LiteVLForQuestionAnswering
from litevl.trained import Trained


@dataclass(frozen=True)
class Answer:
    """An answer, and its share of the probability of all that were listed; None for free text."""

    text: str
    probability: float | None


def ask(
    trained: Trained,
    clip: str | Path,
    question: str,
    answers: Sequence[str] = (),
    top: int = 5,
    free: bool = False,
) -> list[Answer]:
    """The likeliest answers to a question about a clip, best first.

    trained: `Trained.load` of what a question answering run left. answers: to choose among; by
    default those that the model was trained with. Probabilities are those of whole answers, divided
    by the sum over the list. free: one answer in the model's own words instead. Raises DataError
    for a clip, a question or answers that cannot be used, WeightsError for a retrieval model.
    """
    model = trained.model
    if not isinstance(model, LiteVLForQuestionAnswering):
        raise WeightsError("this model ranks clips; questions take one of a question answering run")
    asked = trained.query(question)
    frames = trained.clips(trained.frames(Path(clip))[None])  # (1, T, 3, S, S)
    if free:
        written = model.generate(frames, asked, trained.tokenizer.end_id)
        text = trained.tokenizer.bert.decode(written.input_ids[0], skip_special_tokens=True)
        return [Answer(str(text), None)]
    listed = list(answers or trained.use.answers)
    ranking = model.rank_answers(frames, asked, trained.answer_list(listed), len(listed))
    shares = torch.softmax(ranking.scores[0].double(), dim=0).tolist()  # (G,)
    best = zip(ranking.indices[0].tolist(), shares, strict=True)
    return [Answer(listed[place], share) for place, share in best][:top]
