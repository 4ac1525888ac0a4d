"""Temporal attention, time embedding and dynamic temporal scaling."""

import pytest
import torch
from tiny import (
    BRANCH,
    TOLERANCE,
    WITHOUT_TEMPORAL,
    largest_difference,
    random_frames,
    tiny_config,
    tiny_model,
    train_temporal_parts,
)
from torch.nn import functional as F

from benchmarks.harness import flops_of
from litevl.engine.precision import computing
from litevl.errors import ShapeError
from litevl.model.vision import Block, PatchEmbed, TemporalScale, VideoEncoder, slow_waves

CLOSE = TOLERANCE[torch.float32]
LEARNED = ("dynamic", "layer", "input")
REORDERED = [2, 0, 3, 1]


def random_patches(seed=0):
    """Patch tokens of 2 clips (B, T, N, D)."""
    return torch.randn(2, 4, 9, 24, generator=torch.Generator().manual_seed(seed))


def trained_block(**options):
    """The first block of a model whose temporal parts have moved."""
    return train_temporal_parts(tiny_model(**options)).visual_encoder.blocks[0]


def test_patches_equal_the_convolution_they_stand_for():
    embed, images = PatchEmbed(8, 24), random_frames(1)[0]
    expected = embed.proj(images).flatten(2).transpose(1, 2)
    assert largest_difference(embed(images), expected) <= CLOSE


# Temporal attention


@torch.no_grad()
def test_a_patch_reaches_its_own_place_in_all_frames_and_no_other():
    block, patches = trained_block(), random_patches()
    changed = patches.clone()
    changed[0, 1, 5] += 1.0  # clip 0, frame 1, place 5
    moved = (block.across_time(changed, None) - block.across_time(patches, None)).abs().sum(dim=-1)
    expected = torch.zeros(2, 4, 9, dtype=torch.bool)
    expected[0, :, 5] = True
    assert torch.equal(moved > 0, expected)


@torch.no_grad()
def test_cls_takes_no_part_in_temporal_attention():
    block, tokens = trained_block(), torch.randn(1, 4, 10, 24)
    block.attn.proj.weight.zero_()  # only the temporal way between tokens is left
    changed = tokens.clone()
    changed[0, 1, 0] += 1.0
    moved = (block(changed, None) - block(tokens, None)).abs().sum(dim=-1)
    assert moved.nonzero().tolist() == [[0, 1, 0]]


@torch.no_grad()
def test_without_time_embedding_reordered_frames_give_reordered_features():
    model = train_temporal_parts(tiny_model(time_embedding="none", scaling="none"))
    frames = random_frames(2)
    expected = model.visual_encoder(frames)[:, REORDERED]
    assert largest_difference(model.visual_encoder(frames[:, REORDERED]), expected) <= CLOSE


@pytest.mark.parametrize("time", ["stream", "branch"])
@torch.no_grad()
def test_with_time_embedding_the_order_of_frames_matters(time):
    model = train_temporal_parts(tiny_model(time_embedding=time, scaling="none"))
    frames = random_frames(2)
    forward, backward = model.encode_video(frames), model.encode_video(frames.flip(1))
    assert largest_difference(forward.embedding, backward.embedding) > 0.01


@torch.no_grad()
def test_branch_time_embedding_acts_through_temporal_attention_only():
    model, frames = train_temporal_parts(tiny_model(**BRANCH)), random_frames(1)
    for block in model.visual_encoder.blocks:
        block.temporal_scale.gamma.fill_(-torch.inf)  # a scale of 0
    before = model.visual_encoder(frames)
    model.visual_encoder.time_embed.add_(1.0)
    assert torch.equal(model.visual_encoder(frames), before)


# The start from an image encoder


def test_temporal_weights_start_as_copies_of_the_spatial_ones_and_their_output_at_zero():
    for block in tiny_model().visual_encoder.blocks:
        assert torch.equal(block.temporal_attn.qkv.weight, block.attn.qkv.weight)
        assert torch.equal(block.temporal_attn.qkv.bias, block.attn.qkv.bias)
        assert torch.equal(block.temporal_norm.weight, block.norm1.weight)
        assert torch.equal(block.temporal_norm.bias, block.norm1.bias)
        assert not block.temporal_attn.proj.weight.any()
        assert not block.temporal_attn.proj.bias.any()


def test_temporal_weights_are_copies_and_not_the_spatial_ones_themselves():
    block = tiny_model().visual_encoder.blocks[0]
    with torch.no_grad():
        block.temporal_attn.qkv.weight.add_(1.0)
    assert not torch.equal(block.temporal_attn.qkv.weight, block.attn.qkv.weight)


