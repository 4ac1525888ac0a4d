"""Question answering: batches of questions, their ranking against a loop, and what is minimised."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_questions import (
    ANSWERS,
    OUTSIDE,
    new_answerer,
    question_sets,
    task_settings,
    with_evaluate,
)
from tiny import fill, have_same_scores

from litevl.engine.answering import Answers, answer_questions, gather, is_right
from litevl.engine.clips import ClipSet
from litevl.errors import DataError
from litevl.model.question_answering import answer_tokens
from litevl.model.tokenizer import Tokens
from litevl.model.weights import NEW_BY_DESIGN

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


@pytest.fixture(scope="module")
def model(settings):
    """A model whose temporal parts have moved away from their start."""
    model = new_answerer(settings)
    fill(model, 5, NEW_BY_DESIGN.match)
    return model.eval()


def rng(seed=0) -> np.random.Generator:
    """A fresh generator."""
    return np.random.default_rng(seed)


def answered(model, clips, settings, seed=0, shuffle=False) -> Answers:
    """The split's questions answered, all in full precision."""
    return answer_questions(model, clips, settings, rng(seed), "fp32", shuffle)


@torch.no_grad()
def naive_answers(model, clips):
    """Every listed answer for every question, one pair at a time and nothing padded.

    Returns log p of the whole answers and log p of their first words, (Q, G) each.
    """
    whole, first = [], []
    for clip, question in clips.questions():
        frames = clips.frames([clip], SAMPLER, rng())
        features = model.encode(frames, clips.tokens([question.text]))
        start = torch.tensor([[model.decode_token_id]])
        logits = model.next_words(features, Tokens(start, torch.ones_like(start)))[0, 0]
        likely = logits.log_softmax(dim=-1)
        rows = [clips.answer_tokens([answer]) for answer in clips.answers]
        whole.append([-model.answer_losses(features, row, 0.0).item() for row in rows])
        first.append([likely[row.input_ids[0, 1]].item() for row in rows])
    return torch.tensor(whole), torch.tensor(first)


@pytest.fixture(scope="module")
def naive(model, clips):
    """That of the test split."""
    return naive_answers(model, clips["test"])


# A batch of questions


def test_batch_holds_each_clip_once_and_says_which_question_is_about_which(clips):
    split = clips["test"]
    asked = split.questions()
    chosen = [asked[place] for place in (7, 2, 6, 0, 9)]
    batch = gather(split, chosen, SAMPLER, rng())
    own = sorted({clip for clip, _ in chosen})
    assert len(own) < len(chosen)
    assert torch.equal(batch.frames, split.pictures(own, SAMPLER, rng()))
    assert [own[place] for place in batch.clip_of_question.tolist()] == [c for c, _ in chosen]
    assert batch.ids == tuple(question.id for _, question in chosen)
    for row, (_, question) in enumerate(chosen):
        length = int(batch.questions.attention_mask[row].sum())
        alone = split.tokens([question.text]).input_ids[0]
        assert batch.questions.input_ids[row, :length].tolist() == alone.tolist()
        assert batch.answers[row] == question.answer


def test_frames_of_a_clip_are_drawn_once_for_all_its_questions(clips):
    split = clips["train"]
    batch = gather(split, split.questions()[:8], "segment-random", rng(3))
    again = split.pictures(range(len(batch.frames)), "segment-random", rng(3))
    assert torch.equal(batch.frames, again)
    assert len(batch.clip_of_question) == 8


# Answers


def test_answers_are_those_of_a_loop_over_questions_and_answers(model, clips, settings, naive):
    """Questions of different lengths share a batch here, and a clip is encoded once for all."""
    found = answered(model, clips["test"], settings)
    best = naive[0].sort(dim=1, descending=True, stable=True)
    assert found.top.tolist() == best.indices.tolist()
    assert have_same_scores(torch.from_numpy(found.scores), best.values.double())
    lengths = {len(question.text.split()) for _, question in clips["test"].questions()}
    assert len(lengths) > 2


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_batch_size_changes_nothing(model, clips, settings, naive, size):
    found = answered(model, clips["test"], with_evaluate(settings, batch_size=size))
    best = naive[0].sort(dim=1, descending=True, stable=True)
    assert found.top.tolist() == best.indices.tolist()
    assert have_same_scores(torch.from_numpy(found.scores), best.values.double())


