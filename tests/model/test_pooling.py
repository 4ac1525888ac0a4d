"""Text-dependent pooling: its identities, its options, and what it does not look at."""

import math
from typing import get_args

import pytest
import torch
from tiny import (
    TOLERANCE,
    conditioned,
    have_same_scores,
    largest_difference,
    random_captions,
    random_frames,
    tiny_model,
    train_temporal_parts,
)

from litevl.errors import ShapeError
from litevl.model.config import Pooling
from litevl.model.pooling import frame_and_patch_features, pooled_tokens, text_weights

REORDERED = [2, 0, 3, 1]
WEIGHS = {
    "text": (True, True),
    "text-temporal": (True, False),
    "text-spatial": (False, True),
    "mean": (False, False),
    "concat": (False, False),
}


def pair(model, num_clips=3):
    """Features of random clips and of as many random captions."""
    lengths = [5, 9, 3][:num_clips]
    return model.encode_video(random_frames(num_clips)), model.encode_text(
        *random_captions(lengths)
    )


def pooling_model(**options):
    """A model in use: temporal parts moved, and a temperature that makes the weights differ."""
    return train_temporal_parts(tiny_model(**{"pooling_temperature": 0.1, **options}))


# The weights


def test_weights_are_a_softmax_of_cosines_with_mean_one():
    generator = torch.Generator().manual_seed(0)
    tokens, text = torch.randn(2, 5, 6, generator=generator), torch.randn(2, 6, generator=generator)
    found = text_weights(tokens, text, temperature=0.3)
    for clip in range(2):
        cosines = [
            math.exp(
                sum(a * b for a, b in zip(token.tolist(), text[clip].tolist(), strict=True))
                / (token.norm().item() * text[clip].norm().item())
                / 0.3
            )
            for token in tokens[clip]
        ]
        expected = torch.tensor([5 * cosine / sum(cosines) for cosine in cosines])
        assert largest_difference(found[clip], expected) <= TOLERANCE[torch.float32]
    assert have_same_scores(found.mean(dim=1), torch.ones(2))


def test_token_nearest_to_the_text_weighs_most():
    text = torch.tensor([[1.0, 0.0]])
    tokens = torch.tensor([[[0.0, 9.0], [1.0, 1.0], [0.2, 0.0], [-5.0, 0.0]]])
    weights = text_weights(tokens, text, temperature=0.01)
    assert weights.argsort(descending=True).tolist() == [[2, 1, 0, 3]]
    assert weights[0, 2].item() == pytest.approx(4.0)


def test_length_of_tokens_and_text_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    tokens, text = torch.randn(2, 5, 6, generator=generator), torch.randn(2, 6, generator=generator)
    scaled = text_weights(tokens * torch.arange(1, 6)[:, None], text * 7, 0.1)
    assert largest_difference(scaled, text_weights(tokens, text, 0.1)) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize(
    ("tokens", "text", "message"),
    [
        ((2, 5), (2, 6), r"tokens should be \(B K D\), got \(2, 5\)"),
        ((2, 5, 6), (3, 6), r"text should be \(B D\) with B=2 D=6, got \(3, 6\)"),
        ((2, 5, 6), (2, 7), r"text should be \(B D\) with B=2 D=6, got \(2, 7\)"),
    ],
)
def test_wrong_shapes_raise_with_both_shapes(tokens, text, message):
    with pytest.raises(ShapeError, match=message):
        text_weights(torch.zeros(tokens), torch.zeros(text), 1.0)


# Identities


@pytest.mark.parametrize("space", ["hidden", "projected"])
@pytest.mark.parametrize("temperature", [1e9, math.inf])
@torch.no_grad()
def test_temperature_towards_infinity_is_mean_pooling(temperature, space):
    model = pooling_model(pooling_temperature=temperature, pooling_space=space)
    mean = pooling_model(pooling="mean")
    video, text = pair(model)
    assert have_same_scores(conditioned(model, video, text), conditioned(mean, video, text))
    assert have_same_scores(model.match(video, text), mean.match(video, text))


@torch.no_grad()
def test_at_a_low_temperature_it_is_not_mean_pooling():
    model, mean = pooling_model(), pooling_model(pooling="mean")
    video, text = pair(model)
    assert largest_difference(model.match(video, text), mean.match(video, text)) > 0.01