def test_branch_time_embedding_is_slow_waves_of_its_scale_drawn_from_the_generator():
    encoder = VideoEncoder(tiny_config(**BRANCH))
    drawn = []
    for seed in (1, 1, 2):
        encoder.start_from_image_encoder(torch.Generator().manual_seed(seed))
        drawn.append(encoder.time_embed.detach().clone())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[2], 0.5 * slow_waves(4, 24, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("num_frames", [3, 8, 32])
def test_slow_waves_have_size_one_and_take_at_least_two_clips_for_a_period(num_frames):
    waves = slow_waves(num_frames, 4096, torch.Generator().manual_seed(0))
    assert waves.shape == (num_frames, 4096)
    assert waves.square().mean().sqrt().item() == pytest.approx(1, abs=0.03)
    assert waves.diff(dim=0).abs().max() <= 2**0.5 * torch.pi / num_frames
    turns = (waves.diff(dim=0).sign().diff(dim=0) != 0).sum(dim=0)
    assert turns.max() == 1
    distances = torch.cdist(waves, waves) / 4096**0.5
    order = torch.arange(num_frames, dtype=torch.float32)
    apart = (order[:, None] - order).abs()
    for far in range(2, num_frames):  # the further apart in time, the further apart
        assert distances[apart == far].min() > distances[apart == far - 1].max()


def test_stream_time_embedding_starts_at_zero():
    assert not tiny_model(time_embedding="stream").visual_encoder.time_embed.any()


def test_temporal_projection_gets_a_gradient_at_step_zero():
    model = tiny_model()
    gradient = torch.autograd.grad(
        model.encode_video(random_frames(2)).embedding[0, 0],
        [block.temporal_attn.proj.weight for block in model.visual_encoder.blocks],
    )
    assert all(part.abs().max() > 0 for part in gradient)


def test_no_temporal_attention_has_no_temporal_parameters():
    names = [name for name, _ in tiny_model(**WITHOUT_TEMPORAL).named_parameters()]
    assert not [name for name in names if "temporal" in name or "time" in name]


# Dynamic temporal scaling


@pytest.mark.parametrize("scaling", ["dynamic", "layer", "input", "none"])
@torch.no_grad()
def test_scale_is_one_at_the_start(scaling):
    scale = TemporalScale(scaling, num_frames=4, width=24)(random_patches())
    assert torch.equal(torch.as_tensor(scale).expand(2, 4, 9, 24), torch.ones(2, 4, 9, 24))


@pytest.mark.parametrize(
    ("scaling", "shape"),
    [("dynamic", (1, 4, 1, 1)), ("layer", (1, 1, 1, 1)), ("input", (2, 4, 1, 1))],
)
@torch.no_grad()
def test_scale_is_per_frame_per_layer_or_per_clip_and_frame(scaling, shape):
    scale = TemporalScale(scaling, num_frames=4, width=24)
    for parameter in scale.parameters():
        parameter.copy_(torch.linspace(-3, 3, parameter.numel()).view_as(parameter))
    found = scale(random_patches())
    assert found.shape == shape
    assert len(found.unique()) == found.numel()
    assert found.min() > 0
    assert found.max() < 2


@pytest.mark.parametrize("scaling", LEARNED)
def test_number_of_scale_parameters(scaling):
    count = sum(p.numel() for p in TemporalScale(scaling, num_frames=4, width=24).parameters())
    assert count == {"dynamic": 4, "layer": 1, "input": 24 + 1}[scaling]


@torch.no_grad()
def test_temporal_attention_of_each_frame_is_multiplied_by_tanh_gamma_plus_one():
    block, patches = trained_block(), random_patches()
    gamma = torch.tensor([-2.0, 0.0, 0.5, 3.0])
    block.temporal_scale.gamma.zero_()
    plain = block.across_time(patches, None) - patches
    block.temporal_scale.gamma.copy_(gamma)
    scaled = block.across_time(patches, None) - patches
    expected = plain * (torch.tanh(gamma) + 1)[None, :, None, None]
    assert largest_difference(scaled, expected) <= CLOSE


@pytest.mark.parametrize("scaling", LEARNED)
def test_every_scale_parameter_gets_a_gradient_once_attention_says_something(scaling):
    model = train_temporal_parts(tiny_model(scaling=scaling))
    model.encode_video(random_frames(2)).embedding[0, 0].backward()
    for block in model.visual_encoder.blocks:
        for parameter in block.temporal_scale.parameters():
            assert (parameter.grad != 0).all()


@torch.no_grad()
def test_learned_scales_have_one_row_per_layer_and_one_column_per_frame():
    model = tiny_model(scaling="dynamic")
    assert torch.equal(model.visual_encoder.temporal_scales(), torch.ones(2, 4))
    gamma = torch.tensor([[0.1, 0.2, 0.3, 0.4], [-0.1, -0.2, -0.3, -0.4]])
    for row, block in zip(gamma, model.visual_encoder.blocks, strict=True):
        block.temporal_scale.gamma.copy_(row)
    assert torch.equal(model.visual_encoder.temporal_scales(), torch.tanh(gamma) + 1)


@torch.no_grad()
def test_scale_per_layer_is_shown_for_every_frame():
    model = tiny_model(scaling="layer")
    model.visual_encoder.blocks[1].temporal_scale.gamma.fill_(0.5)
    expected = torch.tensor([[1.0] * 4, [torch.tanh(torch.tensor(0.5)).item() + 1] * 4])
    assert torch.equal(model.visual_encoder.temporal_scales(), expected)


@pytest.mark.parametrize("options", [{"scaling": "input"}, {"scaling": "none"}, WITHOUT_TEMPORAL])
def test_scales_that_are_not_learned_are_not_shown(options):
    assert tiny_model(**options).visual_encoder.temporal_scales() is None


# Shapes


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((2, 4, 3, 24), "H=24 W=24 T=4"),
        ((2, 4, 3, 16, 16), "H=24 W=24 T=4"),
        ((2, 4, 24, 24, 3), "H=24 W=24 T=4"),
        ((2, 5, 3, 24, 24), "H=24 W=24 T=4"),
    ],
)
def test_wrong_frames_raise_with_both_shapes(shape, wanted):
    with pytest.raises(ShapeError, match=r"frames should be \(B T 3 H W\)") as caught:
        tiny_model().encode_video(torch.zeros(shape))
    assert wanted in str(caught.value)
    assert f"got {shape}" in str(caught.value)


