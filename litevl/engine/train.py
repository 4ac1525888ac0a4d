"""Fine-tuning for retrieval: one loop, in the order in which things happen.

Legend: B pairs in a batch, T frames.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from litevl.data.dataset import epoch_batches
from litevl.engine.checkpoint import read_checkpoint, write_checkpoint
from litevl.engine.clips import ClipSet
from litevl.engine.evaluate import encode_captions, encode_clips, twin_scores
from litevl.engine.precision import computing
from litevl.errors import RunError
from litevl.metrics import order_right, ranks, recall_at
from litevl.model.litevl import LiteVLForRetrieval, TextFeatures, VideoFeatures, similarities
from litevl.model.losses import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    contrastive_loss,
    hard_negatives,
    matching_loss,
    positive_targets,
)
from litevl.model.momentum import MomentumTeacher
from litevl.model.tokenizer import Tokens
from litevl.model.weights import NEW_BY_DESIGN
from litevl.spec import Resolved, TrainSpec

LOG_EVERY_STEPS = 10


@dataclass
class History:
    """What training left behind besides the weights: curves for the record."""

    steps: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    selected_epoch: int = 0
    seconds: float = field(default=0.0, compare=False)  # over all sessions of a resumed run


@dataclass(frozen=True)
class Batch:
    """Clips with one caption each."""

    frames: Tensor  # (B, T, 3, S, S)
    tokens: Tokens
    ids: Tensor  # (B,) index of each clip in its split


def train(
    model: LiteVLForRetrieval,
    settings: Resolved,
    train_clips: ClipSet,
    validation_clips: ClipSet,
    seed: int,
    max_steps: int | None,
    folder: Path,
    title: str,
) -> History:
    """Fine-tune the model in place; it ends with the selected epoch's weights.

    The test split is not an argument. Every epoch draws from its own random streams and ends with
    a checkpoint in `folder`, so that a run begun again continues as if it had never stopped.
    Raises RunError where the loss is no longer finite.
    """
    options, device = settings.train, next(model.parameters()).device
    clock = time.perf_counter()
    optimizer = make_optimizer(model, options)
    teacher = None
    if options.momentum_encoder:
        teacher = MomentumTeacher(model, options.queue_size, options.momentum).to(device)
    history = History()
    parts = {"model": model, "optimizer": optimizer} | ({"teacher": teacher} if teacher else {})
    epoch, step = resume(folder / "last.pt", parts, history, device)
    total = count_steps(train_clips, options, seed, max_steps)
    model.train()
    # Closed in any case, so that no message of an error ends up behind the bar.
    with tqdm(total=total, initial=step, desc=title, unit="step", leave=False) as bar:
        while step < total:
            torch.manual_seed(stream_seed(seed, epoch))  # for dropout
            negatives = torch.Generator().manual_seed(stream_seed(seed, epoch))
            for batch in batches(train_clips, settings, seed, epoch):
                factor = learning_rate_factor(step, total, options.warmup_fraction)
                for group in optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * factor
                alpha = alpha_at(step, options, train_clips)
                with computing(options.precision, device):
                    vtc, vtm = losses(model, teacher, batch, negatives, alpha, device)
                loss = vtc + vtm
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
                stop_if_not_finite(loss, norm, step, batch, train_clips)
                optimizer.step()
                with torch.no_grad():
                    model.temp.clamp_(MIN_TEMPERATURE, MAX_TEMPERATURE)
                if teacher is not None:
                    teacher.follow(model)
                step += 1
                bar.update()
                if step % LOG_EVERY_STEPS == 0 or step == total:
                    values = {"loss": loss.item(), "vtc": vtc.item(), "vtm": vtm.item()}
                    history.steps.append(
                        {"step": step, **values, "learning_rate": options.learning_rate * factor}
                    )
                    bar.set_postfix(loss=f"{values['loss']:.3f}")
                if step == total:
                    break
            epoch += 1
            validate(model, settings, validation_clips, seed, step, history)
            history.seconds += time.perf_counter() - clock
            clock = time.perf_counter()
            save_epoch(folder, parts, history, epoch, step, options)
    if options.select == "best-validation":
        best = read_checkpoint(folder / "best.pt", device)
        if best is None:
            raise RunError(f"{folder}: the best epoch's checkpoint is gone; start this run again")
        model.load_state_dict(best["model"])
    return history


def losses(
    model: LiteVLForRetrieval,
    teacher: MomentumTeacher | None,
    batch: Batch,
    generator: torch.Generator,
    alpha: float,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """VTC and VTM of one batch; pairs and hard negatives pass the cross-encoder together.

    generator: draws the negatives. alpha: weight of the teacher's soft targets.
    """
    frames, tokens, ids = batch.frames.to(device), batch.tokens.to(device), batch.ids.to(device)
    video = model.encode_video(frames)
    text = model.encode_text(tokens.input_ids, tokens.attention_mask)
    similarity = similarities(video.embedding, text.embedding) / model.temp  # (B, B)
    if teacher is None:
        targets = positive_targets(ids, ids)
        vtc = contrastive_loss(similarity, similarity.T, targets, targets)
    else:
        vtc = teacher.contrastive_loss(video, text, frames, tokens, ids, model.temp, alpha)
    return vtc, pair_loss(model, video, text, similarity.detach(), ids, generator)


def pair_loss(
    model: LiteVLForRetrieval,
    video: VideoFeatures,
    text: TextFeatures,
    similarity: Tensor,
    ids: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """VTM over the pairs, one hard caption for each clip and one hard clip for each caption.

    similarity: (B, B), clips by captions, divided by temperature. ids: (B,). Returns ().
    """
    own = torch.arange(len(ids), device=ids.device)
    text_of_pair = torch.cat([own, hard_negatives(similarity, ids, generator), own])
    video_of_pair = torch.cat([own, own, hard_negatives(similarity.T, ids, generator)])
    logits = model.match(video.select(video_of_pair), text.select(text_of_pair))  # (3B, 2)
    is_positive = torch.arange(len(logits), device=ids.device) < len(ids)
    is_valid = is_positive | (ids[video_of_pair] != ids[text_of_pair])
    return matching_loss(logits, is_positive.long(), is_valid)


def make_optimizer(model: LiteVLForRetrieval, options: TrainSpec) -> torch.optim.AdamW:
    """AdamW over all parameters, as in BLIP; those BLIP lacks have their own learning rate."""
    named = list(model.named_parameters())
    new = [parameter for name, parameter in named if NEW_BY_DESIGN.match(name)]
    old = [parameter for name, parameter in named if not NEW_BY_DESIGN.match(name)]
    groups: list[dict[str, Any]] = [{"params": old, "peak_lr": options.learning_rate}]
    if new:
        groups.append({"params": new, "peak_lr": options.temporal_learning_rate})
    return torch.optim.AdamW(
        groups, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
    )


def learning_rate_factor(step: int, total: int, warmup_fraction: float) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(total * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def alpha_at(step: int, options: TrainSpec, clips: ClipSet) -> float:
    """Weight of the soft targets: from 0 to its value over the first epoch, as in BLIP."""
    steps_per_epoch = max(1, len(clips) // options.batch_size)
    return options.distillation_alpha * min(1.0, step / steps_per_epoch)


def stream_seed(seed: int, epoch: int) -> int:
    """One number for each seed and epoch."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def epoch_indices(
    clips: ClipSet, options: TrainSpec, seed: int, epoch: int
) -> tuple[list[Any], np.random.Generator]:
    """The batches of an epoch as indices, and the generator to draw frames and captions with."""
    rng = np.random.default_rng([seed, epoch])
    sources = [clip.source for clip in clips.clips]
    return epoch_batches(sources, options.batch_size, options.group_by_source, rng), rng


