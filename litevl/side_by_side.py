"""Runs side by side, each in a process of its own with its share of the cores.

A small model's operations are too short to keep several cores busy: two runs with one thread each
take less time than one after the other with two.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partialmethod
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from litevl.data.processes import interrupts_held_back
from litevl.engine.distributed import join_group
from litevl.errors import RunError
from litevl.plan import PlannedRun
from litevl.prepare import prepare
from litevl.record import hardware

FINISHED, FAILED = 0, 3  # exit codes; any other is a process that came down


@dataclass(frozen=True)
class Options:
    """What all runs of a command have in common; see `litevl.run.execute_plan`."""

    subset: int | None
    allow_missing: bool
    profile_reason: str
    output: Path


def num_side_by_side(asked: int | None, num_runs: int) -> int:
    """How many runs at a time. asked: None for one a core; one where there is a GPU to share."""
    if asked is None:
        asked = 1 if torch.cuda.is_available() else int(hardware("cpu")["cores"])
    return max(1, min(asked, num_runs))


def execute_side_by_side(runs: Sequence[PlannedRun], options: Options, at_once: int) -> int:
    """Execute the runs, whose data is prepared; returns how many failed, as their records say.

    A process that comes down without a record is a RunError; the others are then ended.
    """
    num_threads = max(1, int(hardware("cpu")["cores"]) // at_once)
    # spawn: a forked child of a process that has used torch's threads can deadlock.
    context = multiprocessing.get_context("spawn")
    bars = context.RLock()
    waiting = deque(enumerate(runs, start=1))
    busy: dict[int, tuple[BaseProcess, PlannedRun, int]] = {}  # by sentinel
    failed = 0
    with ExitStack() as stack:
        stack.callback(end_all, busy)
        while waiting or busy:
            while waiting and len(busy) < at_once:
                number, run = waiting.popleft()
                line = min(set(range(at_once)) - {taken for _, _, taken in busy.values()})
                print(f"  run {number} of {len(runs)}: {run.id}", flush=True)
                given = (run, options, num_threads, bars, line)
                started = context.Process(target=_execute, args=given)
                with interrupts_held_back():
                    started.start()
                busy[started.sentinel] = started, run, line
            for sentinel in done(busy):
                process, run, _ = busy.pop(sentinel)
                process.join()
                failed += expect_record(run, process.exitcode or 0) == FAILED
    return failed


def done(sentinels: Any) -> Iterator[int]:
    """The processes that have ended; waits until one has."""
    for sentinel in wait(list(sentinels)):
        assert isinstance(sentinel, int)
        yield sentinel


def expect_record(run: PlannedRun, code: int) -> int:
    """The exit code of a process that has left a record; RunError for one that came down."""
    if code in (FINISHED, FAILED):
        return code
    cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    raise RunError(
        f"{run.id}: its process came down ({cause})\n"
        "  If memory is short, run fewer at a time: --jobs 1. Finished runs are kept; the same "
        "command continues with the rest."
    )


def end_all(busy: dict[int, tuple[BaseProcess, PlannedRun, int]]) -> None:
    """Kill the processes that are still busy, and wait until they are gone."""
    for process, _, _ in busy.values():
        process.kill()
        process.join()


def _execute(run: PlannedRun, options: Options, num_threads: int, bars: Any, line: int) -> None:
    """Life of a process: one run, its bars on a line of their own."""
    from litevl.run import execute

    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    torch.set_num_threads(num_threads)
    logging.basicConfig(format="%(message)s")
    tqdm.set_lock(bars)
    at_line = partialmethod(tqdm.__init__, position=line)
    tqdm.__init__ = at_line  # type: ignore[assignment, method-assign]
    data = prepare(run.resolved, options.subset, options.allow_missing)
    is_done = execute(run, data, options.profile_reason, options.output, join_group())
    sys.exit(FINISHED if is_done else FAILED)
