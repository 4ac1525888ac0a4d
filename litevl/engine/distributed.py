"""Several processes as one: who works on which rows of a batch, and what they tell each other.

accelerate or torchrun starts the processes; torch.distributed carries what they exchange. A single
process is a group of one, which exchanges nothing.

Every process draws the same random numbers for the whole batch and then works on its own rows, so a
batch, its frames, captions and negatives do not depend on how many processes there are. Only
dropout has a random stream of its own in each.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor, distributed

from litevl.errors import LiteVLError, RunError, SpecError

T = TypeVar("T")

BUCKET_ELEMENTS = 1 << 24  # gradients summed at a time: 64 MiB in float32
# Rank 0 may decode a whole data set while the others wait. A process that dies is noticed at once,
# by its peers' connections and by the launcher, however long this is.
PATIENCE = timedelta(hours=4)


@dataclass(frozen=True)
class Group:
    """The processes of a run, as one of them sees it.

    rank: its number, from 0. size: how many there are. device: where this one computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    def does(self, number: int) -> bool:
        """Whether a piece of work is this process's: they take turns."""
        return number % self.size == self.rank

    def share(self, count: int) -> range:
        """Which of `count` rows are this process's; as even as can be, the last may have fewer."""
        most = -(-count // self.size)
        return range(min(count, self.rank * most), min(count, (self.rank + 1) * most))

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """All `count` rows, in order, from each process's share of them; no gradients pass."""
        if self.size == 1:
            return rows.detach()
        most = -(-count // self.size)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(parts, padded)
        return torch.cat(parts)[:count]  # only the last shares are padded

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place where the values lie in one piece."""
        if self.size > 1:
            values = values.contiguous()
            distributed.all_reduce(values)
        return values

    def assemble(self, parts: dict[range, Tensor], count: int) -> Tensor:
        """All `count` rows on every process, each of which knows the rows of some ranges.

        A row is one process's alone, so nothing is rounded.
        """
        mine = next(iter(parts.values()), None)
        told = self.each(None if mine is None else (mine.shape[1:], mine.dtype))
        shape, dtype = next(some for some in told if some is not None)
        device = self.device if mine is None else mine.device
        whole = torch.zeros(count, *shape, dtype=dtype, device=device)
        for rows, values in parts.items():
            whole[rows.start : rows.stop] = values
        return self.sum(whole)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum every parameter's gradient over the processes; a missing one counts as zero.

        Once per update and not, as in DistributedDataParallel, during one backward pass: a step
        has several (see `litevl.engine.features`).
        """
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for parameter in parameters:
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(grad.numel() for grad in bucket) >= BUCKET_ELEMENTS:
                self._sum_together(bucket)
                bucket = []
        self._sum_together(bucket)

    def _sum_together(self, tensors: list[Tensor]) -> None:
        if not tensors:
            return
        flat = self.sum(torch.cat([tensor.flatten() for tensor in tensors]))
        sizes = [tensor.numel() for tensor in tensors]
        for tensor, total in zip(tensors, torch.split(flat, sizes), strict=True):
            tensor.copy_(total.view_as(tensor))

    def on_main(self, action: Callable[[], T]) -> T:
        """What an action returns that only rank 0 takes; its LiteVLError is raised by all."""
        if self.size == 1:
            return action()
        outcome: list[Any] = [None]
        if self.is_main:
            try:
                outcome = [action()]
            except LiteVLError as error:
                outcome = [error]
        distributed.broadcast_object_list(outcome, src=0, device=self.device)
        if isinstance(outcome[0], LiteVLError):
            raise shared(outcome[0])
        result: T = outcome[0]
        return result

    def each(self, value: T) -> list[T]:
        """What every process has to say, in the order of ranks."""
        if self.size == 1:
            return [value]
        said: list[Any] = [None] * self.size
        distributed.all_gather_object(said, value)
        return said

    def together(self, action: Callable[[], T]) -> T:
        """What every process's own action returns; where one fails, all raise its LiteVLError."""
        try:
            result, error = action(), None
        except LiteVLError as raised:
            error = raised
        failed = [some for some in self.each(error) if some is not None]
        if failed:
            raise shared(error or RunError(f"another process failed: {failed[0]}"))
        return result

    def main_first(self, action: Callable[[], T]) -> T:
        """As `together`; the others begin when rank 0 is done, and find what it has written."""
        first = self.together(lambda: action() if self.is_main else None)
        return self.together(lambda: action() if first is None else first)


ALONE = Group(0, 1, torch.device("cpu"))


def shared(error: LiteVLError) -> LiteVLError:
    """The error, marked as one that every process raises."""
    error.is_shared = True
    return error


def join_group() -> Group:
    """The group that this process was started in, by accelerate, torchrun or alone."""
    is_launched = "LOCAL_RANK" in os.environ
    options = {"timeout": PATIENCE} if is_launched else {}
    state = PartialState(cpu=not torch.cuda.is_available(), **options)
    if distributed.is_initialized():
        atexit.register(leave_group)
    return Group(state.process_index, state.num_processes, state.device)


def leave_group() -> None:
    """End the connections: threads that still serve them at exit can abort the process."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rows_at_once(batch_size: int, device_batch_size: int | None, group: Group) -> int:
    """Rows of a batch that a device holds at once; the rest of its share follows, accumulated.

    SpecError where the batch cannot be divided so.
    """
    share, rest = divmod(batch_size, group.size)
    if rest:
        raise SpecError(
            f"train.batch_size: {batch_size} cannot be divided among {group.size} processes\n"
            "  Start a number of processes that divides it, or choose another batch size."
        )
    if device_batch_size is None:
        return share
    if share % device_batch_size:
        raise SpecError(
            f"train.device_batch_size: {device_batch_size} at once do not divide the "
            f"{share} of each process ({batch_size} among {group.size})\n"
            f"  Choose one of {', '.join(map(str, divisors(share)))}, or leave it out."
        )
    return device_batch_size


def divisors(number: int) -> list[int]:
    """All of them, ascending."""
    return [some for some in range(1, number + 1) if number % some == 0]
