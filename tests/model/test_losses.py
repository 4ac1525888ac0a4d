"""Contrastive and matching loss, and the negatives they are computed on."""

import math

import pytest
import torch
from tiny import TOLERANCE

from litevl.errors import ShapeError
from litevl.model.losses import (
    contrastive_loss,
    hard_negatives,
    matching_loss,
    positive_targets,
    soft_cross_entropy,
)

CLOSE = TOLERANCE[torch.float32]


def random_similarity(size, seed=0):
    """Similarities divided by a temperature (B, B)."""
    return 3 * torch.randn(size, size, generator=torch.Generator().manual_seed(seed))


def naive_direction(logits, ids):
    """Cross entropy of each row, its weight shared by all columns of the same clip; a loop."""
    total = 0.0
    for row, own in zip(logits.tolist(), ids, strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        positives = [value for value, other in zip(row, ids, strict=True) if other == own]
        total += sum(log_sum - value for value in positives) / len(positives)
    return total / len(ids)


@pytest.mark.parametrize(
    "ids", [[0, 1, 2, 3, 4], [7, 7, 2, 3, 7], [5, 5, 5, 5, 5], [1, 2, 1, 2, 3]]
)
def test_contrastive_loss_equals_a_loop(ids):
    similarity = random_similarity(len(ids))
    targets = positive_targets(torch.tensor(ids), torch.tensor(ids))
    found = contrastive_loss(similarity, similarity.T, targets, targets).item()
    expected = (naive_direction(similarity, ids) + naive_direction(similarity.T, ids)) / 2
    assert found == pytest.approx(expected, rel=CLOSE)


def test_captions_of_one_clip_share_the_target():
    ids = torch.tensor([4, 9, 4])
    expected = torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]])
    assert torch.equal(positive_targets(ids, ids), expected)


def test_targets_reach_into_a_queue_that_holds_the_clip():
    targets = positive_targets(torch.tensor([4, 9]), torch.tensor([4, 9, 8, 4, 4]))
    third = 1 / 3
    expected = torch.tensor([[third, 0, 0, third, third], [0, 1, 0, 0, 0]])
    assert torch.equal(targets, expected)


def test_another_caption_of_the_clip_is_not_pushed_away():
    ids = torch.tensor([4, 4])
    logits = torch.zeros(2, 2, requires_grad=True)
    targets = positive_targets(ids, ids)
    contrastive_loss(logits, logits.T, targets, targets).backward()
    assert not logits.grad.any()


def test_soft_cross_entropy_is_computed_in_float32():
    logits = torch.tensor([[3.0, 0.5, 1.25]], dtype=torch.bfloat16)
    loss = soft_cross_entropy(logits, torch.tensor([[0.0, 1.0, 0.0]]))
    expected = math.log(math.exp(3) + math.exp(0.5) + math.exp(1.25)) - 0.5
    assert loss.item() == pytest.approx(expected, rel=CLOSE)


def test_soft_cross_entropy_names_both_shapes():
    with pytest.raises(ShapeError, match=r"targets should be .*B=2 K=3, got \(2, 2\)"):
        soft_cross_entropy(torch.zeros(2, 3), torch.zeros(2, 2))


# Hard negatives


@pytest.mark.parametrize("seed", range(20))
def test_hard_negative_is_never_the_same_clip(seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 4, (12,), generator=generator)
    ids[:2] = torch.tensor([0, 1])
    # The pair itself is by far the most similar: only the mask keeps it out.
    similarity = random_similarity(12, seed) + 50 * (ids[:, None] == ids[None])
    drawn = hard_negatives(similarity, ids, generator)
    assert drawn.shape == (12, 1)
    assert (ids[drawn] != ids[:, None]).all()


def test_several_negatives_are_different_ones_and_no_more_than_every_row_has():
    generator = torch.Generator().manual_seed(0)
    similarity, ids = random_similarity(6), torch.tensor([0, 0, 0, 1, 1, 2])
    two, many = (hard_negatives(similarity, ids, generator, count) for count in (2, 9))
    assert two.shape == (6, 2)
    assert many.shape == (6, 3)  # rows of clip 0 have three others
    for drawn in (two, many):
        assert (ids[drawn] != ids[:, None]).all()
        assert all(len(set(row)) == len(row) for row in drawn.tolist())


def test_batch_of_one_clip_gives_itself():
    ids = torch.tensor([3, 3, 3])
    drawn = hard_negatives(random_similarity(3), ids, torch.Generator().manual_seed(0))
    assert drawn.tolist() == [[0], [1], [2]]


def test_batch_of_one_pair_works():
    drawn = hard_negatives(torch.ones(1, 1), torch.tensor([0]), torch.Generator().manual_seed(0))
    assert drawn.tolist() == [[0]]


def test_only_the_rows_without_another_clip_stay_alone():
    similarity = torch.full((3, 3), -torch.inf).fill_diagonal_(0.0)  # softmax leaves others 0
    drawn = hard_negatives(similarity, torch.tensor([0, 1, 2]), torch.Generator().manual_seed(0))
    assert (drawn != torch.arange(3)[:, None]).all()


def test_negatives_are_drawn_in_proportion_to_their_similarity():
    num_draws = 2000
    row = torch.tensor([9.0, math.log(1), math.log(2), math.log(5)])  # the first is the clip itself
    similarity, ids = row.expand(4, 4), torch.arange(4)
    generator = torch.Generator().manual_seed(0)
    drawn = [int(hard_negatives(similarity, ids, generator)[0, 0]) for _ in range(num_draws)]
    shares = torch.bincount(torch.tensor(drawn), minlength=4) / num_draws
    weights = row.softmax(dim=0) + 1e-4
    weights[0] = 0
    four_deviations = 4 * math.sqrt(0.25 / num_draws)
    assert (shares - weights / weights.sum()).abs().max() < four_deviations
    assert shares[0] == 0


def test_same_generator_draws_the_same_negatives():
    ids = torch.arange(16)
    first, second, other = (
        hard_negatives(random_similarity(16), ids, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_similarity_that_is_not_finite_still_gives_negatives(value):
    similarity = torch.full((3, 3), value)
    drawn = hard_negatives(similarity, torch.arange(3), torch.Generator().manual_seed(0))
    assert (drawn != torch.arange(3)[:, None]).all()


def test_hard_negatives_name_both_shapes():
    generator = torch.Generator()
    with pytest.raises(ShapeError, match=r"similarity should be \(B B\), got \(2, 3\)"):
        hard_negatives(torch.zeros(2, 3), torch.arange(2), generator)
    with pytest.raises(ShapeError, match=r"ids should be \(B\) with B=2, got \(3,\)"):
        hard_negatives(torch.zeros(2, 2), torch.arange(3), generator)


# Matching


def test_matching_loss_is_the_mean_over_all_that_was_drawn():
    logits, labels = torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([1, 1])
    expected = (math.log(1 + math.exp(-2)) + 3 * math.log(1 + math.exp(1))) / 4
    found = matching_loss(logits, labels, torch.tensor([1, 3]))
    assert found.item() == pytest.approx(expected, rel=CLOSE)
