"""Fine-tuning: one loop for every task, in the order in which things happen."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from litevl.engine.ahead import Ahead
from litevl.engine.checkpoint import (
    expect_same_data,
    expect_same_settings,
    read_checkpoint,
    write_checkpoint,
)
from litevl.engine.distributed import ALONE, Group, shared
from litevl.engine.features import random_state, set_random_state
from litevl.errors import RunError
from litevl.model.weights import NEW_BY_DESIGN
from litevl.preemption import Preempted, held_back, is_wanted
from litevl.spec import TrainSpec
from litevl.whole import write_bytes

LOG_EVERY_STEPS = 10
LAST, BEST = "last.pt", "best.pt"
NOT_FINITE_FILE = "not-finite.json"


@dataclass
class History:
    """What training left behind besides the weights: curves for the record."""

    steps: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    selected_epoch: int = 0
    # Over all sessions of a resumed run: in all, in steps, and of these until the batch was ready.
    seconds: float = field(default=0.0, compare=False)
    step_seconds: float = field(default=0.0, compare=False)
    waiting_seconds: float = field(default=0.0, compare=False)


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

    def batches(self, epoch: int, first: int = 0) -> Iterator[Any]:
        """The batches of an epoch, from number `first` on; the same ones wherever it begins."""

    def backward(self, batch: Any, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Add to the gradients those of this process's share of the losses; return the share.

        Summed over the losses and over the processes, both are those of the whole batch. The
        generator stands alike in all processes.
        """

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
    group: Group = ALONE,
    identity: Mapping[str, Any] | None = None,
) -> History:
    """Fine-tune the objective's model in place; it ends with the selected epoch's weights.

    The test split is not an argument. Checkpoints in `folder`, after each epoch and every
    `options.checkpoint_minutes`, let a run begun again continue as if it had never stopped, with
    the same numbers to the last bit where the number of processes is the same. identity: the "spec"
    and "fingerprint" that a checkpoint must have been made from to be continued. Raises RunError
    where the loss is no longer finite or that is not so, Preempted after SIGTERM, with a checkpoint
    written.
    """
    model = objective.model
    device = next(model.parameters()).device
    optimizer = make_optimizer(model, options)
    history = History()
    parts = {**objective.parts(), "optimizer": optimizer}
    generator = torch.Generator()
    kept = Checkpoints(folder, parts, history, generator, group, device, dict(identity or {}))
    place = group.together(partial(kept.resume, seed))
    total = count_steps(objective, options, max_steps)
    updates = Updates(objective, optimizer, options.max_grad_norm, generator, group, folder)
    model.train()
    # Closed in any case, so that no message of an error ends up behind the bar.
    with (
        tqdm(
            total=total,
            initial=place.step,
            desc=title,
            unit="step",
            leave=False,
            disable=not group.is_main,
        ) as bar,
        held_back(),
    ):
        while place.step < total or place.batch:  # an epoch is ended after its last step, too
            if not place.batch:
                torch.manual_seed(dropout_seed(seed, place, group.rank))
                generator.manual_seed(stream_seed(seed, place.epoch))
            with Ahead(objective.batches(place.epoch, place.batch)) as batches:
                for batch in batches:
                    if place.step == total:
                        break
                    history.step_seconds += batches.step_seconds
                    history.waiting_seconds += batches.waited_seconds
                    factor = learning_rate_factor(place.step, total, options.warmup_fraction)
                    is_due = kept.minutes_since_last() >= options.checkpoint_minutes
                    told = updates.make(batch, place, factor, is_due)
                    place = Place(place.epoch, place.batch + 1, place.step + 1)
                    bar.update()
                    if place.step % LOG_EVERY_STEPS == 0 or place.step == total:
                        rate = options.learning_rate * factor
                        history.steps.append(
                            {"step": place.step, **told.values, "learning_rate": rate}
                        )
                        bar.set_postfix(loss=f"{told.loss:.3f}")
                    if told.stop or told.save:
                        kept.save(place)
                    if told.stop:
                        raise Preempted
            place = Place(place.epoch + 1, 0, place.step)
            point = objective.validate()
            if point:
                history.validations.append({"step": place.step, **point})
            kept.select(place.epoch, options.select, objective.best_by)
            kept.save(place)
    if options.select == "best-validation":
        model.load_state_dict(group.together(kept.best))
    return history