@pytest.mark.parametrize("k", [1, 2, 5])
def test_fewer_answers_than_listed_are_kept_by_their_first_word(model, clips, settings, naive, k):
    found = answered(model, clips["test"], with_evaluate(settings, rerank_k=k))
    whole, first = naive
    assert found.top.shape == found.scores.shape == (len(whole), k)
    for row, kept in enumerate(first.sort(dim=1, descending=True, stable=True).indices):
        listed = sorted(kept[:k].tolist())  # the list's order where first words are equal
        order = whole[row, listed].sort(descending=True, stable=True).indices
        assert found.top[row].tolist() == [listed[place] for place in order]
        scores = torch.from_numpy(found.scores[row])
        assert have_same_scores(scores, whole[row, found.top[row]].double())


def test_preselection_loses_some_best_answers_here(model, clips, settings, naive):
    """So that the test above says something."""
    found = answered(model, clips["test"], with_evaluate(settings, rerank_k=1))
    assert (found.top[:, 0] != naive[0].argmax(dim=1).numpy()).any()


def test_more_answers_wanted_than_listed_are_all_answers(model, clips, settings):
    found = answered(model, clips["test"], with_evaluate(settings, rerank_k=999))
    assert found.top.shape == (20, len(ANSWERS))
    assert (np.sort(found.top, axis=1) == np.arange(len(ANSWERS))).all()


def test_answer_list_that_cannot_be_ranked_is_named(model, clips, settings):
    twice = replace(clips["test"], answers=(*ANSWERS, "no"))
    with pytest.raises(DataError, match="'no': the same as 'no', which comes earlier"):
        answered(model, twice, settings)


def encoded_frames(model, work) -> list[torch.Tensor]:
    """What the video encoder was given while `work` ran."""
    given = []
    handle = model.visual_encoder.register_forward_hook(lambda _, args, __: given.append(args[0]))
    try:
        work()
    finally:
        handle.remove()
    return given


def test_each_clip_of_a_batch_is_encoded_once(model, clips, settings):
    whole = with_evaluate(settings, batch_size=1000)
    given = encoded_frames(model, lambda: answered(model, clips["test"], whole))
    assert [len(frames) for frames in given] == [len(clips["test"])]
    assert len(clips["test"].questions()) == 20


def test_shuffled_frames_are_the_clips_own_in_another_order(model, clips, settings):
    whole = with_evaluate(settings, batch_size=1000)

    def given(seed, shuffle):
        work = lambda: answered(model, clips["test"], whole, seed, shuffle)  # noqa: E731
        return encoded_frames(model, work)[0]

    plain, shuffled, again = given(3, False), given(3, True), given(3, True)
    other = given(4, True)
    assert torch.equal(shuffled, again)
    assert not torch.equal(shuffled, other)
    moved = 0
    for one, two in zip(plain, shuffled, strict=True):
        assert sorted(frame.sum().item() for frame in one) == pytest.approx(
            sorted(frame.sum().item() for frame in two)
        )
        assert {tuple(f.flatten().tolist()) for f in one} == {
            tuple(f.flatten().tolist()) for f in two
        }
        moved += not torch.equal(one, two)
    assert moved > len(plain) / 2


def test_order_of_frames_matters_to_a_model_that_sees_time_only(model, clips, settings):
    """Without temporal attention only rounding differs: means are taken in another order."""
    plain, shuffled = (answered(model, clips["test"], settings, 3, s) for s in (False, True))
    assert np.abs(np.sort(plain.scores) - np.sort(shuffled.scores)).max() > 1e-3
    parts = {"temporal_attention": False, "time_embedding": "none", "scaling": "none"}
    blind = settings.model_copy(
        update={"model": settings.model.model_copy(update={**parts, "time_embedding_scale": 0.0})}
    )
    model = new_answerer(blind).eval()
    plain, shuffled = (answered(model, clips["test"], blind, 3, s) for s in (False, True))
    assert np.abs(np.sort(plain.scores) - np.sort(shuffled.scores)).max() < 1e-4


