"""The video encoder's forward pass, timed beside transformers' and the machine's own products."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Measured, Way, measured_row, ratio_figure
from benchmarks.peers import timesformer
from benchmarks.worlds import PRECISIONS, Setting, random_frames, random_model
from litevl.benchmark_record import Conditions
from litevl.engine.precision import Precision, computing
from litevl.model.litevl import LiteVLForRetrieval
from litevl.model.vision import Block


def encoder(setting: Setting) -> Measured:
    """Clips per second of the video encoder beside transformers', and its share of the machine."""
    config, device, num_clips = setting.config, setting.device, 2
    # torch's counter of operations cannot follow parameters that need gradients and get none.
    model = random_model(config, device).requires_grad_(False)
    peer = timesformer(config).to(device).requires_grad_(False)
    frames = random_frames(config, num_clips, device)
    rows, figures = [], []
    for precision in PRECISIONS:
        ours = in_precision(lambda: model.visual_encoder(frames), precision, device)
        theirs = in_precision(lambda: peer(pixel_values=frames), precision, device)
        products = in_precision(layer_products(model, frames), precision, device)
        conditions: Conditions = {
            "model": setting.config_name,
            "precision": precision,
            "frames": config.num_frames,
            "size_px": config.image_size_px,
            "clips_at_once": num_clips,
        }
        row = share = None
        if setting.can(precision):
            ways = [Way("ours", ours, num_clips), Way("timesformer", theirs, num_clips)]
            row = measured_row(precision, "clips", conditions, ways, setting.effort, device)
            counts = row.contender("ours").flops or 0
            ways = [
                Way("ours", ours, counts / 1e9),
                Way("matrix-products", products, num_products(model, frames) / 1e9),
            ]
            name = f"share/{precision}"
            share = measured_row(name, "GFLOP", conditions, ways, setting.effort, device)
            rows += [row, share]
        name = f"encoder-vs-timesformer-{precision}"
        claim = f"Encoder forward against transformers' TimesformerModel, {precision}"
        figures.append(ratio_figure(name, claim, 1.0, row, "timesformer"))
        if precision == "bf16":
            claim = "Encoder forward, share of the measured matrix-product rate, bf16"
            figures.append(
                ratio_figure("encoder-share-bf16", claim, 0.7, share, "matrix-products", unit="")
            )
    return rows, figures


def in_precision(
    call: Callable[[], object], precision: Precision, device: torch.device
) -> Callable[[], object]:
    """The call as an evaluation makes it."""

    def wrapped() -> object:
        with torch.inference_mode(), computing(precision, device):
            return call()

    return wrapped


def layer_products(model: LiteVLForRetrieval, frames: Tensor) -> Callable[[], object]:
    """A block's matrix products alone, at its own sizes and with its own weights."""
    inputs = [
        torch.randn(rows, layer.in_features, device=frames.device)
        for layer, rows in block_linears(model, frames)
    ]
    layers = [layer for layer, _ in block_linears(model, frames)]

    def call() -> object:
        dtype = torch.get_autocast_dtype(frames.device.type)
        autocast = torch.is_autocast_enabled(frames.device.type)
        return [
            F.linear(x.to(dtype) if autocast else x, layer.weight, layer.bias)
            for layer, x in zip(layers, inputs, strict=True)
        ]

    return call


def num_products(model: LiteVLForRetrieval, frames: Tensor) -> int:
    """Operations of `layer_products`."""
    return sum(
        2 * rows * layer.in_features * layer.out_features
        for layer, rows in block_linears(model, frames)
    )


def block_linears(model: LiteVLForRetrieval, frames: Tensor) -> list[tuple[torch.nn.Linear, int]]:
    """The linear layers of the first block, each with how many tokens go through it."""
    block = cast(Block, model.visual_encoder.blocks[0])
    patches = len(frames) * frames.shape[1] * model.config.num_patches
    tokens = patches + len(frames) * frames.shape[1]
    return [
        (block.temporal_attn.qkv, patches),
        (block.temporal_attn.proj, patches),
        (block.attn.qkv, tokens),
        (block.attn.proj, tokens),
        (block.mlp.fc1, tokens),
        (block.mlp.fc2, tokens),
    ]
