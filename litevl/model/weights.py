"""BLIP's weights into LiteVL: every key is loaded, new by design, or dropped by design."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litevl.errors import WeightsError
from litevl.model.checkpoints import Layout, read_checkpoint
from litevl.model.config import FreshPart, LiteVLConfig
from litevl.model.places import require_weights, revision_of

if TYPE_CHECKING:
    from litevl.model.litevl import LiteVLForRetrieval
    from litevl.model.question_answering import LiteVLForQuestionAnswering

NEW_BY_DESIGN = re.compile(
    r"visual_encoder\.(time_embed$|blocks\.\d+\.(temporal_norm|temporal_attn|temporal_scale)\.)"
)
DROPPED_BY_DESIGN = re.compile(  # by every model; each class has a pattern of its own besides
    r"((visual_encoder|text_encoder|text_decoder|vision_proj|text_proj)_m\."
    r"|(image_queue|text_queue|idx_queue|ptr_queue|queue_ptr)$|.*\.position_ids$)"
)
# BLIP's checkpoints hold these twice; the model has the second name only.
TIED = {
    "text_decoder.cls.predictions.decoder.weight": (
        "text_decoder.bert.embeddings.word_embeddings.weight"
    ),
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}
POSITIONS = "visual_encoder.pos_embed"
WAYS_OUT = {
    ("text_decoder.",): (
        "Question answering needs a decoder: start from a pre-training or a VQA checkpoint."
    ),
    ("itm_head.", "temp:"): (
        "Retrieval needs BLIP's matching head and temperature: start from a pre-training or a "
        "retrieval checkpoint, or name what may start at random in `fresh`."
    ),
    ("vision_proj.", "text_proj."): (
        "VQA checkpoints have no projections: take pooling_space 'hidden' (question answering), "
        "start from a pre-training checkpoint, or name them in `fresh`."
    ),
}
Model = TypeVar("Model", bound="LiteVLForRetrieval | LiteVLForQuestionAnswering")


@dataclass(frozen=True)
class WeightsReport:
    """Where the weights came from, and what became of every key."""

    source: str
    layout: str  # "litevl", "blip" or "transformers"
    sha256: str
    loaded: int
    new_by_design: tuple[str, ...]
    dropped_by_design: tuple[str, ...]
    revision: str | None = None  # the commit of a hub repository
    fresh: tuple[str, ...] = ()  # drawn at random because the caller asked for it
    resized: tuple[str, ...] = ()  # what was resized, from and to which size
    notes: tuple[str, ...] = ()  # what else a reader should know


@dataclass
class Fates:
    """What becomes of every key, and what is wrong."""

    loaded: dict[str, Tensor]
    new: list[str]
    dropped: list[str]
    fresh: list[str]
    problems: list[str]


def load_blip(
    model_class: type[Model],
    source: str | Path,
    generator: torch.Generator | None = None,
    fresh: Sequence[str] = (),
    **overrides: Any,
) -> tuple[Model, WeightsReport]:
    """A model with BLIP's weights whose new parts leave BLIP's features as they are.

    source: as a spec names it, see `places`; nothing is fetched. generator: draws the time
    embedding's start and fresh parts. fresh: parts (see FreshPart) that this checkpoint lacks and
    that are to start at random, which BLIP's own code does without asking. overrides: fields of
    LiteVLConfig. Raises WeightsError where the file cannot be read or a key has no place.
    """
    path = require_weights(source)
    unknown = sorted(set(overrides) - {field.name for field in fields(LiteVLConfig)})
    if unknown:
        raise WeightsError(f"from_blip: unknown option(s) {', '.join(unknown)}")
    checkpoint = read_checkpoint(path)
    expect_first_checksum(path, checkpoint.sha256)
    model = model_class(LiteVLConfig(**{**checkpoint.sizes, **overrides}))
    state, resized = with_positions(checkpoint.state, model.config.image_size_px, checkpoint.sizes)
    fates = account(model, merge_tied(state), checkpoint.layout, fresh)
    if fates.problems:
        raise WeightsError(misfit_message(path, fates.problems))
    model.load_state_dict(fates.loaded, strict=False)  # every difference is accounted for above
    generator = generator or torch.Generator().manual_seed(0)
    model.visual_encoder.start_from_image_encoder(generator)
    draw_fresh(model, fates.fresh, generator)
    report = WeightsReport(
        source=str(source),
        layout=checkpoint.layout,
        sha256=checkpoint.sha256,
        revision=revision_of(path),
        loaded=len(fates.loaded),
        new_by_design=tuple(fates.new),
        dropped_by_design=tuple(fates.dropped),
        fresh=tuple(fates.fresh),
        resized=resized,
        notes=checkpoint.notes,
    )
    return model, report


def account(
    model: LiteVLForRetrieval | LiteVLForQuestionAnswering,
    state: Mapping[str, Tensor],
    layout: Layout,
    fresh: Sequence[str],
) -> Fates:
    """The fate of every key of the model and of the checkpoint; state: after `merge_tied`."""
    wanted = model.state_dict()
    parts = {key.partition(".")[0] for key in wanted} & set(get_args(FreshPart))
    asked = {key for key in wanted if key.partition(".")[0] in parts & set(fresh)}
    new = {key for key in wanted if key not in state and NEW_BY_DESIGN.match(key)}
    if layout == "transformers" and "temp" in wanted:
        new |= {"temp"} - set(state)  # transformers' BLIP has no temperature: it starts at BLIP's
    missing = set(wanted) - set(state) - new
    by_design = re.compile(f"{DROPPED_BY_DESIGN.pattern}|{model.DROPPED_BY_DESIGN.pattern}")
    dropped = {key for key in state if key not in wanted and by_design.match(key)}
    kept = {key: tensor for key, tensor in state.items() if key in wanted}
    problems = [f"{part}: the model has no such part to start fresh" for part in set(fresh) - parts]
    problems += [
        f"{key}: asked to be fresh, but the checkpoint has it" for key in asked & set(kept)
    ]
    problems += [f"{key}: not in the checkpoint" for key in missing - asked]
    problems += [f"{key}: no place in the model" for key in set(state) - set(wanted) - dropped]
    problems += [line for key in kept if (line := misfit(key, kept[key], wanted[key]))]
    problems += [
        f"{key}: differs from {TIED[key]}; BLIP has one parameter for both, and so has the model"
        for key in dropped & set(TIED)
        if TIED[key] in kept and not torch.equal(state[key], state[TIED[key]])
    ]
    loaded = {} if problems else {key: tensor.float() for key, tensor in kept.items()}
    return Fates(loaded, sorted(new), sorted(dropped), sorted(missing & asked), sorted(problems))


def merge_tied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with each tied pair under the name that the model has.

    Files of safetensors hold one of the two, and do not always choose the same.
    """
    names = {key: kept for key, kept in TIED.items() if kept not in state}
    return {names.get(key, key): tensor for key, tensor in state.items()}