@torch.no_grad()
def test_without_temporal_attention_any_number_of_frames_will_do():
    model = tiny_model(**WITHOUT_TEMPORAL)
    assert model.visual_encoder(random_frames(2, num_frames=7)).shape == (2, 7, 10, 24)
    assert model.encode_video(random_frames(2, num_frames=7)).tokens.shape == (2, 1 + 7 + 9, 24)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("options", [BRANCH, WITHOUT_TEMPORAL])
def test_cls_alone_is_the_cls_among_patches_and_takes_fewer_operations(options, recompute):
    encoder, frames = train_temporal_parts(tiny_model(**options)).visual_encoder, random_frames(2)
    encoder.recompute = recompute
    assert largest_difference(encoder(frames, cls_only=True), encoder(frames)[:, :, :1]) <= CLOSE
    encoder.requires_grad_(False)
    assert flops_of(lambda: encoder(frames, cls_only=True)) < flops_of(lambda: encoder(frames))


@torch.no_grad()
def test_one_clip_of_one_frame_works():
    model = train_temporal_parts(tiny_model(num_frames=1))
    assert model.encode_video(random_frames(1, num_frames=1)).embedding.shape == (1, 8)


def test_block_without_temporal_attention_is_a_plain_vit_block():
    torch.manual_seed(0)
    block, x = Block(tiny_config(**WITHOUT_TEMPORAL)), torch.randn(1, 2, 10, 24)
    flat = x.flatten(0, 1)
    flat = flat + block.attn(F.layer_norm(flat, (24,), eps=1e-6))
    flat = flat + block.mlp(F.layer_norm(flat, (24,), eps=1e-6))
    assert largest_difference(block(x, None), flat.view_as(x)) <= CLOSE


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_blocks_give_the_same_features_and_gradients_bit_for_bit(precision):
    found = []
    for recompute in (False, True):
        encoder = train_temporal_parts(tiny_model(**BRANCH)).visual_encoder.train()
        encoder.recompute = recompute
        with computing(precision, torch.device("cpu")):
            out = encoder(random_frames(2))
        out.float().square().sum().backward()
        found.append((out, [parameter.grad for parameter in encoder.parameters()]))
    (out, gradients), (other, others) = found
    assert torch.equal(out, other)
    assert all(torch.equal(one, same) for one, same in zip(gradients, others, strict=True))


def test_recomputing_keeps_less_for_the_backward_pass():
    kept = []
    for recompute in (False, True):
        encoder = tiny_model().visual_encoder
        encoder.recompute, sizes = recompute, []

        def note(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            encoder(random_frames(2))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2
