"""BLIP's own files: names, sizes and every key's fate."""

from pathlib import Path

import pytest
import torch
from blip_files import SIZES, TWINS, blip_shapes, blip_state, write_blip

from litevl import LiteVLConfig, LiteVLForQuestionAnswering, LiteVLForRetrieval
from litevl.errors import WeightsError
from litevl.model.checkpoints import sizes_in_shapes, with_heads
from litevl.model.weights import NEW_BY_DESIGN, POSITIONS, load_blip, with_positions

CASES = [
    (LiteVLForRetrieval, "pretrain", "tiny", "hidden"),
    (LiteVLForRetrieval, "pretrain", "tiny-large", "projected"),
    (LiteVLForRetrieval, "retrieval", "tiny", "projected"),
    (LiteVLForRetrieval, "retrieval", "tiny-large", "projected"),
    (LiteVLForQuestionAnswering, "pretrain", "tiny", "projected"),
    (LiteVLForQuestionAnswering, "vqa", "tiny", "hidden"),
]


@pytest.mark.parametrize(("model_class", "family", "size", "space"), CASES)
def test_every_tensor_of_blips_file_is_loaded_as_it_is_or_dropped_by_design(
    tmp_path, model_class, family, size, space
):
    state = write_blip(tmp_path / "model.pth", size, family, image_size_px=24)
    model, report = load_blip(model_class, tmp_path / "model.pth", pooling_space=space)
    assert report.layout == "blip"
    assert report.loaded + len(report.dropped_by_design) == len(state)
    assert report.loaded + len(report.new_by_design) == len(model.state_dict())
    for key, tensor in model.state_dict().items():
        if not NEW_BY_DESIGN.match(key):
            assert torch.equal(tensor, state[key]), key


def test_decoder_that_read_wider_pictures_does_not_read_questions(tmp_path):
    """ViT-L in pre-training; BLIP's VQA drops these keys without a word and starts them anew."""
    write_blip(tmp_path / "model.pth", "tiny-large", "pretrain", image_size_px=24)
    key = r"text_decoder\.bert\.encoder\.layer\.0\.crossattention\.self\.key\.weight"
    message = rf"4 key\(s\) do not fit\n  {key}: \(64, 128\) in the checkpoint, \(64, 64\) wanted"
    with pytest.raises(WeightsError, match=message):
        load_blip(LiteVLForQuestionAnswering, tmp_path / "model.pth", pooling_space="projected")


@pytest.mark.parametrize(
    ("size", "family", "wanted"),
    [("base", "retrieval", 949), ("large", "retrieval", 1237), ("base", "vqa", 791)],
)
def test_number_of_keys_is_that_of_blips_own_models(size, family, wanted):
    shapes = blip_shapes(SIZES[size], family, 384)
    twins = [name for name in shapes if name.startswith(TWINS)] if family == "retrieval" else []
    queues = 4 if family == "retrieval" else 0
    assert len(shapes) + len(twins) + queues == wanted


@pytest.mark.parametrize(("size", "family"), [("base", "vqa"), ("base", "pretrain")])
def test_sizes_of_vit_b_are_the_default_ones(size, family):
    with torch.device("meta"):
        shapes = blip_shapes(SIZES[size], family, 224)
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
    found = with_heads(Path("model.pth"), sizes_in_shapes(Path("model.pth"), state))
    assert LiteVLConfig(**found) == LiteVLConfig()


def test_sizes_of_vit_l_are_told_by_the_shapes():
    with torch.device("meta"):
        shapes = blip_shapes(SIZES["large"], "retrieval", 384)
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
    found = with_heads(Path("model.pth"), sizes_in_shapes(Path("model.pth"), state))
    wanted = {"vision_width": 1024, "vision_depth": 24, "vision_heads": 16, "text_heads": 12}
    assert LiteVLConfig(**found, pooling_space="projected") == LiteVLConfig(
        **wanted, image_size_px=384, pooling_space="projected"
    )


# Momentum twins, precision, positions


def test_momentum_twins_and_queues_are_dropped_and_named(tmp_path):
    state = write_blip(tmp_path / "model.pth", family="retrieval", image_size_px=16)
    model, report = load_blip(LiteVLForRetrieval, tmp_path / "model.pth")
    twins = {name for name in state if name.partition(".")[0].endswith("_m")}
    others = {"image_queue", "text_queue", "idx_queue", "ptr_queue"}
    positions = {"text_encoder.embeddings.position_ids"}
    assert set(report.dropped_by_design) == twins | others | positions
    assert torch.equal(model.vision_proj.weight, state["vision_proj.weight"])  # not its twin's


def test_half_precision_is_made_full(tmp_path):
    state = blip_state(image_size_px=16)
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    torch.save({"model": halves}, tmp_path / "model.pth")
    model = LiteVLForRetrieval.from_blip(tmp_path / "model.pth", image_size_px=32)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.itm_head.weight, state["itm_head.weight"].half().float())


