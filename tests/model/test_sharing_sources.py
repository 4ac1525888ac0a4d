"""Texts that see one source: its keys and values are computed once, and nothing else changes."""

from typing import get_args

import pytest
import torch
from tiny import (
    BRANCH,
    TOLERANCE,
    conditioned,
    fill,
    largest_difference,
    random_captions,
    random_frames,
    tiny_config,
    tiny_model,
    train_temporal_parts,
)
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import flops_of
from litevl.errors import ShapeError
from litevl.model.config import Pooling
from litevl.model.text import Source, TextEncoder

CLOSE = TOLERANCE[torch.float32]
LENGTHS = [6, 9, 4, 7, 3]
ROWS = [1, 0, 1, 1, 2]
POOLINGS = get_args(Pooling)


def text_encoder():
    """A text encoder with random weights everywhere, biases of keys and values included."""
    encoder = TextEncoder(tiny_config())
    fill(encoder, 0)
    return encoder.eval()


def drawn(*shape, seed=0):
    """Random numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model_and_features(num_clips=3, **options):
    """A model in use, some clips, and captions of different length."""
    model = train_temporal_parts(tiny_model(**{"pooling_temperature": 0.1, **BRANCH, **options}))
    video = model.encode_video(random_frames(num_clips))
    return model, video, model.encode_text(*random_captions(LENGTHS))


@pytest.mark.parametrize("is_weighted", [True, False])
@pytest.mark.parametrize("is_masked", [True, False])
@pytest.mark.parametrize("needs_gradients", [True, False])
@pytest.mark.parametrize("num_rows", [1, 3])
def test_shared_rows_equal_a_source_for_each_text(
    num_rows, needs_gradients, is_masked, is_weighted
):
    encoder, (input_ids, mask) = text_encoder(), random_captions(LENGTHS)
    tokens, row = drawn(num_rows, 6, 24), torch.tensor(ROWS) % num_rows
    seen = torch.tensor([[1, 1, 1, 1, 0, 0]] * num_rows) if is_masked else None
    weights = drawn(5, 6, seed=1).exp() if is_weighted else None
    with torch.set_grad_enabled(needs_gradients):
        shared = encoder(input_ids, mask, Source(tokens, seen).seen(row, weights))
        own = tokens[row] if weights is None else tokens[row] * weights[..., None]
        plain = encoder(input_ids, mask, Source(own, None if seen is None else seen[row]))
    assert largest_difference(shared, plain) <= CLOSE


def test_gradients_of_shared_rows_are_those_of_a_source_for_each_text():
    input_ids, mask = random_captions(LENGTHS)
    tokens, weights, row = drawn(3, 6, 24), drawn(5, 6, seed=1).exp(), torch.tensor(ROWS)
    found = []
    for is_shared in (True, False):
        encoder = text_encoder()
        leaves = [tokens.clone().requires_grad_(), weights.clone().requires_grad_()]
        if is_shared:
            source = Source(leaves[0]).seen(row, leaves[1])
        else:
            source = Source(leaves[0][row] * leaves[1][..., None])
        encoder(input_ids, mask, source).square().sum().backward()
        parameters = [p.grad for p in encoder.parameters() if p.grad is not None]
        found.append([*parameters, *(leaf.grad for leaf in leaves)])
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        assert largest_difference(one, other) <= CLOSE * max(1.0, other.abs().max().item())


@torch.no_grad()
def test_first_word_alone_is_the_first_of_all_words():
    encoder, (input_ids, mask) = text_encoder(), random_captions(LENGTHS)
    source = Source(drawn(5, 6, 24))
    for seen in (None, source):
        first = encoder(input_ids, mask, seen, first_only=True)
        assert first.shape == (5, 1, 24)
        assert largest_difference(first, encoder(input_ids, mask, seen)[:, :1]) <= CLOSE


@torch.no_grad()
def test_kept_source_is_projected_once_for_several_passes():
    encoder, (input_ids, mask) = text_encoder(), random_captions(LENGTHS)
    source = Source(drawn(5, 6, 24))
    kept = source.keeping()
    first = encoder(input_ids, mask, kept)
    for layer in encoder.encoder.layer:  # what is kept no longer looks at these
        layer.crossattention.self.key.weight.zero_()
        layer.crossattention.self.value.weight.zero_()
    assert torch.equal(encoder(input_ids, mask, kept), first)
    assert largest_difference(encoder(input_ids, mask, source), first) > 0.01


@pytest.mark.parametrize("text_depth", [1, 3])
@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_match_of_chosen_pairs_equals_match_pair_by_pair(pooling, text_depth):
    model, video, text = model_and_features(pooling=pooling, text_depth=text_depth)
    clip, caption = torch.tensor([1, 0, 1, 1, 0]), torch.tensor([0, 3, 3, 1, 0])
    found = model.match_pairs(video, text, clip, caption)
    expected = model.match(video.select(clip), text.select(caption))
    assert expected.std() > 0.01
    assert largest_difference(found, expected) <= CLOSE


def test_captions_of_several_pairs_look_at_their_own_words_once():
    model, video, text = model_and_features()
    model.requires_grad_(False)
    clip, caption = torch.arange(2).repeat_interleave(4), torch.arange(4).repeat(2)
    shared = flops_of(lambda: model.match_pairs(video, text, clip, caption))
    assert shared < flops_of(lambda: model.match(video, text.select(caption), clip))


def test_chosen_pairs_have_a_clip_and_a_caption_each():
    model, video, text = model_and_features()
    with pytest.raises(ShapeError, match=r"caption should be \(P\) with P=2, got \(3,\)"):
        model.match_pairs(video, text, torch.tensor([0, 1]), torch.tensor([0, 1, 0]))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("space", ["hidden", "projected"])
@torch.no_grad()
def test_match_of_rows_equals_match_pair_by_pair(pooling, space):
    model, video, text = model_and_features(pooling=pooling, pooling_space=space)
    row = torch.tensor(ROWS)
    found = model.match(video, text, row)
    assert largest_difference(found, model.match(video.select(row), text)) <= CLOSE
    for number, clip in enumerate(ROWS):
        pair = torch.tensor([number])
        alone = model.match(video.select(torch.tensor([clip])), text.select(pair))
        assert largest_difference(found[pair], alone) <= CLOSE


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_matching_is_the_cross_encoder_on_weighted_tokens(pooling):
    model, video, text = model_and_features(num_clips=5, pooling=pooling)
    input_ids = text.input_ids.clone()
    input_ids[:, 0] = model.encode_token_id
    source = Source(conditioned(model, video, text))
    hidden = model.text_encoder(input_ids, text.attention_mask, source)
    expected = model.itm_head(hidden[:, 0])
    assert largest_difference(model.match(video, text), expected) <= CLOSE


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("at_once", [1, 2, 5, 64])
@torch.no_grad()
def test_one_clip_and_many_captions_match_as_in_pairs(pooling, at_once):
    model, video, text = model_and_features(pooling=pooling)
    one = video.select(slice(1, 2))
    expected = model.match(video.select(torch.ones(5, dtype=torch.long)), text)
    assert largest_difference(model.match_one(one, text, at_once), expected) <= CLOSE


@torch.no_grad()
def test_a_clip_is_projected_once_however_many_captions_it_meets():
    model, video, text = model_and_features()
    one = video.select(slice(0, 1))

    def flops(num_captions, at_once):
        captions = text.select(torch.zeros(num_captions, dtype=torch.long))
        with FlopCounterMode(display=False) as counter:
            model.match_one(one, captions, at_once)
        return counter.get_total_flops()

    keys_and_values = 2 * 2 * (1 + 4 + 9) * 24 * 24 * 2  # two products in each of two layers
    each = flops(3, 1) - flops(2, 1)
    assert flops(5, 1) - 5 * each >= keys_and_values
    assert flops(5, 1) == flops(1, 1) + 4 * each
    assert flops(5, 2) == flops(5, 1)


@torch.no_grad()
def test_match_one_takes_one_clip():
    model, video, text = model_and_features()
    with pytest.raises(ShapeError, match=r"video.tokens should be \(1 S D\) .*got \(3, 14, 24\)"):
        model.match_one(video, text, 8)


@torch.no_grad()
def test_rows_are_one_for_each_caption():
    model, video, text = model_and_features()
    with pytest.raises(ShapeError, match=r"row should be \(B\) with B=5, got \(3,\)"):
        model.match(video, text, torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("row", "weights", "message"),
    [
        ((3,), None, r"source.row should be \(B\) with B=2, got \(3,\)"),
        ((2,), (2, 5), r"source.weights should be \(B S\) with B=2 S=6, got \(2, 5\)"),
        ((2,), (3, 6), r"source.weights should be \(B S\) with B=2 S=6, got \(3, 6\)"),
    ],
)
def test_rows_and_weights_of_wrong_shape_raise(row, weights, message):
    encoder, (input_ids, mask) = text_encoder(), random_captions([4, 4])
    source = Source(torch.zeros(4, 6, 24)).seen(
        torch.zeros(row, dtype=torch.long), None if weights is None else torch.ones(weights)
    )
    with pytest.raises(ShapeError, match=message):
        encoder(input_ids, mask, source)