@dataclass(frozen=True)
class Place:
    """Where training stands: epochs done, batches done in the one begun, steps done in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Told:
    """What the processes have told each other about a step."""

    losses: dict[str, float]  # of the whole batch
    stop: bool  # one of them was asked to end
    save: bool  # one of them finds that a checkpoint is due

    @property
    def loss(self) -> float:
        """What is minimised."""
        return sum(self.losses.values())

    @property
    def values(self) -> dict[str, float]:
        """A point of the training curve: the loss, and its parts where there are several."""
        return {"loss": self.loss, **(self.losses if len(self.losses) > 1 else {})}


def tell(group: Group, shares: dict[str, Tensor], stop: bool, save: bool) -> Told:
    """Add up the shares of the losses; all learn what one of them wants."""
    values = torch.stack([value.detach().double() for value in shares.values()])
    wishes = torch.tensor([float(stop), float(save)], device=values.device, dtype=values.dtype)
    *sums, stop_votes, save_votes = group.sum(torch.cat([values, wishes])).tolist()
    return Told(dict(zip(shares, sums, strict=True)), stop_votes > 0, save_votes > 0)


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


def stream_seed(seed: int, epoch: int, *more: int) -> int:
    """One number for each seed and epoch, and what else there may be."""
    return int(np.random.SeedSequence([seed, epoch, *more]).generate_state(1)[0])


def dropout_seed(seed: int, place: Place, rank: int) -> int:
    """Dropout's seed: another in each process, and where another number of them continues a run."""
    more = [rank, place.batch] if rank or place.batch else []
    return stream_seed(seed, place.epoch, *more)


def count_steps(objective: Objective, options: TrainSpec, max_steps: int | None) -> int:
    """Steps in all epochs, or max_steps if that is fewer."""
    total = sum(objective.num_batches(epoch) for epoch in range(options.epochs))
    return min(total, max_steps) if max_steps is not None else total


