"""The paper profile from end to end without a data set: real sizes, invented content.

    python -m benchmarks.paper_smoke [NAME ...] [--size base] [--folder DIR] [--all-variants]

writes a folder of clips, annotation files and random weights (tests/paper_world.py), runs
`litevl run reproductions/NAME.toml --profile paper --subset 8 --max-steps 2` in it, and prints
what each took. Its scores mean nothing. Exit 1 where a run fails or leaves half a record.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from litevl.record import Record, read_arrays, read_record, read_strips
from litevl.spec import load_spec, resolve

ROOT = Path(__file__).parents[1]
NAMES = ("msrvtt", "didemo", "msvd_qa", "msrvtt_qa")
SUBSET, MAX_STEPS = 8, 2
MOST_MINUTES, MOST_GB = 10, 12.0


@dataclass(frozen=True)
class Measured:
    """What one command took."""

    exit_code: int
    wall_seconds: float
    cpu_seconds: float
    peak_gb: float  # of its largest process


def main(argv: Sequence[str] | None = None) -> int:
    """Make the folder, run the reproductions in it one after another, print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--size", choices=("base", "small"), default="base", help="of the weights")
    parser.add_argument("--folder", type=Path, help="kept, and used again if it is there")
    parser.add_argument(
        "--all-variants", action="store_true", help="all variants and seeds, not `full` with 0"
    )
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"no reproduction {', '.join(unknown)}; there are {', '.join(NAMES)}")
    with TemporaryDirectory(prefix="litevl-paper-") as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        if not (folder / "data").exists():
            world = ["tests/paper_world.py", str(folder), "--clips", str(SUBSET)]
            command = [sys.executable, *world, "--size", arguments.size]
            subprocess.run(command, check=True, cwd=ROOT)
        return smoke(folder, arguments.names or NAMES, arguments.all_variants)


def smoke(folder: Path, names: Sequence[str], all_variants: bool) -> int:
    """Run each reproduction in the folder; 1 where something is wrong with one of them."""
    problems = []
    print(f"{'':12} {'wall (min)':>10} {'CPU (min)':>10} {'peak (GB)':>10}")
    for name in names:
        output = folder / "out" / f"{name}-{time.time_ns()}"
        took = run(folder, name, output, all_variants)
        times = f"{took.wall_seconds / 60:10.1f} {took.cpu_seconds / 60:10.1f}"
        print(f"{name:12} {times} {took.peak_gb:10.1f}", flush=True)
        found = [f"exit code {took.exit_code}"] if took.exit_code else []
        found += [] if took.exit_code else record_problems(name, output)
        if took.wall_seconds > 60 * MOST_MINUTES and not all_variants:
            found.append(f"took more than {MOST_MINUTES} minutes")
        if took.peak_gb > MOST_GB:
            found.append(f"needed more than {MOST_GB:.0f} GB")
        problems += [f"{name}: {what}" for what in found]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def run(folder: Path, name: str, output: Path, all_variants: bool) -> Measured:
    """One `litevl run` in a process of its own. Measured by its parent, the system."""
    command = [sys.executable, "-m", "litevl", "run", str(ROOT / "reproductions" / f"{name}.toml")]
    command += ["--profile", "paper", "--subset", str(SUBSET), "--max-steps", str(MAX_STEPS)]
    command += [] if all_variants else ["--variant", "full", "--seed", "0"]
    command += ["--output", str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    output.mkdir(parents=True)
    with (output / "log.txt").open("wb") as log:
        child = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return Measured(
        child.returncode,
        time.perf_counter() - started,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9,
    )


def record_problems(name: str, output: Path) -> list[str]:
    """What is missing from the records of a reproduction whose runs have all ended well."""
    paths = [path for path in (output / "records").rglob("*.json") if "plan" not in path.name]
    found = [] if paths else ["no record"]
    for path in paths:
        record = read_record(path)
        read_arrays(path)
        found += [f"{path.stem}: {what}" for what in incomplete(name, record)]
        if read_strips(path) is None:
            found.append(f"{path.stem}: no film strips")
    return found


def incomplete(name: str, record: Record) -> list[str]:
    """What a record of a subset under the paper profile should say and does not."""
    settings = resolve(load_spec(ROOT / "reproductions" / f"{name}.toml"), "paper", "full")
    expected = settings.data.expected.model_dump()
    counts = record.data.splits if record.data is not None else {}
    limits = record.run.limits
    truths = {
        "status is not complete": record.status == "complete",
        "profile is not paper": record.run.profile == "paper",
        "says it is comparable": not record.run.comparable,
        "limits are not told": (limits.subset, limits.max_steps) == (SUBSET, MAX_STEPS),
        "expected counts are not the spec's": all(
            counts[split].expected == expected[f"{split}_clips"] for split in counts
        ),
        "found other than the subset": all(
            part.found == min(SUBSET, part.expected) for part in counts.values()
        ),
        "no test metrics": bool(record.metrics.test),
        "no curve of training": bool(record.curves.train),
    }
    return [what for what, is_so in truths.items() if not is_so]


if __name__ == "__main__":
    sys.exit(main())
