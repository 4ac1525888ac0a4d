"""Twenty epochs of a small run: does anything grow, is anything left?

    python -m benchmarks.soak

Resident memory, open files and child processes after each epoch. From the second epoch on memory
may grow by MOST_GROWTH and the two others not at all; when the command is done no process of it may
be there. Exits with 1 otherwise. Linux only: it looks into /proc.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

# torch is imported by functions: the processes that draw and decode import this file too.
from benchmarks.kills import SPEC, expect_alone

VARIANT, NUM_EPOCHS = "twenty-epochs", 20
MOST_GROWTH = 0.02


@dataclass(frozen=True)
class Held:
    """What the process holds at a moment."""

    memory_mib: float
    num_files: int
    num_children: int


def main() -> int:
    """Run in a process of its own, print what it held, and judge."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()  # for --help
    with TemporaryDirectory(prefix="litevl-soak-") as temporary:
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            os.close(ours)
            run_and_exit(Path(temporary), theirs)
        os.close(theirs)
        with os.fdopen(ours) as pipe:
            told = [line.split() for line in pipe]
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        expect_alone(child)
    epochs = [Held(float(memory), int(files), int(children)) for memory, files, children in told]
    print("epoch  memory (MiB)  files  children")
    for number, held in enumerate(epochs, start=1):
        print(f"{number:5} {held.memory_mib:13.1f} {held.num_files:6} {held.num_children:9}")
    if code or len(epochs) != NUM_EPOCHS:
        print(f"the run ended with {code} after {len(epochs)} epochs", file=sys.stderr)
        return 1
    second, last = epochs[1], epochs[-1]
    growth = last.memory_mib / second.memory_mib - 1
    print(f"memory from epoch 2 to {NUM_EPOCHS}: {100 * growth:+.2f} %; no process left behind")
    more = last.num_files > second.num_files or last.num_children > second.num_children
    return int(growth > MOST_GROWTH or more)


def run_and_exit(folder: Path, pipe: int) -> None:
    """Life of a process that is forked off: the run, what it holds told after each epoch."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        from litevl.cli import main as litevl
        from litevl.engine.retrieval import RetrievalObjective

        with mock.patch.object(
            RetrievalObjective, "validate", telling(RetrievalObjective.validate, pipe)
        ):
            arguments = ["run", str(SPEC), "--profile", "mini", "--variant", VARIANT]
            code = litevl([*arguments, "--output", "out"])
    finally:
        os._exit(code)


def telling(validate: Callable[[Any], Any], pipe: int) -> Callable[[Any], Any]:
    """`validate`, which ends each epoch, and then a line of what the process holds."""

    def validate_and_tell(objective: Any) -> Any:
        point = validate(objective)
        held = held_now()
        os.write(pipe, f"{held.memory_mib} {held.num_files} {held.num_children}\n".encode())
        return point

    return validate_and_tell


def held_now() -> Held:
    """Resident memory, open files and children of this process."""
    process = Path("/proc/self")
    num_pages = int((process / "statm").read_text().split()[1])
    children = [
        child
        for thread in (process / "task").iterdir()
        for child in (thread / "children").read_text().split()
    ]
    return Held(
        num_pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(list((process / "fd").iterdir())),
        len(children),
    )


if __name__ == "__main__":
    sys.exit(main())