@pytest.mark.parametrize("is_training", [True, False])
def test_answering_leaves_the_model_as_it_was_and_is_done_without_dropout(
    settings, clips, is_training
):
    model = new_answerer(settings).train(is_training)
    assert model.config.dropout > 0
    one, two = (answered(model, clips["test"], settings) for _ in range(2))
    assert np.array_equal(one.scores, two.scores)
    assert model.training == is_training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_answers_are_computed_in_the_precision_asked_for(model, clips, settings):
    exact = answered(model, clips["test"], settings)
    rough = answer_questions(model, clips["test"], settings, rng(), "bf16")
    assert not np.array_equal(exact.scores, rough.scores)
    largest = np.abs(exact.scores).max()
    assert np.abs(np.sort(exact.scores) - np.sort(rough.scores)).max() < 0.1 * largest
    assert rough.scores.dtype == exact.scores.dtype == np.float64


# Right or wrong


def test_first_answer_alone_decides_whether_a_question_is_right(clips):
    gold = [question.answer for _, question in clips["test"].questions()]
    place = {answer: number for number, answer in enumerate(ANSWERS)}
    listed = np.array([place.get(answer, -1) for answer in gold])
    assert (listed < 0).any()
    first = np.where(listed < 0, 0, listed)
    other = (first + 1) % len(ANSWERS)
    best = Answers(np.stack([first, other], axis=1), np.zeros((len(gold), 2)))
    assert is_right(best, clips["test"]).tolist() == [float(number >= 0) for number in listed]
    second = Answers(np.stack([other, first], axis=1), np.zeros((len(gold), 2)))
    assert not is_right(second, clips["test"]).any()


def test_answer_outside_the_list_is_in_no_ranking_and_always_wrong(model, clips, settings):
    found = answered(model, clips["test"], settings)
    gold = np.array([question.answer for _, question in clips["test"].questions()])
    outside = np.isin(gold, OUTSIDE)
    assert outside.sum() == 2
    assert not set(OUTSIDE) & {ANSWERS[place] for place in found.top.flatten()}
    assert not is_right(found, clips["test"])[outside].any()
    # It is the list that decides: put in, the same answers can be ranked.
    every = replace(clips["test"], answers=(*ANSWERS, *OUTSIDE))
    longer = with_evaluate(settings, rerank_k=99)
    ranked = answered(model, every, longer)
    assert set(ranked.top[0].tolist()) == set(range(len(ANSWERS) + 2))


def test_list_of_the_world_can_be_ranked(clips):
    """The made-up list of these tests: of different lengths, two pairs with one first word."""
    listed = answer_tokens(list(ANSWERS), clips["test"].tokenizer, 8)
    assert len(set(listed.attention_mask.sum(dim=1).tolist())) > 2
    assert len(set(listed.input_ids[:, 1].tolist())) == len(ANSWERS) - 2


def test_right_answer_that_the_tokenizer_cannot_take_stops_nothing_and_is_wrong(
    model, clips, settings
):
    split = clips["test"]
    odd = ("red " * 50, "\u6f22")
    asked = replace(
        split.clips[0],
        questions=tuple(
            replace(question, answer=answer)
            for question, answer in zip(split.clips[0].questions, odd, strict=True)
        ),
    )
    changed = replace(split, clips=(asked, *split.clips[1:]))
    found, before = answered(model, changed, settings), answered(model, split, settings)
    assert found.top.tolist() == before.top.tolist()
    assert is_right(found, changed)[:2].tolist() == [0, 0]
    assert is_right(found, changed)[2:].tolist() == is_right(before, split)[2:].tolist()
