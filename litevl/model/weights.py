"""BLIP's weights into LiteVL: every key is loaded, new by design, or dropped by design.

Sources: a checkpoint in BLIP's own key layout (safetensors with its sizes in the metadata); the
shipped mini-BLIP is one. The other layouts arrive with the paper profile.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from litevl.assets import MINI_BLIP
from litevl.errors import WeightsError
from litevl.model.config import LiteVLConfig

if TYPE_CHECKING:
    from litevl.model.litevl import LiteVLForRetrieval
    from litevl.model.question_answering import LiteVLForQuestionAnswering

NEW_BY_DESIGN = re.compile(
    r"visual_encoder\.(time_embed$|blocks\.\d+\.(temporal_norm|temporal_attn|temporal_scale)\.)"
)
DROPPED_BY_DESIGN = re.compile(  # by every model; each class has a pattern of its own besides
    r"(.*_m\.|(image|text|idx|ptr)_queue$|queue_ptr$|ptr_queue$|.*\.position_ids$)"
)
# BLIP's checkpoints hold these twice; the model has the second name only.
TIED = {
    "text_decoder.cls.predictions.decoder.weight": (
        "text_decoder.bert.embeddings.word_embeddings.weight"
    ),
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}
SIZES = (
    "image_size_px",
    "patch_size_px",
    "vision_width",
    "vision_depth",
    "vision_heads",
    "vocab_size",
    "text_width",
    "text_depth",
    "text_heads",
    "text_mlp_width",
    "max_positions",
    "embed_width",
    "dropout",
)
Model = TypeVar("Model", bound="LiteVLForRetrieval | LiteVLForQuestionAnswering")


@dataclass(frozen=True)
class WeightsReport:
    """Where the weights came from, and what became of every key."""

    source: str
    sha256: str
    loaded: int
    new_by_design: tuple[str, ...]
    dropped_by_design: tuple[str, ...]


def load_blip(
    model_class: type[Model],
    source: str | Path,
    generator: torch.Generator | None = None,
    **overrides: Any,
) -> tuple[Model, WeightsReport]:
    """A model with BLIP's weights whose new parts leave BLIP's features as they are.

    source: "mini-blip" or a file. overrides: fields of LiteVLConfig. generator: draws the time
    embedding's start. Raises WeightsError where the file cannot be read or a key has no place.
    """
    path = MINI_BLIP if str(source) == "mini-blip" else Path(source)
    state, sizes = read_blip(path)
    unknown = sorted(set(overrides) - {field.name for field in fields(LiteVLConfig)})
    if unknown:
        raise WeightsError(f"from_blip: unknown option(s) {', '.join(unknown)}")
    model = model_class(LiteVLConfig(**{**sizes, **overrides}))
    wanted = model.state_dict()
    new = tuple(sorted(key for key in wanted if key not in state and NEW_BY_DESIGN.match(key)))
    by_design = re.compile(f"{DROPPED_BY_DESIGN.pattern}|{model_class.DROPPED_BY_DESIGN.pattern}")
    dropped = tuple(sorted(key for key in state if key not in wanted and by_design.match(key)))
    loaded = {key: tensor.float() for key, tensor in state.items() if key in wanted}
    problems = [f"{key}: not in the checkpoint" for key in sorted(set(wanted) - set(state))]
    problems = [line for line in problems if line.split(":")[0] not in new]
    problems += [
        f"{key}: no place in the model" for key in sorted(set(state) - set(wanted) - set(dropped))
    ]
    problems += [
        f"{key}: {tuple(state[key].shape)} in the checkpoint, {tuple(wanted[key].shape)} wanted"
        for key in sorted(set(state) & set(wanted))
        if state[key].shape != wanted[key].shape
    ]
    problems += [
        f"{key}: differs from {TIED[key]}, and the model has one place for both"
        for key in dropped
        if TIED.get(key) in loaded and not torch.equal(state[key].float(), loaded[TIED[key]])
    ]
    if problems:
        listed = "\n  ".join(problems[:20])
        raise WeightsError(f"{path}: {len(problems)} key(s) do not fit\n  {listed}")
    model.load_state_dict(loaded, strict=False)  # every difference is accounted for above
    generator = generator or torch.Generator().manual_seed(0)
    model.visual_encoder.start_from_image_encoder(generator)
    return model, WeightsReport(str(source), _sha256(path), len(loaded), new, dropped)


def read_blip(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The checkpoint's tensors by BLIP's names, and the sizes that LiteVLConfig needs."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give 'mini-blip' or a checkpoint's path")
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from None
    if "sizes" not in metadata:
        raise WeightsError(f"{path}: its metadata lack 'sizes', the encoder sizes as JSON")
    return state, json.loads(metadata["sizes"])


def save_blip(path: Path, state: dict[str, Tensor], config: LiteVLConfig) -> str:
    """Write tensors in half precision under BLIP's names; returns the file's sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = {name: value for name, value in asdict(config).items() if name in SIZES}
    halves = {key: tensor.detach().half().contiguous().clone() for key, tensor in state.items()}
    save_file(halves, path, metadata={"sizes": json.dumps(sizes)})
    return _sha256(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
