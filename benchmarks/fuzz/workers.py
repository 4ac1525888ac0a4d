"""Processes that read one damaged input after the other, each watched, limited and replaceable.

What an input is follows from its kind, the seed and its number alone, so that one that was found
can be made again: `python -m benchmarks.fuzz KIND --seed S --only NUMBER --keep FOLDER`.
"""

import contextlib
import gc
import io
import logging
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.fuzz.guard import LARGEST_GROWTH_BYTES, Peak, Watch, limit_memory
from litevl.errors import LiteVLError

# Letters that steer a terminal, or turn the order of what is read on it.
STEERING = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    damage: puts a damaged copy of the seeds into an empty folder; returns what was done, for a
            reader. read: reads what is there by all functions and commands that a user has for it;
            ends, or raises a LiteVLError. warm_up: loads what the first reading would load.
    """

    name: str
    damage: Callable[[Path, Path, random.Random], str]
    read: Callable[[Path, random.Random], None]
    warm_up: Callable[[Path, Path], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one input.   found: what is wrong with how it was read, "" if nothing."""

    number: int
    damage: str
    was_refused: bool
    found: str
    seconds: float
    grown_bytes: int = 0


def rng_of(kind: str, seed: int, number: int) -> random.Random:
    """The generator that makes an input."""
    return random.Random(f"{kind} {seed} {number}")


def read_one(
    kind: Kind, seeds: Path, folder: Path, seed: int, number: int, watch: Watch
) -> Outcome:
    """Damage, read and judge one input; the folder is empty and the working directory."""
    rng = rng_of(kind.name, seed, number)
    with watch.on(folder):  # a damaged link must not lead the damage itself elsewhere
        damage = kind.damage(seeds, folder, rng)
    said, problems, was_refused = io.StringIO(), list[str](), False
    peak, started = Peak(), time.monotonic()
    with watch.on(folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            kind.read(folder, rng)
        except LiteVLError as error:
            was_refused = True
            if not str(error).strip():
                problems.append("refused without a word")
        except MemoryError:
            problems.append("memory: " + traceback.format_exc())
        except (Exception, SystemExit):
            problems.append(traceback.format_exc())
    seconds = time.monotonic() - started
    problems += [f"not allowed: {what}" for what in watch.seen]
    if (folder / "canary").exists():
        problems.append("code in the input was run: the canary is there")
    if "Traceback (most recent call last)" in said.getvalue():
        problems.append(f"a traceback was printed: {said.getvalue()[-3000:]}")
    steering = STEERING.search(said.getvalue())
    if steering:
        around = said.getvalue()[max(0, steering.start() - 200) : steering.end() + 20]
        problems.append(f"printed a letter that steers terminals: {around!r}")
    grown = peak.growth_bytes()
    if grown > LARGEST_GROWTH_BYTES:
        problems.append(f"memory grew by {grown >> 20} MiB")
    return Outcome(number, damage, was_refused, "\n".join(problems), seconds, grown)


def try_all(*steps: Callable[[], object], quiet: bool = False) -> None:
    """Take every step, whichever of them are refused; then raise the last refusal, unless quiet."""
    refusal: LiteVLError | None = None
    for step in steps:
        try:
            step()
        except LiteVLError as error:
            print(error)
            refusal = error
    if refusal is not None and not quiet:
        raise refusal


def serve(kind: Kind, seeds: Path, place: Path, seed: int, link: Connection) -> None:
    """Read the inputs whose numbers come in, until None does."""
    gc.freeze()  # what the fork began with is not looked through again for each input
    sys.dont_write_bytecode = True
    logging.disable()
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)  # what C libraries say; Python's own output is kept for each input
    os.dup2(devnull, 2)
    fresh(place)
    tempfile.tempdir = str(place)
    kind.warm_up(seeds, place)
    watch = Watch()
    limit_memory()
    while (number := link.recv()) is not None:
        fresh(place)
        link.send(read_one(kind, seeds, place, seed, number, watch))


def fresh(place: Path) -> None:
    """Make an empty folder and go there."""
    os.chdir(place.parent)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    os.chdir(place)


class Worker:
    """A process, and the input that it has in hand."""

    def __init__(self, start: Callable[[Connection], BaseProcess]) -> None:
        self.link, theirs = multiprocessing.Pipe()
        self.process = start(theirs)
        self.process.start()
        theirs.close()
        self.number: int | None = None
        self.since = time.monotonic()

    def give(self, number: int | None) -> None:
        """Hand it its next input, or None: it ends."""
        self.number, self.since = number, time.monotonic()
        with contextlib.suppress(OSError):  # it died: seen at the other end
            self.link.send(number)

    def stop(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.join()
        self.link.close()


def outcomes(
    kind: Kind,
    seeds: Path,
    work: Path,
    seed: int,
    numbers: Iterable[int],
    jobs: int,
    timeout_seconds: float,
) -> Iterator[Outcome]:
    """What became of each input, in no order. A process that hangs or dies is replaced."""
    context: Any = multiprocessing.get_context("fork")  # what is loaded already need not be again
    left = iter(numbers)

    def new(place: int) -> Worker:
        arguments = (kind, seeds, work / f"worker{place}", seed)
        return Worker(lambda link: context.Process(target=serve, args=(*arguments, link)))

    workers = {place: new(place) for place in range(jobs)}
    for worker in workers.values():
        worker.give(next(left, None))
    try:
        while any(worker.number is not None for worker in workers.values()):
            ready = wait([w.link for w in workers.values() if w.number is not None], timeout=1.0)
            for place, worker in workers.items():
                if worker.number is None:
                    continue
                seconds = time.monotonic() - worker.since
                said: Outcome | None = None
                if worker.link in ready:
                    with contextlib.suppress(EOFError, OSError):
                        said = worker.link.recv()
                elif seconds < timeout_seconds:
                    continue
                if said is None:
                    worker.stop()
                    hung = worker.link not in ready
                    what = "hang: no answer after" if hung else "its process died after"
                    found = f"{what} {seconds:.0f} s (exit code {worker.process.exitcode})"
                    said = Outcome(worker.number, "", False, found, seconds)
                    workers[place] = worker = new(place)
                yield said
                worker.give(next(left, None))
    finally:
        for worker in workers.values():
            worker.stop()
