"""What is measured alike in every task: examples to look at, learned scale and cost."""

import numpy as np
import pytest
import torch
from hand_counts import (
    VARIANTS,
    A,
    D,
    E,
    T,
    W,
    flops_of_answer,
    flops_of_clip,
    flops_of_pair,
    linear,
)
from small import new_model
from small_questions import new_answerer, task_settings
from tiny import fill

from litevl import measure
from litevl.measure import cost, learned_scale, picked
from litevl.model.weights import NEW_BY_DESIGN
from litevl.spec import load_spec, resolve

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Return a function that gives the settings of a variant, of retrieval unless said."""
    folder = tmp_path_factory.mktemp("measuring")
    specs = {}
    for dataset in ("msrvtt", "msvd-qa"):
        task_settings(folder, dataset)
        specs[dataset] = load_spec(folder / f"{dataset}.toml")
    return lambda variant="full", dataset="msrvtt": resolve(specs[dataset], "mini", variant)


# Examples to look at


@pytest.mark.parametrize(
    ("right", "num_right", "num_wrong"),
    [([1, 0] * 10, 3, 3), ([1] * 9, 3, 0), ([0] * 9, 0, 3), ([1, 0, 0, 0, 0], 1, 3), ([0], 0, 1)],
    ids=["both", "all right", "all wrong", "one right", "one"],
)
def test_as_many_right_as_wrong_are_picked_and_always_the_same(right, num_right, num_wrong):
    mask = np.array(right, dtype=bool)
    found = picked(mask, 3)
    assert [right[place] for place in found] == [1] * num_right + [0] * num_wrong
    assert len(set(found)) == len(found)
    assert found[:num_right] == sorted(found[:num_right])
    assert found[num_right:] == sorted(found[num_right:])
    assert picked(mask, 3) == found


def test_recorded_frames_are_means_of_squares_where_they_are_large():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 226, 226, 3), np.uint8)
    small = measure.shrunk(frames)
    assert small.shape == (2, 3, 75, 75, 3)
    assert small.dtype == np.uint8
    assert (small[1, 2, 4, 7] == frames[1, 2, 12:15, 21:24].mean((0, 1)).round()).all()
    assert measure.shrunk(small) is small


def test_examples_are_drawn_and_not_the_first_ones():
    found = picked(np.arange(200) % 2 == 0, 3)
    assert found[:3] != [0, 2, 4]
    assert found[3:] != [1, 3, 5]


# Learned scale


@pytest.mark.parametrize(
    ("dataset", "new"), [("msrvtt", new_model), ("msvd-qa", new_answerer)], ids=["msrvtt", "qa"]
)
def test_learned_scale_has_a_value_per_layer_and_frame(settings, dataset, new):
    model = new(settings(dataset=dataset))
    fill(model, 5, NEW_BY_DESIGN.match)
    gamma = model.visual_encoder.blocks[0].temporal_scale.gamma
    assert learned_scale(model) == [pytest.approx((torch.tanh(gamma) + 1).tolist())]
    assert learned_scale(new(settings("no-scaling", dataset))) is None


# Cost


@pytest.mark.parametrize(("variant", "has_temporal", "num_tokens", "weighs"), VARIANTS)
def test_flops_are_those_counted_by_hand(settings, variant, has_temporal, num_tokens, weighs):
    chosen = settings(variant)
    assert chosen.model.pooling_space == "projected"
    model = new_model(chosen)
    found = cost(model, chosen, CPU)
    projection = linear(T, D, E)
    assert found["flops_per_clip"] == flops_of_clip(has_temporal) + projection
    assert found["flops_per_pair"] == flops_of_pair(num_tokens, weighs)
    assert found["parameters"] == sum(value.numel() for value in model.state_dict().values())
    assert 0.05 < found["peak_memory_gib"] < 64


@pytest.mark.parametrize(("variant", "has_temporal", "num_tokens", "weighs"), VARIANTS)
def test_flops_of_an_answer_are_those_counted_by_hand(
    settings, variant, has_temporal, num_tokens, weighs
):
    chosen = settings(variant, "msvd-qa")
    assert (chosen.data.max_tokens, chosen.data.max_answer_tokens) == (W, A + 1)
    assert chosen.model.pooling_space == "projected"
    model = new_answerer(chosen)
    found = cost(model, chosen, CPU)
    assert found["flops_per_clip"] == flops_of_clip(has_temporal)
    vocab_size = model.config.vocab_size
    assert found["flops_per_pair"] == flops_of_answer(num_tokens, weighs, vocab_size)
    assert found["parameters"] == sum(value.numel() for value in model.state_dict().values())
    assert 0.05 < found["peak_memory_gib"] < 64


def test_matching_all_tokens_costs_more_than_matching_pooled_ones(settings):
    text, concat = (
        cost(new_model(settings(name)), settings(name), CPU) for name in ("full", "concat-pooling")
    )
    assert concat["flops_per_pair"] > text["flops_per_pair"]
    assert concat["flops_per_clip"] == text["flops_per_clip"]


def test_memory_is_counted_in_the_units_of_the_system(settings, monkeypatch):
    class Usage:
        ru_maxrss = 2**21

    monkeypatch.setattr(measure.resource, "getrusage", lambda _: Usage)
    chosen = settings()
    model = new_model(chosen)
    for platform, gib in (("linux", 2.0), ("darwin", 2**-9)):
        monkeypatch.setattr(measure.sys, "platform", platform)
        assert cost(model, chosen, CPU)["peak_memory_gib"] == gib
