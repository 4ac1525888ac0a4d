"""Question answering on the small world's clips, with questions made up so that one can count."""

from dataclasses import replace
from pathlib import Path

import torch
from small import clip_sets, new_model, small_settings, write_spec, write_weights

from litevl.data.annotations import Clip, Question
from litevl.engine.answering import AnsweringObjective
from litevl.engine.clips import ClipSet
from litevl.engine.retrieval import RetrievalObjective
from litevl.model.question_answering import LiteVLForQuestionAnswering
from litevl.model.weights import load_blip
from litevl.spec import Resolved, load_spec, model_options, resolve, task_of
from litevl.tasks import Dataset

# Of different lengths; two pairs begin with the same word. "purple" and "a star" are not listed.
ANSWERS = ("first", "last", "ring", "red ring", "red star", "no", "in the middle", "in")
OUTSIDE = ("purple", "a star")


def questions_about(clip: Clip, scene: int, is_forward: bool) -> tuple[Question, ...]:
    """Two questions about a clip of an even scene, three about one of an odd scene.

    Twins are asked the same. Only the first has another answer for the twin. The second's answer is
    not listed for every fourth scene.
    """
    listed = ANSWERS[2 + scene % 6]
    asked = [
        ("when is the red ring on the left?", "first" if is_forward else "last"),
        ("what is red?", OUTSIDE[scene // 4 % 2] if scene % 4 == 3 else listed),
    ]
    if scene % 2:
        asked.append(("how many green things are there beside the ring?", "no"))
    return tuple(Question(f"{clip.id}-{n}", *pair) for n, pair in enumerate(asked))


def with_questions(clips: ClipSet) -> ClipSet:
    """The small world's clips, each with its questions; twins stand side by side."""
    asked = tuple(
        replace(clip, questions=questions_about(clip, number // 2, number % 2 == 0))
        for number, clip in enumerate(clips.clips)
    )
    return replace(clips, clips=asked, answers=ANSWERS, max_answer_tokens=8)


def question_sets(folder: Path, weights: Path) -> dict[str, ClipSet]:
    """The clips by split, each with captions and questions: they serve both tasks."""
    return {name: with_questions(clips) for name, clips in clip_sets(folder, weights).items()}


def task_settings(folder: Path, dataset: Dataset) -> Resolved:
    """The `full` variant of a data set's shipped spec under a small mini profile.

    Writes weights into the folder where there are none yet.
    """
    weights = folder / "model.safetensors"
    if not weights.exists():
        write_weights(folder)
    settings = small_settings(folder / "none", weights, dataset=dataset)
    path = write_spec(folder / f"{dataset}.toml", settings)
    return resolve(load_spec(path), "mini", "full")


def new_answerer(settings: Resolved) -> LiteVLForQuestionAnswering:
    """A model that starts from the settings' weights."""
    generator = torch.Generator().manual_seed(0)
    weights, options = settings.model.weights, model_options(settings)
    return load_blip(LiteVLForQuestionAnswering, weights, generator, **options)[0]


def new_objective(
    settings: Resolved, clips: dict[str, ClipSet], seed: int = 0
) -> RetrievalObjective | AnsweringObjective:
    """What the settings' data set is trained for, with a model at its start."""
    data = settings, clips["train"], clips["validation"], seed
    if task_of(settings.data.dataset) == "retrieval":
        return RetrievalObjective(new_model(settings), *data)
    return AnsweringObjective(new_answerer(settings), *data)


def with_train(settings: Resolved, **changes) -> Resolved:
    """The settings with other values in [train]."""
    return settings.model_copy(update={"train": settings.train.model_copy(update=changes)})


def with_evaluate(settings: Resolved, **changes) -> Resolved:
    """The settings with other values in [evaluate]."""
    return settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update=changes)})
