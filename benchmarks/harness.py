"""Times several contenders of one task in turn, in one process, with the same tensors and threads.

A machine's speed drifts, with heat and with what else it does. So contenders alternate (A B A B
...), and a ratio is taken within each round, between calls that stood next to each other.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from litevl.benchmark_record import (
    BenchmarkRecord,
    Conditions,
    Contender,
    Figure,
    Quartiles,
    Ratio,
    Row,
)
from litevl.record import code_state, hardware, package_versions
from litevl.schema import Code, Hardware

ROOT = Path(__file__).parents[1]
Measured = tuple[list[Row], list[Figure]]  # what a benchmark returns

NO_BF16 = "this machine has no bf16 products of its own"
FEWEST_ROUNDS = 3  # fewer have no quartiles to speak of


@dataclass(frozen=True)
class Way:
    """One way to do a task. call: does it once, on tensors that are there already."""

    name: str
    call: Callable[[], object]
    items: float
    num_bytes: int | None = None


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds until `seconds` are over, within the two bounds."""

    seconds: float
    rounds: int
    fewest: int = FEWEST_ROUNDS


def alternated(
    ways: Sequence[Way],
    effort: Effort,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call of each way, round by round: all lists have one length."""
    found: dict[str, list[float]] = {way.name: [] for way in ways}
    started = clock()
    for done in range(effort.rounds):
        if done >= effort.fewest and clock() - started >= effort.seconds:
            break
        for way in ways:
            _finish(device)
            before = clock()
            way.call()
            _finish(device)
            found[way.name].append(clock() - before)
    return found


def _finish(device: torch.device) -> None:
    """Wait for what a device still computes; a GPU answers before it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quartiles(values: Sequence[float]) -> Quartiles:
    """The three quartiles, interpolated between neighbours."""
    low, median, high = (float(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return Quartiles(low=low, median=median, high=high)


def measured_row(
    name: str,
    item: str,
    conditions: Conditions,
    ways: Sequence[Way],
    effort: Effort,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> Row:
    """A row: the first of the ways against each of the others, per item.

    Each way is called once before the clock runs: to warm up, and to count its operations.
    """
    flops = {way.name: flops_of(way.call) for way in ways}
    seconds = alternated(ways, effort, device, clock)
    first = ways[0]
    contenders = tuple(
        Contender(
            name=way.name,
            seconds=quartiles(seconds[way.name]),
            items=way.items,
            flops=flops[way.name] or None,
            bytes=way.num_bytes,
        )
        for way in ways
    )
    ratios = tuple(
        Ratio(
            faster=first.name,
            slower=other.name,
            times=quartiles(
                [
                    (theirs / other.items) / (ours / first.items)
                    for ours, theirs in zip(seconds[first.name], seconds[other.name], strict=True)
                ]
            ),
        )
        for other in ways[1:]
    )
    rounds = len(seconds[first.name])
    return Row(
        name=name,
        item=item,
        rounds=rounds,
        conditions=conditions,
        contenders=contenders,
        ratios=ratios,
    )


def ratio_to(row: Row, peer: str) -> float:
    """How many times as fast as the peer ours is: the median over rounds."""
    return next(ratio.times.median for ratio in row.ratios if ratio.slower == peer)


def ratio_figure(
    name: str, claim: str, at_least: float, row: Row | None, peer: str, unit: str = "times"
) -> Figure:
    """The figure that is such a ratio. row: None where the device has no bf16 products."""
    value, why_not = (None, NO_BF16) if row is None else (ratio_to(row, peer), None)
    return Figure(
        name=name, claim=claim, unit=unit, at_least=at_least, value=value, why_not=why_not
    )


def flops_of(call: Callable[[], object]) -> int:
    """Operations of one call: two for each multiplication and addition in torch's products."""
    # Its own list has the GPU's kernels of attention and lacks the CPU's.
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa_flops}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        call()
    return int(counter.get_total_flops())


def _sdpa_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """From the three shapes."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def peak_memory_mib(job: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Peak resident memory of a fresh process that does nothing else, and what the job returned.

    job: a function of a module, whose result is small. Raises RuntimeError where it comes down.
    """
    context = multiprocessing.get_context("spawn")  # fresh: a fork begins with what we hold
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell_peak, args=(theirs, torch.get_num_threads(), job, given))
    process.start()
    theirs.close()
    try:
        peak, result = ours.recv()
    except EOFError:
        process.join()
        name = getattr(job, "__name__", str(job))
        raise RuntimeError(f"{name}{given}: its process ended with {process.exitcode}") from None
    process.join()
    return float(peak), result


def _tell_peak(
    pipe: Connection, num_threads: int, job: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    """Life of the fresh process."""
    torch.set_num_threads(num_threads)
    result = job(*given)
    pipe.send((own_peak_mib(), result))


def own_peak_mib() -> float:
    """Peak resident memory of this process since it began."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held before exec, too
        lines = status.read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def record_of(
    name: str,
    title: str,
    rows: Sequence[Row],
    figures: Sequence[Figure],
    device: torch.device,
    quick: bool,
) -> BenchmarkRecord:
    """The record of what was measured on this machine with this code."""
    return BenchmarkRecord(
        name=name,
        title=title,
        quick=quick,
        code=Code.model_validate(code_state(ROOT, "benchmarks")),
        packages=package_versions(),
        hardware=Hardware.model_validate(hardware(str(device))),
        rows=tuple(rows),
        figures=tuple(figures),
    )
