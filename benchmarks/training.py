"""A step of fine-tuning for retrieval, timed beside a transcription of BLIP's."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from typing import cast

import torch

from benchmarks.harness import ROOT, Measured, Way, measured_row, ratio_figure
from benchmarks.peers import BlipStep, Encode, straightforward_tokens
from benchmarks.worlds import (
    AS_IN_SPECS,
    NUM_WORDS,
    PRECISIONS,
    Setting,
    random_captions,
    random_model,
    random_pictures,
)
from litevl.benchmark_record import Conditions, Figure, Row
from litevl.data.dataset import normalise
from litevl.engine.clips import ClipSet
from litevl.engine.precision import Precision, compile_encoders, computing
from litevl.engine.retrieval import Batch, RetrievalObjective
from litevl.model.config import LiteVLConfig
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.vision import VideoEncoder
from litevl.spec import Resolved, load_spec, resolve

# Peak of dense bf16 products in TFLOPS, by the makers' data sheets; model FLOP utilisation is a
# share of it.
PEAK_TFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0}
NO_GPU = "no GPU at hand"
NO_COMPILER = "no C++ compiler at hand"


def training(setting: Setting) -> Measured:
    """Steps per second of fine-tuning for retrieval, beside BLIP's step on the same tensors."""
    rows, figures = [], []
    has_compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    mini = LiteVLForRetrieval.from_blip("mini-blip", **AS_IN_SPECS).config
    mini = replace(mini, num_frames=2) if setting.quick else mini
    native: Precision = "bf16" if setting.can("bf16") else "fp32"  # as training's "auto" settles
    cases: list[tuple[str, str, LiteVLConfig, int, tuple[Precision, ...]]] = [
        ("mini", "mini-BLIP's", mini, 4 if setting.quick else 16, PRECISIONS),
        ("vit-b", setting.config_name, setting.config, 2, (native,)),
    ]
    for name, title, config, batch_size, precisions in cases:
        for precision in precisions:
            compiles = name == "vit-b" and has_compiler and not setting.quick
            row = None
            if setting.can(precision):
                row = training_row(name, title, config, batch_size, precision, setting, compiles)
                rows.append(row)
            claim = f"Training step of the {title} model against BLIP's step, {precision}"
            figures.append(ratio_figure(f"training-{name}-{precision}", claim, 1.5, row, "blip"))
    figures += [compiled(rows[-1], setting), utilisation(rows[-1], setting)]
    return rows, figures


def training_row(
    name: str,
    title: str,
    config: LiteVLConfig,
    batch_size: int,
    precision: Precision,
    setting: Setting,
    compiles: bool = False,
) -> Row:
    """One model's step up to the gradients, momentum encoders moved; without the optimizer.

    compiles: time ours with `train.compile`, too.
    """
    device, queue_size = setting.device, 16 * batch_size
    words = random_captions(config, batch_size, NUM_WORDS, device)
    pictures = random_pictures(config, batch_size, device)
    batch = Batch(pictures, words, torch.arange(batch_size, device=device))
    settings = training_settings(batch_size, queue_size, precision)
    # No step looks at more of the clips than how many there are.
    no_clips = cast(ClipSet, ())
    objectives = {
        ours_is: RetrievalObjective(
            random_model(config, device).train(), settings, no_clips, no_clips, seed=0
        )
        for ours_is in ("ours", *(["ours-compiled"] if compiles else []))
    }
    if compiles:
        compile_encoders(objectives["ours-compiled"].parts().values())
    peers = {
        "blip": blips(config, queue_size, settings.train.momentum, device),
        "blip-with-our-encoder": blips(
            config, queue_size, settings.train.momentum, device, VideoEncoder.forward
        ),
    }
    generator = torch.Generator().manual_seed(0)

    def ours(objective: RetrievalObjective) -> object:
        objective.model.zero_grad(set_to_none=True)
        losses = objective.backward(batch, 1, generator)
        objective.after_step()
        return losses

    frames = normalise(pictures)  # ours does so in every step

    def theirs(peer: BlipStep) -> object:
        peer.model.zero_grad(set_to_none=True)
        with computing(precision, device):
            vtc, vtm = peer.losses(frames, words, batch.ids, 0.4)
        return (vtc + vtm).backward()  # type: ignore[no-untyped-call]

    conditions: Conditions = {
        "model": title,
        "precision": precision,
        "batch_size": batch_size,
        "frames": config.num_frames,
        "size_px": config.image_size_px,
        "words": NUM_WORDS,
        "queue": queue_size,
        "optimizer": "left out on both sides",
    }
    ways = [Way(ours_is, partial(ours, objective), 1) for ours_is, objective in objectives.items()]
    ways += [Way(peer_is, partial(theirs, peer), 1) for peer_is, peer in peers.items()]
    return measured_row(f"{name}/{precision}", "steps", conditions, ways, setting.effort, device)


def blips(
    config: LiteVLConfig,
    queue_size: int,
    momentum: float,
    device: torch.device,
    encode: Encode = straightforward_tokens,
) -> BlipStep:
    """BLIP's step with a model of its own."""
    model, generator = random_model(config, device).train(), torch.Generator().manual_seed(0)
    return BlipStep(model, queue_size, momentum, generator, encode).to(device)


def training_settings(batch_size: int, queue_size: int, precision: Precision) -> Resolved:
    """The shipped retrieval study's, with the momentum encoder on, as BLIP's step has it."""
    settings = resolve(load_spec(ROOT / "reproductions" / "msrvtt.toml"), "mini", "full")
    changes = {
        "batch_size": batch_size,
        "queue_size": queue_size,
        "precision": precision,
        "momentum_encoder": True,
    }
    return settings.model_copy(update={"train": settings.train.model_copy(update=changes)})


def compiled(row: Row, setting: Setting) -> Figure:
    """Our step with `train.compile` beside BLIP's: both stand in one row, beside ours."""
    value: float | None = None
    precision = row.conditions["precision"]
    why_not: str | None = "small sizes" if setting.quick else NO_COMPILER
    found = {each.name: each.seconds.median for each in row.contenders}
    if "ours-compiled" in found:
        value, why_not = found["blip"] / found["ours-compiled"], None
    return Figure(
        name=f"training-vit-b-{precision}-compiled",
        claim=f"The same with train.compile, {setting.config_name}, {precision}",
        unit="times",
        at_least=1.5,
        value=value,
        why_not=why_not,
    )


def utilisation(row: Row, setting: Setting) -> Figure:
    """Model FLOP utilisation of our training step on a GPU."""
    ours, value, why_not = row.contender("ours"), None, NO_GPU
    if setting.device.type == "cuda":
        name = torch.cuda.get_device_name(setting.device)
        peak = next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
        if peak is None:
            why_not = f"the peak of {name} is not in the list"
        else:
            value = (ours.flops or 0) / ours.seconds.median / (peak * 1e12)
    return Figure(
        name="training-utilisation",
        claim=f"Model FLOP utilisation of a training step, {setting.config_name}, "
        f"{row.conditions['precision']}, on a GPU",
        unit="",
        at_least=0.4,
        value=value,
        why_not=None if value is not None else why_not,
    )
