"""Question answering: the loss, padding, and what a question sees of its clip."""

from typing import get_args

import pytest
import torch
from tiny import (
    BRANCH,
    CLS,
    DEC,
    TOLERANCE,
    have_same_scores,
    largest_difference,
    random_captions,
    random_frames,
    tiny_model,
    train_temporal_parts,
)
from tiny_answers import (
    LIST_LENGTHS,
    answers,
    naive_scores,
    pad,
    qa_model,
    questions,
    unpadded,
)

from litevl.errors import ShapeError
from litevl.model.config import Pooling
from litevl.model.litevl import TextFeatures, VideoFeatures
from litevl.model.question_answering import expect_places
from litevl.model.tokenizer import Tokens

CLOSE = TOLERANCE[torch.float32]


# Loss


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["text", "concat"])
def test_loss_equals_a_loop_over_tokens(pooling):
    model, frames = qa_model(pooling=pooling), random_frames(3)
    naive = naive_scores(model, frames, questions(), answers(), smoothing=0.1)
    loss = model.loss(frames, questions(), answers())
    assert loss.shape == ()
    assert loss.item() == pytest.approx(-naive.diagonal().sum().item() / 3, abs=CLOSE)


@torch.no_grad()
def test_decoder_looks_at_words_where_pictures_have_another_width():
    """As with ViT-L: clips 1,024 wide, words 768."""
    model, frames = qa_model(vision_width=30, pooling_space="projected"), random_frames(3)
    naive = naive_scores(model, frames, questions(), answers(), smoothing=0.1)
    loss = model.loss(frames, questions(), answers()).item()
    assert loss == pytest.approx(-naive.diagonal().sum().item() / 3, abs=CLOSE)


@torch.no_grad()
def test_several_weighted_answers_count_for_their_question():
    model, frames = qa_model(), random_frames(3)
    listed = answers(LIST_LENGTHS[:5])
    index, weights = torch.tensor([0, 2, 2, 1, 0]), torch.tensor([0.5, 1.0, 0.25, 2.0, 0.0])
    naive = naive_scores(model, frames, questions(), listed, smoothing=0.1)
    wanted = -(naive[index, torch.arange(5)] * weights).sum().item() / 3  # by questions, not by 5
    loss = model.loss(frames, questions(), listed, index, weights)
    assert loss.item() == pytest.approx(wanted, abs=CLOSE)


@torch.no_grad()
def test_answers_may_start_with_either_token():
    model, frames = qa_model(), random_frames(3)
    started = answers()
    assert started.input_ids[0, 0] == CLS
    before = started.input_ids.clone()
    loss = model.loss(frames, questions(), started)
    assert torch.equal(started.input_ids, before)
    started.input_ids[:, 0] = DEC
    assert torch.equal(loss, model.loss(frames, questions(), started))


def test_all_parts_learn_from_the_loss():
    model = qa_model(pooling_space="projected")
    model.loss(random_frames(3), questions(), answers()).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # Key biases cancel in the softmax over what they shift alike.
    assert not {name for name in silent if not name.endswith("key.bias")}


# Padding


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["text", "concat"])
@pytest.mark.parametrize("padding", [None, "random"])
def test_padding_does_not_change_the_loss(pooling, padding):
    model, frames = qa_model(pooling=pooling), random_frames(3)
    alone = sum(
        model.loss(frames[row : row + 1], unpadded(questions(), row), unpadded(answers(), row))
        for row in range(3)
    )
    padded = model.loss(frames, questions(padding, extra=3), answers(padding=padding, extra=5))
    assert have_same_scores(padded, alone / 3)


@torch.no_grad()
@pytest.mark.parametrize("padding", [None, "random"])
def test_padding_does_not_change_the_ranking(padding):
    model, frames = qa_model(), random_frames(3)
    listed = answers(LIST_LENGTHS, padding=padding, extra=4)
    padded = model.rank_answers(frames, questions(padding, extra=3), listed, k=5)
    for row in range(3):
        one = frames[row : row + 1]
        alone = model.rank_answers(one, unpadded(questions(), row), answers(LIST_LENGTHS), k=5)
        assert torch.equal(alone.indices[0], padded.indices[row])
        assert have_same_scores(alone.scores[0], padded.scores[row])


# Several questions about one clip

CLIP_OF_QUESTION = torch.tensor([1, 0, 1, 1, 0])
SEVERAL_LENGTHS = [6, 9, 4, 7, 5]


