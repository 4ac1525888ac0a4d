"""Our model computes what transformers' BLIP computes from the same random weights, at tiny size.

Only where padding plays no part and the oracle is set up as BLIP is; test_oracle_traps.py has what
it gets wrong. test_parity_full_size.py has the same at ViT-B/16.
"""

import blip_oracle
import pytest
import torch
from tiny import (
    BRANCH,
    DEC,
    ENC,
    TOLERANCE,
    largest_difference,
    random_captions,
    random_frames,
    tiny_model,
)
from tiny_answers import (
    ANSWER_LENGTHS,
    BLIP_ALONE,
    LIST_LENGTHS,
    answers,
    qa_model,
    questions,
    unpadded,
)
from torch.nn import functional as F

from litevl.engine.evaluate import score_gallery

LENGTHS = (5, 9, 3)
CLOSE = TOLERANCE[torch.float32]
DTYPES = [pytest.param(dtype, id=str(dtype).split(".")[1]) for dtype in TOLERANCE]


def words_of(input_ids, mask):
    """The texts one by one, without their padding."""
    return [row[: count.sum()] for row, count in zip(input_ids, mask, strict=True)]


# Retrieval


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_image_tokens_are_blips(dtype):
    model, frames = tiny_model(dtype=dtype), random_frames(2, dtype=dtype)
    expected = blip_oracle.image_tokens(blip_oracle.oracle(model), frames)
    assert largest_difference(model.visual_encoder(frames), expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_clip_embedding_is_the_mean_of_blips_projections(dtype):
    model, frames = tiny_model(dtype=dtype), random_frames(3, dtype=dtype)
    blip = blip_oracle.oracle(model)
    tokens = blip_oracle.image_tokens(blip, frames)
    expected = torch.stack([blip_oracle.embedding(blip, clip) for clip in tokens])
    assert largest_difference(model.encode_video(frames).embedding, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_padded_texts_equal_blip_on_each_text_alone(dtype):
    model = tiny_model(dtype=dtype)
    blip = blip_oracle.oracle(model)
    input_ids, mask = random_captions(LENGTHS)
    found = model.encode_text(input_ids, mask)
    expected = torch.stack([blip_oracle.text_cls(blip, w) for w in words_of(input_ids, mask)])
    assert largest_difference(found.cls, expected) <= TOLERANCE[dtype]
    embedding = F.normalize(blip.text_proj(expected), dim=-1)
    assert largest_difference(found.embedding, embedding) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_matching_logits_of_padded_texts_equal_blip_on_each_pair_alone(dtype):
    model = tiny_model(dtype=dtype, pooling="concat")
    blip = blip_oracle.oracle(model)
    video = model.encode_video(random_frames(3, dtype=dtype))
    input_ids, mask = random_captions(LENGTHS)
    found = model.match(video, model.encode_text(input_ids, mask))
    pairs = zip(words_of(input_ids, mask), video.tokens, strict=True)
    expected = torch.stack([blip_oracle.matching_logits(blip, *pair) for pair in pairs])
    assert largest_difference(found, expected) <= TOLERANCE[dtype]


@torch.no_grad()
def test_scores_with_all_tokens_equal_blips_own_video_scores():
    model, frames = tiny_model(**BRANCH, pooling="concat"), random_frames(3)
    blip = blip_oracle.oracle(model)
    input_ids, mask = random_captions(LENGTHS)
    expected = torch.tensor(
        [
            [blip_oracle.video_score(blip, clip, words) for clip in frames]
            for words in words_of(input_ids, mask)
        ]
    )
    video, text = model.encode_video(frames), model.encode_text(input_ids, mask)
    found = score_gallery(model, video, text, k=3, score="itm+itc", batch_size=2)
    for direction in (found.text_to_video, found.video_to_text):
        assert largest_difference(torch.tensor(direction), expected) <= CLOSE
    assert expected.std() > 0.1  # random weights tell the pairs apart


# Question answering


@torch.no_grad()
def test_words_of_padded_questions_equal_blip_on_each_question_alone():
    model, frames = qa_model(**BLIP_ALONE), random_frames(3, num_frames=1)
    blip, asked = blip_oracle.answering_oracle(model), questions()
    found = model.encode(frames, asked).tokens
    tokens = blip_oracle.image_tokens(blip, frames).flatten(1, 2)
    for row, words in enumerate(words_of(asked.input_ids, asked.attention_mask)):
        expected = blip_oracle.grounded_words(blip, words, tokens[row])
        assert largest_difference(found[row, : len(words)], expected) <= CLOSE


@torch.no_grad()
def test_answer_log_likelihoods_of_padded_questions_equal_blip_on_each_pair_alone():
    """On clips, whose frames' tokens all go to the question as BLIP's evaluation on video does."""
    model, frames = qa_model(**{**BLIP_ALONE, "num_frames": 4}), random_frames(3)
    blip, asked, listed = blip_oracle.answering_oracle(model), questions(), answers(LIST_LENGTHS)
    tokens = blip_oracle.image_tokens(blip, frames).flatten(1, 2)
    grounded = [
        blip_oracle.grounded_words(blip, words, source)
        for words, source in zip(
            words_of(asked.input_ids, asked.attention_mask), tokens, strict=True
        )
    ]
    each = words_of(listed.input_ids, listed.attention_mask)
    expected = torch.tensor(
        [[blip_oracle.answer_log_likelihood(blip, words, a) for a in each] for words in grounded]
    )
    ranking = model.rank_answers(frames, asked, listed, len(each))
    assert largest_difference(ranking.scores, expected.gather(1, ranking.indices)) <= CLOSE
    assert expected.std() > 0.1


@torch.no_grad()
def test_loss_on_a_still_equals_blips_without_padding():
    model = qa_model(**BLIP_ALONE)
    blip, images = blip_oracle.answering_oracle(model), random_frames(3, num_frames=1)
    for row, length in enumerate(ANSWER_LENGTHS):
        asked, given = unpadded(questions(), row), unpadded(answers(), row)
        ours = model.loss(images[row : row + 1], asked, given)
        asked.input_ids[:, 0], given.input_ids[:, 0] = ENC, DEC
        theirs = blip(
            input_ids=asked.input_ids,
            pixel_values=images[row],
            decoder_input_ids=given.input_ids,
            labels=given.input_ids,
        ).loss
        assert largest_difference(ours, theirs * (length - 1)) <= CLOSE  # its mean, BLIP's sum
