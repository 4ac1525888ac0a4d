"""Work on many clips at once, in processes that the parent can kill.

Video libraries can loop for ever or abort inside native code (dmlc/decord issue 373), where no
thread can be timed out and no exception be caught. A clip that does so costs its process, and is
reported.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from litevl.errors import DataError, RunError

START_SECONDS = 120.0  # for a process to start on a loaded machine


class Job(Protocol):
    """One clip to work on; the rest is known to who does the work."""

    @property
    def clip_id(self) -> str:
        """Names the clip in the answer."""

    @property
    def path(self) -> Path:
        """Names its file in a Failure."""


@dataclass(frozen=True)
class Failure:
    """What is wrong with a clip. The reason begins with the clip's path.

    is_lasting: another attempt would fail too, as the file itself is at fault; not so where the
        clip took too long, needed more memory than there was or brought its process down.
    """

    clip_id: str
    reason: str
    is_lasting: bool


@dataclass(frozen=True)
class Work:
    """What every process does. All of it travels to the processes, so functions have a module.

    title: what is being done, "decoding" for one; it begins the reasons and stands beside the bar.
    load:  called once, when a process starts: what it loads is not part of the first clip's time.
    do:    from a job to its answer, a uint8 array or something small. DataError makes a Failure.
    """

    title: str
    load: Callable[[], None]
    do: Callable[[Any], Any]
    timeout_seconds: float


def work_on_clips(
    jobs: Iterable[Job], work: Work, num_workers: int, progress: bool = False
) -> Iterator[tuple[str, Any]]:
    """Do the work in `num_workers` processes; yield (clip id, answer or Failure).

    Clips come in the order in which they are done. A clip that takes longer than the work's
    timeout_seconds is a Failure, and so is one that brings its process down; both cost a new
    process, nothing else.
    progress: show a bar on stderr. Raises RunError when the processes cannot be started.
    """
    waiting = deque(jobs)
    num_workers = min(num_workers, len(waiting))
    workers: list[_Worker] = []
    bar = tqdm(total=len(waiting), desc=work.title, unit="clip", disable=not progress)
    try:
        for _ in range(num_workers):
            workers.append(_Worker(work))
        while workers:
            for worker in _ready_or_overdue(workers):
                job, answer = worker.job, worker.answer()
                # The next clip is handed out before this one is yielded, so that no process waits
                # for what the caller does with the answer.
                if not waiting:
                    worker.kill()
                    workers.remove(worker)
                elif not worker.is_alive:
                    worker.start()
                else:
                    worker.give(waiting.popleft())
                if job is not None:
                    bar.update()
                    yield job.clip_id, answer
    finally:
        bar.close()
        for worker in workers:
            worker.kill()


class Workers:
    """Processes that stay, for work that comes in batches; else as `work_on_clips`.

    They start when they are first needed and end with this object, or with the program.
    """

    def __init__(self, work: Work, num_workers: int) -> None:
        self._work, self._most = work, num_workers
        self._workers: list[_Worker] = []
        self._turn = threading.Lock()  # one batch at a time
        weakref.finalize(self, _kill_all, self._workers)

    def answers(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """Clip id -> answer or Failure; ids differ within a batch."""
        waiting, found = deque(jobs), dict[str, Any]()
        with self._turn:
            while len(self._workers) < min(self._most, len(jobs)):
                self._workers.append(_Worker(self._work))
            for worker in self._workers:
                if worker.is_idle and waiting:
                    worker.give(waiting.popleft())
            while len(found) < len(jobs):
                for worker in _ready_or_overdue([w for w in self._workers if not w.is_idle]):
                    job, answer = worker.job, worker.answer()
                    if job is not None:
                        found[job.clip_id] = answer
                    if not worker.is_alive:
                        worker.start()
                    elif waiting:
                        worker.give(waiting.popleft())
                    else:
                        worker.rest()
        return found


def _kill_all(workers: "list[_Worker]") -> None:
    for worker in workers:
        worker.kill()


class _Worker:
    """A process as its parent sees it: the clip it is busy with, and until when."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.start()

    def start(self) -> None:
        # spawn: a forked child of a process that has used torch or FFmpeg threads can deadlock.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.work), daemon=True)
        with interrupts_held_back():
            self.process.start()
        theirs.close()  # so that the pipe ends when the process does
        self.job: Job | None = None  # starting
        self.is_idle = False
        self.deadline = time.monotonic() + START_SECONDS
        self.is_alive = True

    def give(self, job: Job) -> None:
        self.job, self.is_idle = job, False
        self.deadline = time.monotonic() + self.work.timeout_seconds
        with contextlib.suppress(BrokenPipeError):  # it died just now; `answer` will say so
            self.pipe.send(job)

    def rest(self) -> None:
        """Wait for the next batch."""
        self.job, self.is_idle = None, True

    def answer(self) -> Any:
        """What the process says of its clip; None for "ready". Kills it when it is overdue."""
        title = self.work.title
        if not self.pipe.poll():
            self.kill()
            return self._failed(f"{title} took over {self.work.timeout_seconds:g} s; stopped")
        try:
            said, value = self.pipe.recv()
            if said == "array":
                array = np.empty(value, np.uint8)
                self.pipe.recv_bytes_into(array.data.cast("B"))
                return array
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self.kill()
            return self._failed(f"{title} brought its process down ({cause})")
        if said == "bug":
            raise RuntimeError(f"{title} {self.job}: {value}")
        return value

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
                f"a process could not start: {reason}\n"
                '  A script that calls litevl needs `if __name__ == "__main__":` around its calls.'
            )
        return Failure(self.job.clip_id, f"{self.job.path}: {reason}", is_lasting=False)


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


def end_with_parent() -> None:
    """End this process when its parent is gone, however that went: nobody else would.

    A parent that is killed cannot end its children, and one that decodes in native code, or waits
    for work that will never come, does not notice.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _serve(pipe: Connection, work: Work) -> None:
    """Life of a process: answer each job with what came of it; an array as its shape and bytes.

    Arrays go through the pipe, not through shared memory: containers often have 64 MB of the
    latter, and a killed process would leave its share behind.
    """
    end_with_parent()
    # FFmpeg's own chatter; what matters of it comes back as a reason.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    work.load()
    pipe.send(("ready", None))
    with contextlib.suppress(EOFError):  # the parent is gone
        while True:
            job = pipe.recv()
            try:
                answer = work.do(job)
            except DataError as error:
                pipe.send(("done", Failure(job.clip_id, str(error), is_lasting=True)))
            except MemoryError:  # a header that claims a million frames
                reason = f"{job.path}: {work.title} needs more memory than there is"
                pipe.send(("done", Failure(job.clip_id, reason, is_lasting=False)))
            except Exception:
                pipe.send(("bug", traceback.format_exc()))
            else:
                if isinstance(answer, np.ndarray):
                    pipe.send(("array", answer.shape))
                    pipe.send_bytes(answer.data.cast("B"))
                else:
                    pipe.send(("done", answer))