@pytest.mark.parametrize(("before_px", "after_px"), [(384, 224), (480, 224), (224, 384)])
def test_positions_are_resized_as_blip_does(before_px, after_px):
    generator = torch.Generator().manual_seed(0)
    before, after = before_px // 16, after_px // 16
    positions = torch.randn(1, 1 + before**2, 5, generator=generator)
    sizes = {"patch_size_px": 16, "image_size_px": before_px}
    state, resized = with_positions({POSITIONS: positions}, after_px, sizes)
    # BLIP's own steps: reshape to a square, channels first, bicubic, and back.
    square = positions[:, 1:].reshape(-1, before, before, 5).permute(0, 3, 1, 2)
    square = torch.nn.functional.interpolate(square, size=(after, after), mode="bicubic")
    expected = square.permute(0, 2, 3, 1).flatten(1, 2)
    assert torch.equal(state[POSITIONS][:, :1], positions[:, :1])  # [CLS] keeps its own
    assert torch.equal(state[POSITIONS][:, 1:], expected)
    assert resized == (
        f"visual_encoder.pos_embed: {before} x {before} patches ({before_px} px) to "
        f"{after} x {after} ({after_px} px)",
    )


def test_resized_positions_match_numbers_worked_out_by_hand():
    # Halving with half-pixel centres samples midway: weights -0.09375, 0.59375 of the four nearest.
    ramp = torch.arange(8.0)
    grid = ramp[:, None].expand(8, 8)  # constant along a row, rising downwards
    positions = torch.cat([torch.tensor([99.0]), grid.flatten()])[None, :, None]
    sizes = {"patch_size_px": 8, "image_size_px": 64}
    state, _ = with_positions({POSITIONS: positions}, 32, sizes)
    inner = state[POSITIONS][0, 1:, 0].view(4, 4)[1:3]
    assert torch.allclose(inner, torch.tensor([2.5, 4.5])[:, None].expand(2, 4))
    first = -0.09375 * 0 + 0.59375 * 0 + 0.59375 * 1 - 0.09375 * 2  # the border is repeated
    assert torch.allclose(state[POSITIONS][0, 1, 0], torch.tensor(first))
    assert state[POSITIONS][0, 0, 0] == 99


def test_positions_of_the_wanted_size_stay_as_they_are(tmp_path):
    write_blip(tmp_path / "model.pth", image_size_px=16)
    assert load_blip(LiteVLForRetrieval, tmp_path / "model.pth")[1].resized == ()
    _, report = load_blip(LiteVLForRetrieval, tmp_path / "model.pth", image_size_px=24)
    assert report.resized == (f"{POSITIONS}: 2 x 2 patches (16 px) to 3 x 3 (24 px)",)


# What a checkpoint lacks


HEADS = ("vision_proj", "text_proj", "itm_head", "temp")


def test_retrieval_from_a_vqa_checkpoint_is_an_error_unless_its_parts_may_start_fresh(tmp_path):
    path = tmp_path / "model.pth"
    write_blip(path, family="vqa", image_size_px=16)
    with pytest.raises(WeightsError) as caught:
        LiteVLForRetrieval.from_blip(path, fresh=["itm_head"])
    assert "5 key(s) do not fit" in str(caught.value)
    assert "temp: not in the checkpoint" in str(caught.value)
    sizes = {"embed_width": 8}  # a VQA file does not tell it
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 5, 6)]
    (one, report), (same, _), (other, _) = (
        load_blip(LiteVLForRetrieval, path, generator, HEADS, **sizes) for generator in generators
    )
    parts = [f"{part}.{kind}" for part in HEADS[:3] for kind in ("weight", "bias")]
    assert report.fresh == tuple(sorted([*parts, "temp"]))
    assert one.temp.item() == pytest.approx(0.07)
    for name in parts:
        drawn = one.state_dict()[name]
        assert torch.equal(drawn, same.state_dict()[name])
        assert not torch.equal(drawn, other.state_dict()[name])
        assert 0 < drawn.abs().max() <= 64**-0.5


def test_answering_in_the_projected_space_needs_projections_and_says_so(tmp_path):
    write_blip(tmp_path / "model.pth", family="vqa", image_size_px=16)
    with pytest.raises(WeightsError, match=r"vision_proj.weight: not in the checkpoint") as caught:
        LiteVLForQuestionAnswering.from_blip(tmp_path / "model.pth", pooling_space="projected")
    assert "VQA checkpoints have no projections: take pooling_space 'hidden'" in str(caught.value)


@pytest.mark.parametrize(
    ("fresh", "reason"),
    [
        ("itm_head", "itm_head.weight: asked to be fresh, but the checkpoint has it"),
        ("visual_encoder", "visual_encoder: the model has no such part to start fresh"),
        ("text_decoder", "text_decoder: the model has no such part to start fresh"),
    ],
)
def test_nothing_starts_fresh_that_need_not(tmp_path, fresh, reason):
    write_blip(tmp_path / "model.pth", image_size_px=16)
    with pytest.raises(WeightsError, match=reason):
        LiteVLForRetrieval.from_blip(tmp_path / "model.pth", fresh=[fresh])
