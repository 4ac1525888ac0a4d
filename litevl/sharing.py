"""A plan that several processes work on at once, on one machine or on many with the same folder.

A run is executed by who holds its lock. Its record is looked at again once the lock is taken, so
that nothing runs twice; a process that dies gives its lock back, so that nothing is left over.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from litevl.locks import POLL_SECONDS, held, holder
from litevl.plan import PlannedRun, State, record_path, state

Stamp = tuple[int, int] | None


@dataclass(frozen=True)
class Options:
    """What all runs of a command have in common; see `litevl.run.execute_plan`."""

    subset: int | None
    allow_missing: bool
    rerun: bool
    profile_reason: str


@dataclass(frozen=True)
class Left:
    """The runs that a command has to see through, and their records as they were when it began."""

    runs: tuple[PlannedRun, ...]
    output: Path
    before: tuple[Stamp, ...]

    def first(self, count: int) -> "Left":
        """Some of the runs."""
        return Left(self.runs[:count], self.output, self.before[:count])

    def outcome(self, number: int) -> State:
        """What came of a run since the command began, in whichever process; "missing" until then.

        So a failure of before is tried again, and one of now is not, whoever had it.
        """
        run = self.runs[number]
        if _stamp(run, self.output) == self.before[number]:
            return "missing"
        return state(run, self.output / "records")


def left_of(runs: Sequence[PlannedRun], output: Path, rerun: bool) -> Left:
    """What is not done of a plan; with `rerun`, all of it."""
    stamps = [_stamp(run, output) for run in runs]  # before the states: what comes between counts
    left = [
        (run, stamp)
        for run, stamp in zip(runs, stamps, strict=True)
        if rerun or state(run, output / "records") != "done"
    ]
    return Left(tuple(run for run, _ in left), output, tuple(stamp for _, stamp in left))


def turns(left: Left, wait: bool = True) -> Generator[int, None, None]:
    """The runs, by number, that this process is to execute, each before it asks for the next.

    The run's lock is held meanwhile. When all that is left is in other hands this waits for it, and
    takes over a run whose process ends without a record.   wait: whether to; else the turns end.
    """
    waiting = list(range(len(left.runs)))
    told: dict[int, str] = {}
    while waiting:
        for number in waiting:
            run = left.runs[number]
            with held(_lock_file(run, left.output)) as is_ours:
                if is_ours:
                    if left.outcome(number) == "missing":
                        if number in told:
                            print(f"  {run.id}: {told[number]} left no record; taken over")
                        yield number
                    waiting.remove(number)
                    break  # and look at those before it again
        else:
            if not wait:
                return
            for number in waiting:
                run = left.runs[number]
                if number not in told:
                    told[number] = holder(_lock_file(run, left.output))
                    print(f"  {run.id}: waiting for {told[number]}", flush=True)
            time.sleep(POLL_SECONDS)


def tidy(run: PlannedRun, output: Path) -> None:
    """Remove a done run's checkpoints, which a killed process left; not while it is done anew."""
    folder = output / "runs" / run.id
    if folder.is_dir():
        with held(_lock_file(run, output)) as is_ours:
            if is_ours:
                remove_checkpoints(folder)


def remove_checkpoints(folder: Path) -> None:
    """Delete what a finished run does not need any more; its trained model stays, in `model/`."""
    for pattern in ("*.pt", ".*.pt.*.tmp", "*.f16", "*.part", ".*.part.*.tmp"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)  # another process may be at it


def is_held(run: PlannedRun, output: Path) -> bool:
    """Whether a process executes the run now."""
    with held(_lock_file(run, output)) as is_ours:
        return not is_ours


def _stamp(run: PlannedRun, output: Path) -> Stamp:
    """Tells a record from the one that replaces it; None where there is none."""
    try:
        found = record_path(run, output / "records").stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _lock_file(run: PlannedRun, output: Path) -> Path:
    return output / "runs" / f"{run.id}.lock"
