"""Processes that share a plan on one machine, each with its share of the cores.

A small model's operations are too short to keep several cores busy: two runs with one thread each
take less time than one after the other with two.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from contextlib import ExitStack
from functools import partialmethod
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from tqdm import tqdm

from litevl.data.processes import end_with_parent, interrupts_held_back
from litevl.engine.distributed import join_group
from litevl.errors import LiteVLError, RunError
from litevl.preemption import REQUEUE, Preempted, preemptible
from litevl.record import hardware
from litevl.sharing import Left, Options

GRACE_SECONDS = 20.0  # to finish a step and write a checkpoint
# spawn: a forked child of a process that has used torch's threads can deadlock.
CONTEXT = multiprocessing.get_context("spawn")


def num_side_by_side(asked: int | None, num_runs: int) -> int:
    """How many runs at a time. asked: None for one a core; one where there is a GPU to share."""
    if asked is None:
        asked = 1 if torch.cuda.is_available() else int(hardware("cpu")["cores"])
    return max(1, min(asked, num_runs))


def execute_side_by_side(left: Left, options: Options, at_once: int, doers: Any) -> None:
    """Share the runs, whose data is prepared, between new processes; returns when they have ended.

    doers: shared memory that takes the process id of who executes each run, or more.
    A process that comes down, or ends with an error that is no run's, is a RunError that names its
    run; the others are then ended, with a checkpoint written.
    """
    num_threads = max(1, int(hardware("cpu")["cores"]) // at_once)
    bars = CONTEXT.RLock()
    with ExitStack() as stack:
        busy: dict[int, BaseProcess] = {}  # by sentinel
        stack.callback(end_all, busy)
        for line in range(at_once):
            given = (left, options, num_threads, bars, line, doers)
            process = CONTEXT.Process(target=_take_part, args=given)
            with interrupts_held_back():
                process.start()
            busy[process.sentinel] = process
        while busy:
            for sentinel in wait(list(busy)):
                assert isinstance(sentinel, int)
                ended = busy.pop(sentinel)
                ended.join()
                if ended.exitcode == REQUEUE:
                    raise Preempted
                if ended.exitcode:
                    raise came_down(ended.exitcode, its_run(left, doers, ended.pid))


def its_run(left: Left, doers: Any, process: int | None) -> str:
    """The run that a process has begun and not finished."""
    begun = (number for number, doer in enumerate(doers) if doer == process)
    open_now = [left.runs[n].id for n in begun if left.outcome(n) == "missing"]
    return open_now[0] if open_now else "between two runs"


def came_down(code: int, run_id: str) -> RunError:
    """The error for a process that ended before its time. code: as `multiprocessing` tells it."""
    kept = "Finished runs are kept; the same command continues with the rest."
    if code > 0:
        return RunError(f"{run_id}: its process ended, with what stands above\n  {kept}")
    return RunError(
        f"{run_id}: its process came down ({signal.Signals(-code).name})\n"
        f"  If memory is short, run fewer at a time: --jobs 1. {kept}"
    )


def end_all(busy: dict[int, BaseProcess]) -> None:
    """End the processes that are still busy, with a checkpoint; kill who takes too long for it."""
    last = time.monotonic() + GRACE_SECONDS
    try:
        for process in busy.values():
            process.terminate()
        for process in busy.values():
            process.join(max(0.0, last - time.monotonic()))
    finally:
        for process in busy.values():
            process.kill()
            process.join()


def _take_part(
    left: Left, options: Options, num_threads: int, bars: Any, line: int, doers: Any
) -> None:
    """Life of a process: runs that nobody else has, their bars on a line of their own."""
    from litevl.run import execute_left

    end_with_parent()
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    torch.set_num_threads(num_threads)
    logging.basicConfig(format="%(message)s")
    tqdm.set_lock(bars)
    at_line = partialmethod(tqdm.__init__, position=line)
    tqdm.__init__ = at_line  # type: ignore[assignment, method-assign]
    try:
        with preemptible():
            execute_left(left, options, doers, join_group(), wait=False)
    except LiteVLError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Preempted:  # who asked for it knows
        sys.exit(REQUEUE)