def batches(clips: ClipSet, settings: Resolved, seed: int, epoch: int) -> Iterator[Batch]:
    """The batches of an epoch, with random frames and one random caption per clip."""
    indices, rng = epoch_indices(clips, settings.train, seed, epoch)
    for index in indices:
        chosen = [clips.clips[clip].captions for clip in index]
        captions = [several[int(rng.integers(len(several)))] for several in chosen]
        frames = clips.frames(index, settings.frames.train_sampler, rng)
        yield Batch(frames, clips.tokens(captions), torch.as_tensor(index))


def count_steps(clips: ClipSet, options: TrainSpec, seed: int, max_steps: int | None) -> int:
    """Steps in all epochs, or max_steps if that is fewer."""
    total = sum(
        len(epoch_indices(clips, options, seed, epoch)[0]) for epoch in range(options.epochs)
    )
    return min(total, max_steps) if max_steps is not None else total


def stop_if_not_finite(loss: Tensor, norm: Tensor, step: int, batch: Batch, clips: ClipSet) -> None:
    """Raise RunError that names the step and the batch's clips."""
    if torch.isfinite(loss) and torch.isfinite(norm):
        return
    names = ", ".join(clips.clips[int(clip)].id for clip in batch.ids[:8])
    raise RunError(
        f"step {step + 1}: the loss is {loss.item()}, the gradient norm {norm.item()}; training "
        f"stopped before the update (batch of {len(batch.ids)}, first: {names})\n"
        "  Lower train.learning_rate or train.temporal_learning_rate, or use precision fp32."
    )


