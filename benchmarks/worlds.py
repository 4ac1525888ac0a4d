"""Models of given sizes with random weights, and random clips and captions for them.

A time does not depend on what the weights are; so nothing is downloaded. Matrices keep the size of
what goes through them, so that scores are of size about one and can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Effort
from litevl.data.dataset import normalise
from litevl.engine.precision import Precision, settle
from litevl.model.config import LiteVLConfig
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.tokenizer import Tokens

AS_IN_SPECS: dict[str, Any] = {
    "time_embedding": "branch",
    "time_embedding_scale": 2.0,
    "pooling_temperature": 0.1,
    "pooling_space": "projected",
}
VIT_B = LiteVLConfig(**AS_IN_SPECS)
SMALL = LiteVLConfig(
    image_size_px=112,
    vision_width=192,
    vision_depth=3,
    vision_heads=3,
    vocab_size=1000,
    text_width=192,
    text_depth=3,
    text_heads=3,
    text_mlp_width=768,
    embed_width=64,
    **AS_IN_SPECS,
)
TINY = LiteVLConfig(
    image_size_px=32,
    vision_width=32,
    vision_depth=2,
    vision_heads=2,
    vocab_size=100,
    text_width=32,
    text_depth=2,
    text_heads=2,
    text_mlp_width=64,
    embed_width=16,
    **AS_IN_SPECS,
)
NUM_WORDS = 32  # word pieces of a caption
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
CLS, SEP = 1, 2  # which ids start and end a caption is nothing that a time depends on


@dataclass(frozen=True)
class Setting:
    """Where and how thoroughly to measure."""

    device: torch.device
    quick: bool

    @property
    def effort(self) -> Effort:
        """Three rounds of what takes long, more of what does not."""
        return Effort(seconds=0, rounds=3) if self.quick else Effort(seconds=20, rounds=15)

    @property
    def config(self) -> LiteVLConfig:
        """The model that figures are about."""
        return TINY if self.quick else VIT_B

    @property
    def config_name(self) -> str:
        """Its name."""
        return "tiny" if self.quick else "ViT-B/16"

    def can(self, precision: Precision) -> bool:
        """Whether it is measured: where products are not emulated, at 15 times their cost."""
        return self.quick or precision == "fp32" or settle("auto", self.device) == precision


def random_model(config: LiteVLConfig, device: torch.device, seed: int = 0) -> LiteVLForRetrieval:
    """A model in evaluation mode, its temporal parts away from their start, as after training."""
    model = LiteVLForRetrieval(config)
    generator = torch.Generator().manual_seed(seed)
    model.visual_encoder.start_from_image_encoder(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "temp":
                continue
            if parameter.dim() < 2:
                parameter.add_(0.1 * noise)  # norms and biases
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return model.eval().to(device)


def random_pictures(config: LiteVLConfig, num_clips: int, device: torch.device) -> Tensor:
    """Clips as they are decoded: uint8 (B, T, S, S, 3)."""
    size = config.image_size_px
    shape = (num_clips, config.num_frames, size, size, 3)
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device)


def random_frames(config: LiteVLConfig, num_clips: int, device: torch.device) -> Tensor:
    """The same clips as normalised frames (B, T, 3, S, S)."""
    return normalise(random_pictures(config, num_clips, device))


def random_captions(
    config: LiteVLConfig, num_captions: int, num_words: int, device: torch.device
) -> Tokens:
    """Captions of that many word pieces each, without padding: (B, W)."""
    generator = torch.Generator().manual_seed(2)
    shape = (num_captions, num_words)
    ids = torch.randint(SEP + 1, config.vocab_size - 2, shape, generator=generator)
    ids[:, 0], ids[:, -1] = CLS, SEP
    return Tokens(ids.to(device), torch.ones_like(ids).to(device))
