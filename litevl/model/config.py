"""What a LiteVL model is made of: sizes that come with BLIP's weights, and LiteVL's own choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from litevl.errors import SpecError

TimeEmbedding = Literal["stream", "branch", "none"]
Scaling = Literal["dynamic", "layer", "input", "none"]
Pooling = Literal["text", "mean", "concat", "text-temporal", "text-spatial"]
PoolingSpace = Literal["hidden", "projected"]

HEAD_WIDTH = 64  # BLIP: 12 heads of 64 in ViT-B and in BERT, 16 of 64 in ViT-L


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
    dropout: float = 0.1  # in the text encoder only, as in BLIP

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
        """Raise SpecError, with all problems at once, where the parts do not fit together."""
        problems = []
        if self.image_size_px % self.patch_size_px:
            problems.append(
                f"image_size_px: {self.image_size_px} is not a multiple of "
                f"patch_size_px ({self.patch_size_px})"
            )
        if self.vision_width % self.vision_heads or self.text_width % self.text_heads:
            problems.append("vision_heads, text_heads: each must divide its width")
        if self.time_embedding == "stream" and self.time_embedding_scale != 0:
            problems.append(
                "time_embedding_scale: 'stream' starts at zero, so that step 0 equals BLIP; "
                "use time_embedding 'branch' for another start"
            )
        if not self.temporal_attention and (self.time_embedding, self.scaling) != ("none", "none"):
            problems.append(
                "temporal_attention: false leaves nothing to scale or to tell time to; "
                "set time_embedding and scaling to 'none'"
            )
        if self.pooling_temperature <= 0:
            problems.append(f"pooling_temperature: {self.pooling_temperature} is not above 0")
        if self.pooling_space == "hidden" and self.vision_width != self.text_width:
            problems.append(
                f"pooling_space: 'hidden' compares vision and text tokens and needs one width, "
                f"got {self.vision_width} and {self.text_width}; use 'projected'"
            )
        if problems:
            raise SpecError(f"LiteVLConfig: {len(problems)} problem(s)\n  " + "\n  ".join(problems))

    @property
    def num_patches(self) -> int:
        """Patches per frame."""
        return (self.image_size_px // self.patch_size_px) ** 2
