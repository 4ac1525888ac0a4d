"""Attention written out, against SDPA."""

import pytest
import torch
from tiny import TOLERANCE, largest_difference
from torch.nn import functional as F

from litevl.model.attention import attend

CLOSE = TOLERANCE | {torch.bfloat16: 2e-2}


def drawn(dtype, *shape, seed=0):
    """Random numbers that want a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()


def inputs(dtype, words=5, tokens=7):
    """Queries, keys and values of two rows and three heads."""
    parts = ((words, 1), (tokens, 2), (tokens, 3))
    return [drawn(dtype, 2, 3, length, 4, seed=seed) for length, seed in parts]


MASKS = {
    "none": None,
    "padding": torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0]]).bool()[:, None, None],
    "causal": torch.ones(5, 7, dtype=torch.bool).tril(),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", CLOSE)
def test_outputs_and_gradients_are_those_of_sdpa(dtype, mask):
    found = []
    for function in (attend, F.scaled_dot_product_attention):
        parts = inputs(dtype)
        out = function(*parts, MASKS[mask])
        out.square().sum().backward()
        found.append([out, *(part.grad for part in parts)])
    for one, other in zip(*found, strict=True):
        assert largest_difference(one, other) <= CLOSE[dtype] * max(1, other.abs().max())


def test_what_is_masked_has_no_say():
    query, key, value = inputs(torch.float32)
    before = attend(query, key, value, MASKS["padding"])
    with torch.no_grad():
        key[1, :, 3:] += 5.0
        value[1, :, 3:] += 5.0
    assert torch.equal(attend(query, key, value, MASKS["padding"]), before)
    assert not torch.equal(attend(query, key, value), before)


def test_dropped_weights_are_made_up_for():
    value = torch.ones(1, 1, 10_000, 4)
    query, key = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 10_000, 4)
    torch.manual_seed(0)
    out = attend(query, key, value, dropout=0.5)
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)
    assert out[0, 0, 0, 0].item() != 1.0
    assert torch.allclose(attend(query, key, value), torch.ones(1, 1, 1, 4), atol=1e-3)


def test_no_rows_give_no_rows():
    parts = [torch.zeros(0, 3, length, 4) for length in (5, 7, 7)]
    assert attend(*parts, torch.ones(0, 1, 1, 7, dtype=torch.bool)).shape == (0, 3, 5, 4)


@pytest.mark.parametrize("rows", [3, 4, 5, 6])
def test_rows_that_are_alike_come_out_alike_to_the_last_bit(rows):
    # In evaluation, where answers that are alike have to rank alike.
    for tokens in (2, 3, 5, 7):
        one = (
            drawn(torch.bfloat16, 1, 1, length, 4, seed=tokens) for length in (5, tokens, tokens)
        )
        with torch.no_grad():
            out = attend(*(part.expand(rows, 3, -1, -1) for part in one)).flatten(0, 1)
        assert torch.equal(out, out[:1].expand_as(out))