@pytest.mark.parametrize("space", ["hidden", "projected"])
@torch.no_grad()
def test_permuting_frames_permutes_frame_weights_and_leaves_patch_weights(space):
    model = pooling_model(pooling_space=space)
    tokens, (_, text) = model.visual_encoder(random_frames(3)), pair(model)
    video, reordered = model.video_features(tokens), model.video_features(tokens[:, REORDERED])
    frames, patches = model.pooling_weights(video, text)
    frames_after, patches_after = model.pooling_weights(reordered, text)
    assert have_same_scores(frames_after, frames[:, REORDERED])
    assert have_same_scores(patches_after, patches)
    assert frames.std() > 0.01  # the weights differ, so that their order shows


@pytest.mark.parametrize("space", ["hidden", "projected"])
@torch.no_grad()
def test_weights_of_frames_and_patches_have_mean_one(space):
    model = pooling_model(pooling_space=space)
    frames, patches = model.pooling_weights(*pair(model))
    assert frames.shape == (3, 4)
    assert patches.shape == (3, 9)
    for weights in (frames, patches):
        assert (weights > 0).all()
        assert have_same_scores(weights.mean(dim=1), torch.ones(3))


@torch.no_grad()
def test_weights_depend_on_the_text_and_the_text_only_through_its_cls():
    model = pooling_model()
    video, text = pair(model)
    others = text.select(torch.tensor([1, 2, 0]))
    assert (
        largest_difference(
            model.pooling_weights(video, text)[0], model.pooling_weights(video, others)[0]
        )
        > 0.01
    )
    words_of_others = type(text)(text.cls, text.embedding, others.input_ids, others.attention_mask)
    for one, other in zip(
        model.pooling_weights(video, text),
        model.pooling_weights(video, words_of_others),
        strict=True,
    ):
        assert torch.equal(one, other)


@torch.no_grad()
def test_projected_space_compares_what_retrieval_compares():
    model = pooling_model(pooling_space="projected")
    video, text = pair(model)
    frames, _ = frame_and_patch_features(model.visual_encoder(random_frames(3)))
    expected = text_weights(model.vision_proj(frames), model.text_proj(text.cls), 0.1)
    assert torch.equal(model.pooling_weights(video, text)[0], expected)
    hidden = pooling_model().pooling_weights(video, text)[0]
    assert largest_difference(hidden, expected) > 0.01


def test_pooling_adds_no_parameters():
    sizes = {
        pooling: sum(parameter.numel() for parameter in tiny_model(pooling=pooling).parameters())
        for pooling in WEIGHS
    }
    assert len(set(sizes.values())) == 1


# Options


def test_every_pooling_is_one_of_those_tested_here():
    assert WEIGHS.keys() == set(get_args(Pooling))


@pytest.mark.parametrize("pooling", WEIGHS)
@torch.no_grad()
def test_each_option_weighs_frames_patches_both_or_nothing(pooling):
    model = pooling_model(pooling=pooling)
    weights = model.pooling_weights(*pair(model))
    assert tuple(part is not None for part in weights) == WEIGHS[pooling]


@pytest.mark.parametrize("pooling", ["text", "text-temporal", "text-spatial", "mean"])
@torch.no_grad()
def test_pooled_sequence_is_cls_then_frames_then_patches(pooling):
    model = pooling_model(pooling=pooling)
    encoded, (video, text) = model.visual_encoder(random_frames(3)), pair(model)
    found = conditioned(model, video, text)
    assert found.shape == (3, 1 + 4 + 9, 24)
    of_frames, of_patches = (
        torch.ones(3, size) if weights is None else weights
        for weights, size in zip(model.pooling_weights(video, text), (4, 9), strict=True)
    )
    for clip in range(3):
        tokens = encoded[clip]  # (T, 1 + N, D)
        rows = [sum(tokens[t, 0] for t in range(4)) / 4]
        for t in range(4):
            rows.append(of_frames[clip, t] * sum(tokens[t, 1 + n] for n in range(9)) / 9)
        for n in range(9):
            rows.append(of_patches[clip, n] * sum(tokens[t, 1 + n] for t in range(4)) / 4)
        assert largest_difference(found[clip], torch.stack(rows)) <= TOLERANCE[torch.float32]


def test_concat_keeps_every_token_frame_after_frame():
    video = torch.randn(2, 4, 10, 24)
    found = pooled_tokens(video, "concat")
    assert torch.equal(found, torch.cat([video[:, t] for t in range(4)], dim=1))