def validate(
    model: LiteVLForRetrieval,
    settings: Resolved,
    clips: ClipSet,
    seed: int,
    step: int,
    history: History,
) -> None:
    """Add a point of the validation curve: dual-encoder R@1 and order accuracy."""
    if not len(clips):
        return
    options, rng = settings.evaluate, np.random.default_rng(seed)
    model.eval()
    with computing(settings.train.precision, next(model.parameters()).device):
        size = options.batch_size
        video = encode_clips(model, clips, settings.frames.eval_sampler, size, rng)
        text = encode_captions(model, clips)
        right, twin = twin_scores(model, video, text, clips, options.score, size)
    model.train()
    itc = similarities(text.embedding, video.embedding).cpu().numpy()
    recall = recall_at(1, ranks(itc, np.arange(len(clips))))
    point: dict[str, float] = {"step": step, "t2v-itc/R@1": recall}
    if len(right):
        point["order_accuracy"] = 100 * float(order_right(right, twin).mean())
    history.validations.append(point)


def save_epoch(
    folder: Path,
    parts: dict[str, Any],
    history: History,
    epoch: int,
    step: int,
    options: TrainSpec,
) -> None:
    """Write the epoch's checkpoint, and keep the best by validation R@1 where that is asked for."""
    recalls = [point["t2v-itc/R@1"] for point in history.validations]
    is_best = bool(recalls) and recalls[-1] > max(recalls[:-1], default=-1.0)
    if options.select == "last" or is_best:
        history.selected_epoch = epoch
    if options.select == "best-validation" and is_best:
        write_checkpoint(folder / "best.pt", {"model": parts["model"].state_dict()})
    content = {name: part.state_dict() for name, part in parts.items()}
    content |= {"epoch": epoch, "step": step, "history": vars(history)}
    write_checkpoint(folder / "last.pt", content)


def resume(
    path: Path, parts: dict[str, Any], history: History, device: torch.device
) -> tuple[int, int]:
    """Load the last epoch's checkpoint where there is one; returns the next epoch and step."""
    content = read_checkpoint(path, device)
    if content is None:
        return 0, 0
    for name, part in parts.items():
        part.load_state_dict(content[name])
    for name, value in content["history"].items():
        setattr(history, name, value)
    return int(content["epoch"]), int(content["step"])
