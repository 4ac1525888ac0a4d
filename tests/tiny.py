"""Models small enough for tests, with random weights that leave nothing at zero or one by luck.

A fresh model's LayerNorms are the identity and its positions zero: many mistakes would not show.
"""

import torch

from litevl.model.config import LiteVLConfig
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.pooling import token_weights
from litevl.model.weights import NEW_BY_DESIGN

# Largest difference allowed between two ways to compute the same numbers, of size about one.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
SAME_SCORES = 1e-6  # float32: padding, batching and a temperature without end change nothing

SIZES = {
    "image_size_px": 24,
    "patch_size_px": 8,
    "vision_width": 24,
    "vision_depth": 2,
    "vision_heads": 3,
    "vocab_size": 40,
    "text_width": 24,
    "text_depth": 2,
    "text_heads": 3,
    "text_mlp_width": 48,
    "max_positions": 16,
    "embed_width": 8,
    "num_frames": 4,
}
WITHOUT_TEMPORAL = {"temporal_attention": False, "time_embedding": "none", "scaling": "none"}
BRANCH = {"time_embedding": "branch", "time_embedding_scale": 0.5}
CLS, SEP, FIRST_WORD, DEC, ENC = 2, 3, 4, 38, 39


def tiny_config(**options):
    """A config of 4 frames of 9 patches, 24 wide, with the given options."""
    return LiteVLConfig(**{**SIZES, **options})


def fill(module, seed, passes=None):
    """Draw all parameters, or those whose name passes.

    Matrices keep the size of what goes through them, biases and norms move away from 0 and 1.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if passes and not passes(name):
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("temp"):
                parameter.fill_(0.07)
            elif parameter.dim() < 2:
                is_norm_weight = "norm" in name.lower() and name.endswith("weight")
                parameter.copy_(0.2 * noise + is_norm_weight)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)


def tiny_model(seed=0, dtype=torch.float32, **options):
    """A model as it is after loading BLIP's weights: random BLIP parts, temporal parts at start."""
    model = LiteVLForRetrieval(tiny_config(**options))
    fill(model, seed, lambda name: not NEW_BY_DESIGN.match(name))
    model.visual_encoder.start_from_image_encoder(torch.Generator().manual_seed(seed + 1))
    return model.to(dtype).eval()


def train_temporal_parts(model, seed=2):
    """Move the temporal parts away from their start, as training would; returns the model."""
    fill(model, seed, lambda name: NEW_BY_DESIGN.match(name))
    return model


def conditioned(model, video, text):
    """The clips' tokens as the captions see them, written out: (B, S, D)."""
    weights = token_weights(video.tokens.shape[1], *model.pooling_weights(video, text))
    return video.tokens if weights is None else video.tokens * weights[..., None]


def random_frames(num_clips, seed=3, dtype=torch.float32, num_frames=4):
    """Clips as normalised frames (B, T, 3, 24, 24)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_clips, num_frames, 3, 24, 24, generator=generator).to(dtype)


def random_captions(lengths, seed=4, padding=None):
    """Captions of the given lengths as ids and mask (B, W), padded with zeros or random ids."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    ids = torch.randint(FIRST_WORD, DEC, shape, generator=generator)
    rest = torch.randint(FIRST_WORD, DEC, shape, generator=generator)
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    ids[:, 0] = CLS
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = SEP
    return torch.where(mask.bool(), ids, rest if padding == "random" else 0), mask


def largest_difference(one, other):
    """The largest absolute difference between two tensors of one shape."""
    assert one.shape == other.shape
    return (one - other).abs().max().item()


def have_same_scores(one, other):
    """Whether two tensors differ by rounding only: 1e-6, or 1e-6 of what is larger than one."""
    assert one.shape == other.shape
    return torch.allclose(one, other, rtol=SAME_SCORES, atol=SAME_SCORES)
