"""Fine-tuning for question answering: what is drawn, what is minimised, the validation curve."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_questions import (
    ANSWERS,
    new_objective,
    question_sets,
    task_settings,
    with_evaluate,
    with_train,
)
from tiny import have_same_scores

from litevl.data.dataset import FrameStore
from litevl.engine import answering
from litevl.engine.answering import Answers, answer_questions, gather, is_right
from litevl.engine.clips import ClipSet
from litevl.engine.train import train
from litevl.errors import DataError

SAMPLER = "segment-middle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tiny weights. Tests do not change them."""
    return tmp_path_factory.mktemp("answering")


@pytest.fixture(scope="module")
def settings(folder):
    """The `full` variant under the mini profile; every answer is scored in full."""
    return with_evaluate(task_settings(folder, "msvd-qa"), rerank_k=len(ANSWERS), precision="fp32")


@pytest.fixture(scope="module")
def clips(folder, settings) -> dict[str, ClipSet]:
    """The small world's clips by split, with questions. Tests do not change them."""
    return question_sets(folder, Path(settings.model.weights))


# What is drawn


def test_epoch_asks_every_question_once_with_those_of_a_source_together(settings, clips):
    objective = new_objective(settings, clips)
    source = {q.id: clip.source for clip in clips["train"].clips for q in clip.questions}
    seen: list[str] = []
    found = list(objective.batches(0))
    assert len(found) == objective.num_batches(0)
    for batch in found:
        assert len(batch.ids) <= settings.train.batch_size
        here = {source[number] for number in batch.ids}
        wanted = {number for number, name in source.items() if name in here}
        assert wanted == set(batch.ids)  # the twins' too
        assert len(batch.frames) == 2 * len(here)
        seen += batch.ids
    assert sorted(seen) == sorted(source)
    assert len(seen) == 40


def test_epochs_and_seeds_draw_other_batches_and_the_same_ones_again(settings, clips):
    def drawn(seed, epoch):
        found = list(new_objective(settings, clips, seed).batches(epoch))
        return [batch.ids for batch in found], [batch.frames for batch in found]

    ids, frames = drawn(0, 0)
    again_ids, again_frames = drawn(0, 0)
    assert ids == again_ids
    assert all(torch.equal(a, b) for a, b in zip(frames, again_frames, strict=True))
    assert ids != drawn(0, 1)[0]
    assert ids != drawn(1, 0)[0]


def test_clip_shows_other_frames_in_another_epoch(settings, clips):
    def frames_by_question(epoch):
        return {
            number: batch.frames[place]
            for batch in new_objective(settings, clips).batches(epoch)
            for number, place in zip(batch.ids, batch.clip_of_question, strict=True)
        }

    one, other = frames_by_question(0), frames_by_question(1)
    assert one.keys() == other.keys()
    assert any(not torch.equal(one[number], other[number]) for number in one)


def test_names_of_a_batch_are_those_of_its_questions(settings, clips):
    objective = new_objective(settings, clips)
    batch = next(objective.batches(0))
    assert objective.names(batch) == [f"question {number}" for number in batch.ids]


# What is minimised


def test_loss_of_a_batch_is_the_mean_of_its_questions_alone(settings, clips):
    """Neither the padding of questions and answers nor the sharing of clips changes it."""
    objective = new_objective(settings, clips)
    objective.model.eval()
    split = clips["train"]
    asked = split.questions()[:12]
    whole = gather(split, asked, SAMPLER, np.random.default_rng(0))
    alone = [gather(split, [one], SAMPLER, np.random.default_rng(0)) for one in asked]

    def answer_width(batch):
        return split.answer_tokens(batch.answers).input_ids.shape[1]

    widths = {(b.questions.input_ids.shape[1], answer_width(b)) for b in alone}
    assert len({words for words, _ in widths}) > 2
    assert len({words for _, words in widths}) > 1
    found = objective.backward(whole, 0, torch.Generator())
    parts = [objective.backward(one, 0, torch.Generator())["answer"] for one in alone]
    assert found.keys() == {"answer"}
    assert have_same_scores(found["answer"], torch.stack(parts).mean())


