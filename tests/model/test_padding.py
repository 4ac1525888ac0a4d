"""More padding changes nothing on mini-BLIP's trained weights: loss, ranking, matching logits.

The batch stays the same and only its texts get longer, so that nothing but padding can tell the two
apart. A batch against its texts one by one is another matter: matrix products of another shape
round otherwise, 1e-5 of a score.
"""

import pytest
import torch
from tiny import BRANCH, train_temporal_parts
from tiny_answers import pad

from litevl import LiteVLForQuestionAnswering, LiteVLForRetrieval
from litevl.model.tokenizer import Tokenizer

SAME = {torch.float32: 1e-6, torch.float64: 1e-14}  # of the largest score
DTYPES = [pytest.param(dtype, id=str(dtype).split(".")[1]) for dtype in SAME]
CAPTIONS = ["the red circle moves left", "a blue square vanishes and the green ring grows"]
QUESTIONS = ["what moves left", "when is the red circle large", "where is the blue square"]
ANSWERS = ["circle", "first", "left", "red square"]
EXTRA = 5  # columns of padding


def mini_blip(model_class, dtype):
    """A model from mini-BLIP whose temporal parts have moved, and random clips for it."""
    model = train_temporal_parts(model_class.from_blip("mini-blip", num_frames=4, **BRANCH))
    size = model.config.image_size_px
    frames = torch.randn(3, 4, 3, size, size, generator=torch.Generator().manual_seed(0))
    return model.to(dtype).eval(), frames.to(dtype)


def tokens(texts):
    """Texts of different length as ids, padded to the longest."""
    found = Tokenizer.for_weights("mini-blip")(texts, 32)
    assert not found.attention_mask.all()
    return found


def expect_same(padded, scores, record):
    """Apart by rounding only, as a part of the largest score."""
    difference = ((padded - scores).abs().max() / scores.abs().max()).item()
    record("relative_difference", difference)
    assert difference <= SAME[scores.dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_padding_of_questions_and_answers_does_not_change_the_loss(dtype, record_property):
    model, frames = mini_blip(LiteVLForQuestionAnswering, dtype)
    asked, given = tokens(QUESTIONS), tokens(ANSWERS[1:])
    loss = model.loss(frames, asked, given)
    for questions, answers in (
        (pad(asked, EXTRA), given),
        (asked, pad(given, EXTRA)),
        (pad(asked, EXTRA), pad(given, EXTRA)),
    ):
        expect_same(model.loss(frames, questions, answers), loss, record_property)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_padding_of_questions_and_answers_does_not_change_their_ranking(dtype, record_property):
    model, frames = mini_blip(LiteVLForQuestionAnswering, dtype)
    asked, listed = tokens(QUESTIONS), tokens(ANSWERS)
    ranking = model.rank_answers(frames, asked, listed, k=3)
    padded = model.rank_answers(frames, pad(asked, EXTRA), pad(listed, EXTRA), k=3)
    assert torch.equal(padded.indices, ranking.indices)
    expect_same(padded.scores, ranking.scores, record_property)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_padding_of_captions_does_not_change_their_matching_logits(dtype, record_property):
    model, frames = mini_blip(LiteVLForRetrieval, dtype)
    video, captions = model.encode_video(frames[:2]), tokens(CAPTIONS)
    logits = []
    for each in (captions, pad(captions, EXTRA)):
        text = model.encode_text(each.input_ids, each.attention_mask)
        logits.append(model.match(video, text))
    expect_same(logits[1], logits[0], record_property)