def several_questions(extra=0):
    """Five questions of different length; CLIP_OF_QUESTION says which clip each is about."""
    return pad(Tokens(*random_captions(SEVERAL_LENGTHS)), extra)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["text", "concat"])
def test_loss_of_several_questions_about_a_clip_is_that_of_the_clip_repeated(pooling):
    model, clips = qa_model(pooling=pooling), random_frames(2)
    asked, given = several_questions(), answers(LIST_LENGTHS[:5])
    together = model.loss(clips, asked, given, clip_of_question=CLIP_OF_QUESTION)
    repeated = model.loss(clips[CLIP_OF_QUESTION], asked, given)
    assert have_same_scores(together, repeated)
    swapped = model.loss(clips, asked, given, clip_of_question=1 - CLIP_OF_QUESTION)
    assert largest_difference(together, swapped) > 0.01


@torch.no_grad()
@pytest.mark.parametrize("k", [3, 8])
def test_ranking_of_several_questions_about_a_clip_is_that_of_the_clip_repeated(k):
    model, clips, asked = qa_model(), random_frames(2), several_questions()
    listed, index = answers(LIST_LENGTHS), CLIP_OF_QUESTION
    together = model.rank_answers(clips, asked, listed, k, clip_of_question=index)
    repeated = model.rank_answers(clips[index], asked, listed, k)
    assert torch.equal(together.indices, repeated.indices)
    assert have_same_scores(together.scores, repeated.scores)
    swapped = model.rank_answers(clips, asked, listed, k, clip_of_question=1 - index)
    assert not have_same_scores(together.scores, swapped.scores)


def test_clip_learns_from_all_questions_about_it_as_if_it_were_repeated():
    model, clips = qa_model(), random_frames(2)
    asked, given = several_questions(), answers(LIST_LENGTHS[:5])
    gradients = []
    for frames, index in ((clips, CLIP_OF_QUESTION), (clips[CLIP_OF_QUESTION], None)):
        model.zero_grad()
        model.loss(frames, asked, given, clip_of_question=index).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    together, repeated = gradients
    for name, gradient in together.items():
        assert torch.allclose(gradient, repeated[name], rtol=1e-4, atol=1e-6), name


@torch.no_grad()
@pytest.mark.parametrize("num_questions", [2, 5])
def test_clip_is_encoded_once_however_many_questions_are_about_it(num_questions):
    model, rows = qa_model(), []
    model.visual_encoder.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    asked = several_questions().select(torch.arange(num_questions))
    index = CLIP_OF_QUESTION[:num_questions]
    model.loss(random_frames(2), asked, answers([3] * num_questions), clip_of_question=index)
    assert rows == [2]
    model.rank_answers(random_frames(2), asked, answers(LIST_LENGTHS), 8, clip_of_question=index)
    assert rows == [2, 2]


@torch.no_grad()
def test_question_i_is_about_clip_i_unless_said_otherwise():
    model, frames = qa_model(), random_frames(3)
    plain = model.loss(frames, questions(), answers())
    said = model.loss(frames, questions(), answers(), clip_of_question=torch.arange(3))
    assert torch.equal(plain, said)


# What the question sees


