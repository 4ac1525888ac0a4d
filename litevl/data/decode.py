"""Many clips decoded at once, in processes that the parent can kill.

decord can loop for ever or abort inside native code (dmlc/decord issue 373), where no thread can be
timed out and no exception be caught. A clip that does so costs its process, and is reported.

Legend: K frames asked for, S = size_px.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np
from tqdm import tqdm

from litevl.data.video import Frames, expect_decoder, quieten, read_frames
from litevl.errors import DataError, RunError

START_SECONDS = 120.0  # for a decoding process to start on a loaded machine


@dataclass(frozen=True)
class DecodeJob:
    """One clip to decode: all its frames, or those at `indices`."""

    clip_id: str
    path: Path
    indices: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Failure:
    """Why a clip could not be decoded. The reason begins with the clip's path."""

    clip_id: str
    reason: str


def decode_clips(
    jobs: Iterable[DecodeJob],
    size_px: int,
    decoder: str,
    num_workers: int,
    timeout_seconds: float,
    progress: bool = False,
) -> Iterator[tuple[str, Frames | Failure]]:
    """Decode clips in `num_workers` processes; yield (clip id, frames (K, S, S, 3) or Failure).

    Clips come in the order in which they are done. A clip that takes longer than timeout_seconds is
    a Failure, and so is one that brings its process down; both cost a new process, nothing else.
    progress: show a bar on stderr. Raises RunError when the processes cannot be started.
    """
    expect_decoder(decoder)
    waiting = deque(jobs)
    num_workers = min(num_workers, len(waiting))
    workers: list[_Worker] = []
    bar = tqdm(total=len(waiting), desc="decoding", unit="clip", disable=not progress)
    try:
        for _ in range(num_workers):
            workers.append(_Worker(size_px, decoder, timeout_seconds))
        while workers:
            for worker in _ready_or_overdue(workers):
                job, answer = worker.job, worker.answer()
                # The next clip is handed out before this one is yielded, so that no process waits
                # for what the caller does with the frames.
                if not waiting:
                    worker.kill()
                    workers.remove(worker)
                elif not worker.is_alive:
                    worker.start()
                else:
                    worker.give(waiting.popleft())
                if job is not None and answer is not None:
                    bar.update()
                    yield job.clip_id, answer
    finally:
        bar.close()
        for worker in workers:
            worker.kill()


class _Worker:
    """A decoding process as its parent sees it: the clip it is busy with, and until when."""

    def __init__(self, size_px: int, decoder: str, timeout_seconds: float) -> None:
        self.size_px, self.decoder, self.timeout_seconds = size_px, decoder, timeout_seconds
        self.start()

    def start(self) -> None:
        # spawn: a forked child of a process that has used torch or FFmpeg threads can deadlock.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, self.size_px, self.decoder), daemon=True
        )
        with interrupts_held_back():
            self.process.start()
        theirs.close()  # so that the pipe ends when the process does
        self.job: DecodeJob | None = None  # starting
        self.deadline = time.monotonic() + START_SECONDS
        self.is_alive = True

    def give(self, job: DecodeJob) -> None:
        self.job = job
        self.deadline = time.monotonic() + self.timeout_seconds
        with contextlib.suppress(BrokenPipeError):  # it died just now; `answer` will say so
            self.pipe.send(job)

    def answer(self) -> Frames | Failure | None:
        """What the process says of its clip; None for "ready". Kills it when it is overdue."""
        if not self.pipe.poll():
            self.kill()
            return self._failed(f"decoding took over {self.timeout_seconds:g} s and was stopped")
        try:
            said, value = self.pipe.recv()
            if said == "frames":
                frames = np.empty(value, np.uint8)
                self.pipe.recv_bytes_into(frames.data.cast("B"))
                return frames
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self.kill()
            return self._failed(f"the decoder brought its process down ({cause})")
        if said == "bug":
            raise RuntimeError(f"decoding {self.job}: {value}")
        return Failure(self.job.clip_id, value) if self.job is not None else None

    def kill(self) -> None:
        if self.is_alive:
            self.is_alive = False
            self.process.kill()
            self.process.join()
            self.process.close()
            self.pipe.close()

    def _failed(self, reason: str) -> Failure:
        if self.job is None:
            raise RunError(
                f"a decoding process could not start: {reason}\n"
                '  A script that calls litevl needs `if __name__ == "__main__":` around its calls.'
            )
        return Failure(self.job.clip_id, f"{self.job.path}: {reason}")


def _ready_or_overdue(workers: list[_Worker]) -> list[_Worker]:
    """Wait until a process has answered or one has used up its time; return all of those."""
    patience_seconds = min(worker.deadline for worker in workers) - time.monotonic()
    ready = wait([worker.pipe for worker in workers], timeout=max(0.0, patience_seconds))
    now = time.monotonic()
    return [worker for worker in workers if worker.pipe in ready or now >= worker.deadline]


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Keep Ctrl-C from the processes started inside: the parent ends them, without tracebacks."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, size_px: int, decoder: str) -> None:
    """Life of a decoding process: answer each job with ("frames", shape) and the bytes, or why not.

    Frames go through the pipe, not through shared memory: containers often have 64 MB of the
    latter, and a killed process would leave its share behind.
    """
    # FFmpeg's own chatter; what matters of it comes back as a reason.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    quieten(decoder)  # and load it: not part of the first clip's time
    pipe.send(("ready", None))
    with contextlib.suppress(EOFError):  # the parent is gone
        while True:
            job = pipe.recv()
            try:
                frames = read_frames(job.path, job.indices, size_px, decoder)
            except DataError as error:
                pipe.send(("failure", str(error)))
            except Exception:
                pipe.send(("bug", traceback.format_exc()))
            else:
                pipe.send(("frames", frames.shape))
                pipe.send_bytes(frames.data.cast("B"))
