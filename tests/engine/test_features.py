"""Gradients carried back through encoders that have run in parts."""

import pytest
import torch
from torch import nn

from litevl.engine.distributed import ALONE
from litevl.engine.features import Features, parts_of

CPU = torch.device("cpu")
ROWS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def encoder() -> nn.Module:
    """A layer with dropout."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))


def loss(features: torch.Tensor) -> torch.Tensor:
    """All rows meet: no part's gradient is its own affair."""
    return (features * WEIGHTS).sum() ** 2 + (features @ features.T).exp().mean().log()


@pytest.mark.parametrize("at_once", [1, 2, 3, 5])
def test_gradients_are_those_of_one_pass_with_the_same_dropout(at_once):
    plain, cached = encoder(), encoder()
    torch.manual_seed(3)
    parts = [plain(ROWS[part.start : part.stop]) for part in parts_of(range(5), at_once)]
    expected = torch.cat(parts)
    loss(expected).backward()
    after = torch.rand(1)

    torch.manual_seed(3)
    found = Features(lambda rows: [cached(ROWS[rows.start : rows.stop])], 5, at_once, ALONE, CPU)
    assert torch.equal(found.whole[0], expected)
    loss(found.whole[0]).backward()
    found.backward()
    for one, other in zip(cached.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert torch.equal(torch.rand(1), after), "the second pass has drawn from the stream"


def test_parts_are_kept_for_the_second_pass_only_where_there_is_one():
    net, passes = encoder(), []

    def encode(rows):
        passes.append((rows, torch.is_grad_enabled()))
        return [net(ROWS[rows.start : rows.stop])]

    for at_once in (5, 3):
        features = Features(encode, 5, at_once, ALONE, CPU)
        loss(features.whole[0]).backward()
        features.backward()
    assert passes == [
        (range(5), True),
        (range(3), False),
        (range(3, 5), False),
        (range(3), True),
        (range(3, 5), True),
    ]


def test_output_that_the_loss_does_not_use_has_no_gradient():
    net = encoder()
    features = Features(lambda rows: [net(ROWS[rows.start : rows.stop]), ROWS], 5, 5, ALONE, CPU)
    features.whole[0].sum().backward()
    features.backward()
    assert net[0].weight.grad.any()
