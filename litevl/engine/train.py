"""Fine-tuning: one loop for every task, in the order in which things happen."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from litevl.engine.checkpoint import read_checkpoint, write_checkpoint
from litevl.engine.precision import attention_kernel, computing
from litevl.errors import RunError
from litevl.model.weights import NEW_BY_DESIGN
from litevl.spec import TrainSpec

LOG_EVERY_STEPS = 10


@dataclass
class History:
    """What training left behind besides the weights: curves for the record."""

    steps: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    selected_epoch: int = 0
    seconds: float = field(default=0.0, compare=False)  # over all sessions of a resumed run


class Objective(Protocol):
    """What is trained for: its batches, its losses, and how well it does on the validation split.

    The test split is not here. Everything random follows from the epoch and the generator given.
    """

    @property
    def best_by(self) -> str:
        """The value of `validate` that tells the best epoch; higher is better."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    def parts(self) -> dict[str, nn.Module]:
        """What a checkpoint holds besides the optimizer; "model" is one of them."""

    def num_batches(self, epoch: int) -> int:
        """Steps of an epoch."""

    def batches(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch."""

    def losses(self, batch: Any, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """What is minimised is their sum; called under the spec's precision."""

    def after_step(self) -> None:
        """What follows each update of the weights."""

    def names(self, batch: Any) -> list[str]:
        """What is in a batch, for messages."""

    def validate(self) -> dict[str, float]:
        """A point of the validation curve; empty without a validation split."""


def train(
    objective: Objective,
    options: TrainSpec,
    seed: int,
    max_steps: int | None,
    folder: Path,
    title: str,
) -> History:
    """Fine-tune the objective's model in place; it ends with the selected epoch's weights.

    The test split is not an argument. Every epoch draws from its own random streams and ends with
    a checkpoint in `folder`, so that a run begun again continues as if it had never stopped.
    Raises RunError where the loss is no longer finite.
    """
    model = objective.model
    device = next(model.parameters()).device
    clock = time.perf_counter()
    optimizer = make_optimizer(model, options)
    history = History()
    parts = {**objective.parts(), "optimizer": optimizer}
    epoch, step = resume(folder / "last.pt", parts, history, device)
    total = count_steps(objective, options, max_steps)
    model.train()
    # Closed in any case, so that no message of an error ends up behind the bar.
    with tqdm(total=total, initial=step, desc=title, unit="step", leave=False) as bar:
        while step < total:
            torch.manual_seed(stream_seed(seed, epoch))  # for dropout
            generator = torch.Generator().manual_seed(stream_seed(seed, epoch))
            for batch in objective.batches(epoch):
                factor = learning_rate_factor(step, total, options.warmup_fraction)
                for group in optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * factor
                with computing(options.precision, device):
                    losses = objective.losses(batch, step, generator)
                loss = torch.stack(list(losses.values())).sum()
                optimizer.zero_grad()
                with attention_kernel(device):  # for what is recomputed
                    loss.backward()  # type: ignore[no-untyped-call]
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
                stop_if_not_finite(loss, norm, step, objective.names(batch))
                optimizer.step()
                objective.after_step()
                step += 1
                bar.update()
                if step % LOG_EVERY_STEPS == 0 or step == total:
                    values = {"loss": loss.item()}
                    if len(losses) > 1:
                        values |= {name: value.item() for name, value in losses.items()}
                    history.steps.append(
                        {"step": step, **values, "learning_rate": options.learning_rate * factor}
                    )
                    bar.set_postfix(loss=f"{values['loss']:.3f}")
                if step == total:
                    break
            epoch += 1
            point = objective.validate()
            if point:
                history.validations.append({"step": step, **point})
            history.seconds += time.perf_counter() - clock
            clock = time.perf_counter()
            save_epoch(folder, parts, history, epoch, step, options.select, objective.best_by)
    if options.select == "best-validation":
        best = read_checkpoint(folder / "best.pt", device)
        if best is None:
            raise RunError(f"{folder}: the best epoch's checkpoint is gone; start this run again")
        model.load_state_dict(best["model"])
    return history


def make_optimizer(model: nn.Module, options: TrainSpec) -> torch.optim.AdamW:
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


def stream_seed(seed: int, epoch: int) -> int:
    """One number for each seed and epoch."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def count_steps(objective: Objective, options: TrainSpec, max_steps: int | None) -> int:
    """Steps in all epochs, or max_steps if that is fewer."""
    total = sum(objective.num_batches(epoch) for epoch in range(options.epochs))
    return min(total, max_steps) if max_steps is not None else total


def stop_if_not_finite(loss: Tensor, norm: Tensor, step: int, names: list[str]) -> None:
    """Raise RunError that names the step and the batch's clips or questions."""
    if torch.isfinite(loss) and torch.isfinite(norm):
        return
    raise RunError(
        f"step {step + 1}: the loss is {loss.item()}, the gradient norm {norm.item()}; training "
        f"stopped before the update (batch of {len(names)}, first: {', '.join(names[:8])})\n"
        "  Lower train.learning_rate or train.temporal_learning_rate, or use precision fp32."
    )


def save_epoch(
    folder: Path,
    parts: dict[str, Any],
    history: History,
    epoch: int,
    step: int,
    select: Literal["last", "best-validation"],
    best_by: str,
) -> None:
    """Write the epoch's checkpoint, and keep the best by validation where that is asked for."""
    found = [point[best_by] for point in history.validations]
    is_best = bool(found) and found[-1] > max(found[:-1], default=-1.0)
    if select == "last" or is_best:
        history.selected_epoch = epoch
    if select == "best-validation" and is_best:
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