def misfit(key: str, found: Tensor, wanted: Tensor) -> str | None:
    """Why a tensor cannot be loaded into its place, or None."""
    if found.shape != wanted.shape:
        return f"{key}: {tuple(found.shape)} in the checkpoint, {tuple(wanted.shape)} wanted"
    if not found.is_floating_point() or found.itemsize < 2:  # those of 8 bits have scales elsewhere
        name = str(found.dtype).removeprefix("torch.")
        return f"{key}: holds {name}, not floating-point numbers of 16 bits or more"
    if not found.isfinite().all():
        return f"{key}: holds NaN or infinity; the file is damaged"
    return None


def misfit_message(path: Path, problems: list[str]) -> str:
    """All problems, the first twenty by name, and what can be done about missing parts."""
    lines = [f"{path}: {len(problems)} key(s) do not fit", *problems[:20]]
    if len(problems) > 20:
        lines.append(f"and {len(problems) - 20} more")
    missing = [line for line in problems if line.endswith(": not in the checkpoint")]
    lines += [
        way_out
        for parts, way_out in WAYS_OUT.items()
        if any(line.startswith(parts) for line in missing)
    ]
    return "\n  ".join(lines)


def draw_fresh(model: nn.Module, keys: Sequence[str], generator: torch.Generator) -> None:
    """Start linear layers as BLIP's code starts them: uniform within 1 / sqrt(inputs).

    A fresh temperature keeps the 0.07 that the model was made with.
    """
    for part in sorted({key.partition(".")[0] for key in keys} - {"temp"}):
        layer = model.get_submodule(part)
        assert isinstance(layer, nn.Linear)
        bound = layer.in_features**-0.5
        nn.init.uniform_(layer.weight, -bound, bound, generator)
        nn.init.uniform_(layer.bias, -bound, bound, generator)


def expect_first_checksum(path: Path, sha256: str) -> None:
    """Raise WeightsError where a fetched file is no longer the one that was fetched."""
    note = path.with_name(f"{path.name}.sha256")
    text = note.read_text("utf-8", "replace") if note.is_file() else sha256
    first = text.split()[:1]
    if first != [sha256]:
        raise WeightsError(
            f"{path}: its sha256 is {sha256}, but {note.name} beside it says {''.join(first)}\n"
            "  The file has changed since it was fetched. Delete it and fetch it again; delete "
            f"{note.name} as well if the change is meant."
        )


def with_positions(
    state: dict[str, Tensor], image_size_px: int, sizes: dict[str, Any]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state with position embeddings for the wanted image size, and what was resized.

    The patches' positions are interpolated bicubically, without aligned corners, and [CLS] keeps
    its own (salesforce/BLIP, models/vit.py).
    """
    patch, before_px = sizes["patch_size_px"], sizes["image_size_px"]
    before, after = before_px // patch, image_size_px // patch
    is_grid = POSITIONS in state and state[POSITIONS].shape[:2] == (1, 1 + before**2)
    if before == after or not is_grid:  # what is no grid is told with all other misfits
        return state, ()
    positions = state[POSITIONS].float()  # (1, 1 + N, D)
    grid = positions[:, 1:].view(1, before, before, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
    grid = F.interpolate(grid, size=(after, after), mode="bicubic", align_corners=False)
    resized = torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    line = f"{POSITIONS}: {before} x {before} patches ({before_px} px) to "
    line += f"{after} x {after} ({image_size_px} px)"
    return {**state, POSITIONS: resized}, (line,)