@torch.no_grad()
@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("space", ["hidden", "projected"])
def test_clip_is_conditioned_as_in_retrieval(pooling, space):
    options = {"pooling": pooling, "pooling_space": space, "pooling_temperature": 0.1}
    retrieval = train_temporal_parts(tiny_model(**BRANCH, **options))
    model = qa_model(**options)
    model.load_state_dict(retrieval.state_dict(), strict=False)
    tokens = model.encode_video(random_frames(3))
    query = torch.randn(3, 24, generator=torch.Generator().manual_seed(5))
    nothing = torch.zeros(3, 1)
    assert torch.equal(tokens, retrieval.encode_video(random_frames(3)).tokens)
    weights = retrieval.pooling_weights(
        VideoFeatures(tokens, nothing), TextFeatures(query, nothing, nothing, nothing)
    )
    for ours, theirs in zip(model.pooling_weights(tokens, query), weights, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize(
    ("pooling", "weighs_frames", "weighs_patches"),
    [
        ("text", True, True),
        ("text-temporal", True, False),
        ("text-spatial", False, True),
        ("mean", False, False),
        ("concat", False, False),
    ],
)
def test_pooling_weights_have_mean_one_where_there_are_any(pooling, weighs_frames, weighs_patches):
    model = qa_model(pooling=pooling)
    query = torch.randn(3, 24, generator=torch.Generator().manual_seed(5))
    found = model.pooling_weights(model.encode_video(random_frames(3)), query)
    for weights, is_there, size in zip(found, (weighs_frames, weighs_patches), (4, 9), strict=True):
        assert (weights is not None) == is_there
        if weights is not None:
            assert weights.shape == (3, size)
            assert largest_difference(weights.mean(dim=1), torch.ones(3)) <= CLOSE
            assert (weights.amax(dim=1) > 1.01 * weights.amin(dim=1)).all()


@torch.no_grad()
def test_clips_already_encoded_ground_a_question_alike():
    model, frames = qa_model(), random_frames(3)
    whole = model.encode(frames, questions())
    parts = model.ground(model.encode_video(frames), questions())
    assert torch.equal(whole.tokens, parts.tokens)
    assert torch.equal(whole.mask, parts.mask)


# Shapes


def wrong(**changes):
    """Arguments of `loss` for three questions, with the given ones in their place."""
    arguments = {"frames": random_frames(3), "questions": questions(), "answers": answers()}
    return {**arguments, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": torch.zeros(2, 4, 3, 24, 24)}, r"questions.input_ids .*B=2, got \(3, 9\)"),
        ({"frames": torch.zeros(3, 5, 3, 24, 24)}, r"frames .*T=4, got \(3, 5, 3, 24, 24\)"),
        (
            {"frames": torch.zeros(3, 3, 24, 24)},
            r"frames should be \(C T 3 H W\), got \(3, 3, 24, 24\)",
        ),
        ({"questions": Tokens(torch.zeros(3, 9).long(), torch.ones(3, 8))}, r"attention_mask .*"),
        ({"answers": answers([3, 4])}, r"answers.input_ids should be .*P=3, got \(2, 4\)"),
        (
            {"answers": Tokens(torch.zeros(3, 4).long(), torch.ones(3, 5))},
            r"answers.attention_mask should be .*W=4, got \(3, 5\)",
        ),
        ({"answers": Tokens(*[torch.ones(3, 1).long()] * 2)}, r"W >= 2, .* got \(3, 1\)"),
        ({"question_of_answer": torch.tensor([0, 1])}, r"question_of_answer .*A=3, got \(2,\)"),
        (
            {"question_of_answer": torch.tensor([0, 1, 3])},
            r"question_of_answer should be from 0 to 2, the rows of \(3, 9, 24\), got 0 to 3",
        ),
        ({"question_of_answer": torch.tensor([0, -1, 2])}, r"from 0 to 2, .*got -1 to 2"),
        ({"weights": torch.ones(1)}, r"weights should be \(A\) with A=3, got \(1,\)"),
        (
            {"clip_of_question": torch.tensor([0, 1])},
            r"questions.input_ids should be \(B W\) with B=2, got \(3, 9\)",
        ),
        (
            {"clip_of_question": torch.tensor([[0], [1], [2]])},
            r"clip_of_question should be \(B\) with B=3, got \(3, 1\)",
        ),
        (
            {"clip_of_question": torch.tensor([0, 1, 3])},
            r"clip_of_question should be from 0 to 2, the rows of \(3, 14, 24\), got 0 to 3",
        ),
        (
            {"clip_of_question": torch.tensor([2, -1, 0])},
            r"clip_of_question should be from 0 to 2, .*got -1 to 2",
        ),
    ],
)
def test_wrong_shapes_raise_with_both_shapes(changes, message):
    with pytest.raises(ShapeError, match=message):
        qa_model().loss(**wrong(**changes))


@pytest.mark.parametrize("places", [[0, 1, 2], [2, 2], [0]])
def test_places_of_rows_pass(places):
    expect_places("index", torch.tensor(places), torch.zeros(3, 4))


@torch.no_grad()
@pytest.mark.parametrize("index", [[0, 1], [0, 1, 3], [-1, 1, 2]])
def test_ranking_names_questions_about_clips_that_are_not_there(index):
    with pytest.raises(ShapeError, match=r"B=2, got \(3, 9\)|from 0 to 2, the rows of"):
        qa_model().rank_answers(
            random_frames(3),
            questions(),
            answers(LIST_LENGTHS),
            2,
            clip_of_question=torch.tensor(index),
        )
