"""What a LiteVL model is made of: sizes that come with BLIP's weights, and LiteVL's own choices."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from litevl.errors import SpecError

TimeEmbedding = Literal["stream", "branch", "none"]
Scaling = Literal["dynamic", "layer", "input", "none"]
Pooling = Literal["text", "mean", "concat", "text-temporal", "text-spatial"]
PoolingSpace = Literal["hidden", "projected"]
# What a checkpoint of BLIP may lack and a model may start at random, if it is told to.
FreshPart = Literal["vision_proj", "text_proj", "itm_head", "temp"]

HEAD_WIDTH = 64  # BLIP: 12 heads of 64 in ViT-B and in BERT, 16 of 64 in ViT-L
CHOICES: dict[str, tuple[str, ...]] = {
    "time_embedding": get_args(TimeEmbedding),
    "scaling": get_args(Scaling),
    "pooling": get_args(Pooling),
    "pooling_space": get_args(PoolingSpace),
}
NUMBERS = {  # lowest and highest
    "dropout": (0.0, 1.0),
    "time_embedding_scale": (0.0, 1e3),
    "pooling_temperature": (1e-6, math.inf),  # infinity is mean pooling
}
HIGHEST = {"vision_depth": 1000, "text_depth": 1000, "vocab_size": 10**7}  # more than any model's
HIGHEST_SIZE = 2**16
DIVISIBLE = (
    ("image_size_px", "patch_size_px"),
    ("vision_width", "vision_heads"),
    ("text_width", "text_heads"),
)


@dataclass(frozen=True)
class LiteVLConfig:
    """Sizes of the two encoders and the options of DESIGN section 2. Defaults are BLIP ViT-B/16."""

    # From BLIP's weights.
    image_size_px: int = 224
    patch_size_px: int = 16
    vision_width: int = 768
    vision_depth: int = 12
    vision_heads: int = 12
    vocab_size: int = 30524
    text_width: int = 768
    text_depth: int = 12
    text_heads: int = 12
    text_mlp_width: int = 3072
    max_positions: int = 512
    embed_width: int = 256
    dropout: float = 0.1  # in the text encoder only, of attention weights too, as in BLIP

    # LiteVL's own.
    num_frames: int = 8
    temporal_attention: bool = True
    time_embedding: TimeEmbedding = "stream"
    time_embedding_scale: float = 0.0
    scaling: Scaling = "dynamic"
    pooling: Pooling = "text"
    pooling_temperature: float = 1.0
    pooling_space: PoolingSpace = "hidden"

    def __post_init__(self) -> None:
        """Raise SpecError, with all problems at once: wrong values, and parts that do not fit."""
        wrong = wrong_values(asdict(self))
        problems = list(wrong.values()) + misfits(self, wrong)
        if problems:
            raise SpecError(f"LiteVLConfig: {len(problems)} problem(s)\n  " + "\n  ".join(problems))

    @property
    def num_patches(self) -> int:
        """Patches per frame."""
        return (self.image_size_px // self.patch_size_px) ** 2


def wrong_values(values: dict[str, Any]) -> dict[str, str]:
    """Fields whose value alone is wrong, each with its message.

    Annotations alone would let `pooling="max"` pass, and quietly mean something else.
    """
    found = {}
    for field in fields(LiteVLConfig):
        name, value = field.name, values[field.name]
        if name in CHOICES:
            fits, wanted = value in CHOICES[name], "one of " + ", ".join(CHOICES[name])
        elif field.type == "bool":
            fits, wanted = isinstance(value, bool), "true or false"
        elif field.type == "int":
            highest = HIGHEST.get(name, HIGHEST_SIZE)
            fits = type(value) is int and 1 <= value <= highest
            wanted = f"a whole number from 1 to {highest}"
        else:
            least, most = NUMBERS[name]
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            fits = is_number and least <= value <= most
            wanted = f"a number from {least:g} to {most:g}"
        if not fits:
            found[name] = f"{name}: expected {wanted}, got {value!r}"
    return found


def misfits(config: LiteVLConfig, wrong: Collection[str]) -> list[str]:
    """Messages for values that do not fit together; sizes named in `wrong` are not compared."""
    problems = []
    sizes = asdict(config)
    for whole, part in DIVISIBLE:
        if whole not in wrong and part not in wrong and sizes[whole] % sizes[part]:
            problems.append(f"{whole}: {sizes[whole]} is not a multiple of {part} ({sizes[part]})")
    if config.time_embedding == "stream" and config.time_embedding_scale != 0:
        problems.append(
            "time_embedding_scale: 'stream' starts at zero, so that step 0 equals BLIP; "
            "use time_embedding 'branch' for another start"
        )
    has_temporal_parts = (config.time_embedding, config.scaling) != ("none", "none")
    if config.temporal_attention is False and has_temporal_parts:
        problems.append(
            "temporal_attention: false leaves nothing to scale or to tell time to; "
            "set time_embedding and scaling to 'none'"
        )
    if config.pooling_space == "hidden" and config.vision_width != config.text_width:
        problems.append(
            f"pooling_space: 'hidden' compares vision and text tokens and needs one width, "
            f"got {config.vision_width} and {config.text_width}; use 'projected'"
        )
    return problems