@dataclass(frozen=True)
class Updates:
    """What an update of the weights takes, batch after batch."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    max_grad_norm: float
    generator: torch.Generator
    group: Group
    folder: Path

    def make(self, batch: Any, place: Place, factor: float, is_due: bool) -> Told:
        """Forward, backward, step. factor: of the peak learning rates. is_due: a checkpoint.

        Raises RunError where loss or gradients are not finite, before the weights change.
        """
        parameters = list(self.objective.model.parameters())
        for some in self.optimizer.param_groups:
            some["lr"] = some["peak_lr"] * factor
        self.optimizer.zero_grad()
        shares = self.objective.backward(batch, place.step, self.generator)
        self.group.sum_gradients(parameters)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        told = tell(self.group, shares, stop=is_wanted(), save=is_due)
        if not (math.isfinite(told.loss) and bool(norm.isfinite())):
            self._raise_not_finite(batch, place, told.loss, norm.item())
        torch.nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, norm)
        self.optimizer.step()
        self.objective.after_step()
        return told

    def _raise_not_finite(self, batch: Any, place: Place, loss: float, norm: float) -> NoReturn:
        """Raise RunError that names the step and the batch; all of the batch goes into a file."""
        file, names = self.folder / NOT_FINITE_FILE, self.objective.names(batch)
        report = {
            "step": place.step + 1,
            "epoch": place.epoch,
            "batch_of_epoch": place.batch,
            "loss": repr(loss),
            "gradient_norm": repr(norm),
            "gradients_not_finite": [
                name
                for name, parameter in self.objective.model.named_parameters()
                if parameter.grad is not None and not parameter.grad.isfinite().all()
            ],
            "batch": names,
        }
        self.group.on_main(lambda: write_bytes(file, json.dumps(report, indent=1).encode()))
        error = RunError(
            f"step {place.step + 1}: the loss is {loss}, the gradient norm {norm}; training "
            f"stopped before the update (batch of {len(names)}, first: {', '.join(names[:8])}; all "
            f"in {file})\n"
            "  Lower train.learning_rate or train.temporal_learning_rate, or use precision fp32. "
            "The last checkpoint is kept; the same command continues from there."
        )
        raise shared(error)


class Checkpoints:
    """What a run begun again needs: every part's state, and where training and chance stood."""

    def __init__(
        self,
        folder: Path,
        parts: Mapping[str, Any],
        history: History,
        generator: torch.Generator,
        group: Group,
        device: torch.device,
        identity: dict[str, Any],
    ) -> None:
        self._folder, self._parts, self._history = folder, parts, history
        self._generator, self._group, self._device = generator, group, device
        self._identity = identity
        self._last, self._clock = time.monotonic(), time.perf_counter()

    def minutes_since_last(self) -> float:
        """Since the last checkpoint, or the start."""
        return (time.monotonic() - self._last) / 60

    def save(self, place: Place) -> None:
        """Write all of it, on rank 0, into last.pt."""
        clock = time.perf_counter()
        self._history.seconds += clock - self._clock
        self._clock = clock
        chance = {
            "negatives": self._generator.get_state(),
            "dropout": self._group.each(random_state(self._device)),
        }
        content = {name: part.state_dict() for name, part in self._parts.items()}
        content |= {
            "place": asdict(place),
            "history": vars(self._history),
            "random": chance,
            "identity": self._identity,
        }
        self._group.on_main(lambda: write_checkpoint(self._folder / LAST, content))
        self._last = time.monotonic()

    def resume(self, seed: int) -> Place:
        """Load what `save` wrote, if anything; returns where training stands.

        Where another number of processes goes on, or another kind of device, dropout gets new
        seeds; all else is the same.
        """
        content = read_checkpoint(self._folder / LAST, self._device)
        if content is None:
            return Place()
        then, now = content["identity"], self._identity
        expect_same_settings(then.get("spec", {}), now.get("spec", {}))
        expect_same_data(then.get("fingerprint", ""), now.get("fingerprint", ""))
        for name, part in self._parts.items():
            part.load_state_dict(content[name])
        for name, value in content["history"].items():
            setattr(self._history, name, value)
        place, chance = Place(**content["place"]), content["random"]
        self._generator.set_state(chance["negatives"].cpu())
        states, device = chance["dropout"], self._device
        if len(states) == self._group.size and len(states[0]) == len(random_state(device)):
            set_random_state(states[self._group.rank], device)
        else:
            torch.manual_seed(dropout_seed(seed, place, self._group.rank))
        return place

    def select(self, epoch: int, select: Literal["last", "best-validation"], best_by: str) -> None:
        """Note which epoch is the chosen one so far; keep its weights where validation decides."""
        found = [point[best_by] for point in self._history.validations]
        is_best = bool(found) and found[-1] > max(found[:-1], default=-1.0)
        if select == "last" or is_best:
            self._history.selected_epoch = epoch
        if select == "best-validation" and is_best:
            weights = {"model": self._parts["model"].state_dict()}
            self._group.on_main(lambda: write_checkpoint(self._folder / BEST, weights))

    def best(self) -> Any:
        """The weights of the best epoch; RunError where they are gone."""
        content = read_checkpoint(self._folder / BEST, self._device)
        if content is None:
            raise RunError(
                f"{self._folder}: the best epoch's checkpoint is gone; start this run again"
            )
        return content["model"]
