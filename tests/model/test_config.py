import dataclasses
import math

import pytest
from tiny import tiny_config

from litevl.errors import SpecError
from litevl.model.config import CHOICES, NUMBERS, LiteVLConfig


def test_defaults_are_blip_with_vit_b_16():
    config = LiteVLConfig()
    assert config.num_patches == 14 * 14
    assert (config.vision_width, config.vision_depth, config.vision_heads) == (768, 12, 12)
    assert config.vocab_size == 30522 + 2


def test_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LiteVLConfig().num_frames = 4


def test_every_field_has_a_rule():
    ruled = {*CHOICES, *NUMBERS}
    others = {field.type for field in dataclasses.fields(LiteVLConfig) if field.name not in ruled}
    assert others == {"int", "bool"}


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_accepted_and_no_other(name):
    for choice in CHOICES[name]:
        assert dataclasses.asdict(tiny_config(**{name: choice}))[name] == choice
    with pytest.raises(SpecError, match=f"{name}: expected one of .*, got 'max'"):
        tiny_config(**{name: "max"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_frames", 0),
        ("num_frames", -1),
        ("num_frames", 8.0),
        ("num_frames", True),
        ("patch_size_px", 0),
        ("vision_heads", 0),
        ("vocab_size", "40"),
        ("temporal_attention", 1),
        ("temporal_attention", None),
        ("pooling", ["text"]),
        ("pooling_temperature", 0),
        ("pooling_temperature", -1.0),
        ("pooling_temperature", math.nan),
        ("pooling_temperature", "0.1"),
        ("dropout", -0.1),
        ("dropout", 1.5),
        ("dropout", True),
        ("time_embedding_scale", -0.5),
        ("time_embedding_scale", math.inf),
    ],
)
def test_wrong_value_is_named_with_what_was_expected(name, value):
    with pytest.raises(SpecError, match=f"1 problem.*\n  {name}: expected ") as caught:
        tiny_config(**{"time_embedding": "branch", name: value})
    assert str(caught.value).endswith(f"got {value!r}")


def test_temperature_without_end_is_mean_pooling_and_allowed():
    assert tiny_config(pooling_temperature=math.inf).pooling_temperature == math.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size_px": 25}, r"image_size_px: 25 is not a multiple of patch_size_px \(8\)"),
        ({"vision_heads": 5}, r"vision_width: 24 is not a multiple of vision_heads \(5\)"),
        ({"text_heads": 7}, r"text_width: 24 is not a multiple of text_heads \(7\)"),
        ({"time_embedding_scale": 0.5}, "time_embedding_scale: 'stream' starts at zero"),
        ({"temporal_attention": False, "scaling": "none"}, "nothing to scale or to tell time"),
        ({"temporal_attention": False, "time_embedding": "none"}, "temporal_attention: false"),
        ({"text_width": 48}, "pooling_space: 'hidden' .* 24 and 48; use 'projected'"),
    ],
)
def test_parts_that_do_not_fit_are_named(options, message):
    with pytest.raises(SpecError, match=message):
        tiny_config(**options)


def test_all_problems_come_at_once():
    with pytest.raises(SpecError) as caught:
        tiny_config(
            image_size_px=25,
            vision_heads=0,
            text_heads=7,
            pooling="max",
            pooling_temperature=0,
            time_embedding_scale=0.5,
            scaling="dynamic",
            temporal_attention=False,
            text_width=48,
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "LiteVLConfig: 8 problem(s)"
    assert {line.split(":")[0].strip() for line in lines[1:]} == {
        "vision_heads",
        "pooling",
        "pooling_temperature",
        "image_size_px",
        "text_width",
        "time_embedding_scale",
        "temporal_attention",
        "pooling_space",
    }
