"""The text encoder and its causal twin."""

import blip_oracle
import pytest
import torch
from tiny import (
    DEC,
    TOLERANCE,
    fill,
    largest_difference,
    random_captions,
    tiny_config,
)

from litevl.errors import ShapeError
from litevl.model.text import (
    CrossAttentionHeads,
    SelfAttentionHeads,
    Source,
    TextDecoder,
    TextEncoder,
)

CLOSE = TOLERANCE[torch.float32]


def text_model(kind, seed=0):
    """An encoder or decoder with random weights."""
    model = kind(tiny_config())
    fill(model, seed)
    return model.eval()


def random_source(num_texts, num_tokens=6):
    """Video tokens to attend to (B, S, D)."""
    return torch.randn(num_texts, num_tokens, 24, generator=torch.Generator().manual_seed(9))


@torch.no_grad()
def test_words_attend_to_words_on_both_sides():
    encoder = text_model(TextEncoder)
    input_ids, mask = random_captions([5])
    changed = input_ids.clone()
    changed[0, 3] += 1
    moved = (encoder(changed, mask) - encoder(input_ids, mask)).abs().sum(dim=-1)
    assert (moved > 0).all()


@torch.no_grad()
def test_decoder_sees_no_word_that_comes_later():
    decoder, source = text_model(TextDecoder), random_source(1)
    input_ids, mask = random_captions([6])
    input_ids[:, 0] = DEC
    changed = input_ids.clone()
    changed[0, 3] += 1
    before, after = (decoder(ids, mask, Source(source)) for ids in (input_ids, changed))
    assert before.shape == (1, 6, 40)
    assert torch.equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] - after[:, 3:]).abs().amax(dim=-1).min() > CLOSE


@torch.no_grad()
def test_decoder_equals_blips():
    decoder, source = text_model(TextDecoder), random_source(2)
    blip = blip_oracle.decoder_oracle(decoder, tiny_config())
    input_ids, mask = random_captions([6, 6])
    input_ids[:, 0] = DEC
    expected = blip(input_ids, mask, encoder_hidden_states=source).logits
    assert largest_difference(decoder(input_ids, mask, Source(source)), expected) <= CLOSE


@torch.no_grad()
def test_decoder_predicts_with_the_embedding_matrix():
    decoder = text_model(TextDecoder)
    words = decoder.bert.embeddings.word_embeddings.weight
    assert decoder.cls.predictions.bias.shape == (len(words),)
    assert not [name for name, p in decoder.named_parameters() if p.shape == words.shape][1:]


@torch.no_grad()
def test_source_is_heard_and_its_mask_is_kept_to():
    encoder, source = text_model(TextEncoder), random_source(2)
    input_ids, mask = random_captions([5, 5])
    seen = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    changed = source.clone()
    changed[:, 4:] += 1.0
    before = encoder(input_ids, mask, Source(source, seen))
    after = encoder(input_ids, mask, Source(changed, seen))
    assert torch.equal(before[0], after[0])
    assert largest_difference(before[1], after[1]) > 0.01


@torch.no_grad()
def test_masked_source_equals_a_shorter_source():
    encoder, source = text_model(TextEncoder), random_source(1)
    input_ids, mask = random_captions([5])
    seen = torch.tensor([[1, 1, 1, 1, 0, 0]])
    masked = encoder(input_ids, mask, Source(source, seen))
    assert largest_difference(masked, encoder(input_ids, mask, Source(source[:, :4]))) <= CLOSE


@torch.no_grad()
def test_without_a_source_cross_attention_is_left_out():
    encoder = text_model(TextEncoder)
    input_ids, mask = random_captions([5])
    before = encoder(input_ids, mask)
    for layer in encoder.encoder.layer:
        layer.crossattention.output.dense.weight.add_(1.0)
    assert torch.equal(encoder(input_ids, mask), before)


@pytest.mark.parametrize(
    ("mask", "source", "source_mask", "message"),
    [
        ((2, 4), None, None, r"attention_mask should be \(B W\) with B=2 W=5, got \(2, 4\)"),
        ((2, 5), (3, 6, 24), None, r"source.tokens should be \(B S Dv\) .*got \(3, 6, 24\)"),
        ((2, 5), (2, 6, 23), None, r"source.tokens should be .*Dv=24, got \(2, 6, 23\)"),
        ((2, 5), (2, 6, 24), (2, 5), r"source.mask should be \(B S\) .*S=6.*, got \(2, 5\)"),
    ],
)
def test_wrong_shapes_raise_with_both_shapes(mask, source, source_mask, message):
    encoder = text_model(TextEncoder)
    with pytest.raises(ShapeError, match=message):
        encoder(
            torch.zeros(2, 5, dtype=torch.long),
            torch.ones(mask),
            None
            if source is None
            else Source(
                torch.zeros(source), None if source_mask is None else torch.ones(source_mask)
            ),
        )


def test_more_words_than_positions_raise():
    ids = torch.zeros(2, 17, dtype=torch.long)
    with pytest.raises(ShapeError, match=r"W <= 16, got \(2, 17\)"):
        text_model(TextEncoder)(ids, torch.ones_like(ids))


def test_attention_weights_are_dropped_in_training_as_blip_does():
    config = tiny_config(dropout=0.5)
    sizes = config.text_width, config.text_width, config.text_heads, config.dropout
    x = torch.randn(1, 6, config.text_width, generator=torch.Generator().manual_seed(0))
    seen = ((SelfAttentionHeads, (x, torch.ones(6).bool())), (CrossAttentionHeads, (Source(x),)))
    for kind, what in seen:
        heads = kind(*sizes)
        torch.manual_seed(0)
        assert not torch.equal(heads.train()(x, *what), heads(x, *what))
        assert torch.equal(heads.eval()(x, *what), heads(x, *what))