def test_training_answer_longer_than_the_spec_allows_is_named(settings, clips):
    """Of annotations one is told before; this guards against a model taught half an answer."""
    objective = new_objective(
        settings, clips | {"train": replace(clips["train"], max_answer_tokens=3)}
    )
    batch = next(batch for batch in objective.batches(0) if "red ring" in batch.answers)
    with pytest.raises(DataError, match="more than 3 word pieces: 'red ring'"):
        objective.backward(batch, 0, torch.Generator())


def test_training_lowers_the_loss(settings, clips, tmp_path):
    """Four clips with a few questions each, again and again, are learned by heart."""
    clip_set, kept = clips["train"], [0, 1, 2, 3]
    frames = [clip_set.store.frames(k, np.arange(12)) for k in kept]
    (tmp_path / "frames").write_bytes(np.stack(frames).tobytes())
    store = FrameStore(tmp_path / "frames", [(12 * row, 12) for row in range(4)], 32)
    few = replace(clip_set, clips=tuple(clip_set.clips[k] for k in kept), store=store)
    options = {
        "epochs": 60,
        "learning_rate": 3e-3,
        "temporal_learning_rate": 3e-3,
        "select": "last",
    }
    chosen = with_train(settings, **options)
    none = replace(clips["validation"], clips=())
    objective = new_objective(chosen, clips | {"train": few, "validation": none})
    history = train(objective, chosen.train, 0, None, tmp_path, "test")
    found = [point["loss"] for point in history.steps]
    assert found[-1] < 0.5 * found[0], found
    rng = np.random.default_rng(0)
    answers = answer_questions(objective.model, few, settings, rng, "fp32")
    assert is_right(answers, few).mean() > 0.5


# The validation curve


def test_validation_curve_has_accuracy_of_all_and_of_the_questions_about_order(
    settings, clips, monkeypatch
):
    split = clips["test"]
    asked = [question for _, question in split.questions()]
    right = [q.answer in ANSWERS and n % 3 > 0 for n, q in enumerate(asked)]
    first = [
        ANSWERS.index(q.answer) if hit else ANSWERS.index("in")
        for hit, q in zip(right, asked, strict=True)
    ]
    given = []

    def answer(*arguments, group):  # noqa: ARG001
        given.append(arguments)
        return Answers(np.array(first)[:, None], np.zeros((len(first), 1)))

    monkeypatch.setattr(answering, "answer_questions", answer)
    objective = new_objective(settings, clips | {"validation": split})
    about_order = [hit for hit, q in zip(right, asked, strict=True) if q.kind == "when"]
    assert objective.validate() == {
        "accuracy": pytest.approx(100 * np.mean(right)),
        "order_accuracy": pytest.approx(100 * np.mean(about_order)),
    }
    assert np.mean(right) != np.mean(about_order)
    assert objective.best_by == "accuracy"
    (model, clip_set, _, _, precision), *_ = given
    assert (model, clip_set) == (objective.model, split)
    assert precision == settings.train.precision


def test_validating_leaves_training_on_and_gives_the_same_again(settings, clips):
    objective = new_objective(settings, clips)
    point = objective.validate()
    assert point.keys() == {"accuracy", "order_accuracy"}
    assert objective.model.training
    assert objective.validate() == point


def test_without_twins_the_validation_curve_has_accuracy_alone(settings, clips):
    without = replace(clips["validation"], twin_of={})
    found = new_objective(settings, clips | {"validation": without}).validate()
    assert found.keys() == {"accuracy"}


def test_without_questions_about_order_the_curve_has_accuracy_alone(settings, clips):
    plain = tuple(replace(clip, questions=clip.questions[1:]) for clip in clips["validation"].clips)
    without = replace(clips["validation"], clips=plain)
    found = new_objective(settings, clips | {"validation": without}).validate()
    assert found.keys() == {"accuracy"}


def test_without_validation_questions_there_is_no_point(settings, clips):
    unasked = tuple(replace(clip, questions=()) for clip in clips["validation"].clips)
    for none in ((), unasked):
        without = clips | {"validation": replace(clips["validation"], clips=none)}
        assert new_objective(settings, without).validate() == {}
