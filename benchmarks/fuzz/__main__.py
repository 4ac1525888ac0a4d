"""Fuzzing: damaged specs, records, checkpoints and annotation files through what reads them.

    python -m benchmarks.fuzz [specs|records|checkpoints|annotations ...] --count N --seed S

Every input must be read, or refused with one of our own errors: no other exception, no traceback on
the terminal, no hang, no memory without end, no code of the input run, nothing written outside the
folder it lies in, no letter printed that steers a terminal. Returns 1 where anything else happened;
each finding is printed with the number that makes the same input again (`--only`).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.fuzz.guard import listing
from benchmarks.fuzz.workers import Kind, Outcome, fresh, outcomes, rng_of

COUNTS = {"specs": 10_000, "records": 2000, "checkpoints": 2000, "annotations": 2000}
REPOSITORY = Path(__file__).parents[2]


def kind_of(name: str) -> Kind:
    """What is done for one kind of input; the others, and what they need, are not loaded."""
    if name == "specs":
        from benchmarks.fuzz.specs import SPECS as KIND
    elif name == "records":
        from benchmarks.fuzz.records import RECORDS as KIND
    elif name == "checkpoints":
        from benchmarks.fuzz.checkpoints import CHECKPOINTS as KIND
    else:
        from benchmarks.fuzz.annotations import ANNOTATIONS as KIND
    return KIND


def write_seeds(folder: Path, kind: str) -> None:
    """Write whole inputs of a kind, for the damaged ones to start from."""
    script = REPOSITORY / "tests" / "fuzz_seeds.py"
    subprocess.run([sys.executable, str(script), str(folder), kind], check=True)


def fuzz(
    kind: Kind,
    seeds: Path,
    work: Path,
    seed: int,
    numbers: Iterable[int],
    jobs: int = 1,
    timeout_seconds: float = 60.0,
) -> list[Outcome]:
    """What became of every input, those with findings printed at once.

    work: a folder that is there. What lies beside the workers' folders in it may not change.
    """
    beside = work / "beside"
    shutil.copytree(seeds / kind.name, beside, dirs_exist_ok=True)
    before, done = listing(beside), list[Outcome]()
    for outcome in outcomes(kind, seeds, work, seed, numbers, jobs, timeout_seconds):
        done.append(outcome)
        if outcome.found:
            print(f"{kind.name} {outcome.number} ({outcome.damage}): {outcome.found}", flush=True)
    if listing(beside) != before:
        print(f"{kind.name}: files beside the folder of the inputs changed", flush=True)
        done.append(Outcome(-1, "", False, "files beside the folder of the inputs changed", 0.0))
    return done


def summary(kind: str, seed: int, done: Sequence[Outcome], seconds: float) -> str:
    """One line."""
    refused = sum(outcome.was_refused for outcome in done)
    findings = Counter(bool(outcome.found) for outcome in done)[True]
    longest = max((outcome.seconds for outcome in done), default=0.0)
    grown = max((outcome.grown_bytes for outcome in done), default=0)
    return (
        f"{kind}, seed {seed}: {len(done)} inputs, {refused} refused, "
        f"{len(done) - refused - findings} read, {findings} findings; {seconds:.0f} s, the longest "
        f"{longest:.1f} s, memory grew by at most {grown >> 20} MiB"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz the kinds named, or all; 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", allow_abbrev=False)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(COUNTS)}")
    parser.add_argument("--count", type=int, help="inputs of each kind (default: the full counts)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=Path, metavar="FOLDER", help="whole inputs to damage")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("--only", type=int, action="append", metavar="NUMBER")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="leave the inputs of --only there"
    )
    chosen = parser.parse_args(argv)
    unknown = set(chosen.kinds) - COUNTS.keys()
    if unknown:
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    has_findings = False
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.kinds or COUNTS:
            seeds = chosen.seeds or Path(folder, "seeds")
            if chosen.seeds is None:
                write_seeds(seeds, name)
            numbers = chosen.only or range(chosen.count or COUNTS[name])
            for number in chosen.only or () if chosen.keep else ():
                place = chosen.keep.absolute() / f"{name}-{number}"
                fresh(place)
                kind_of(name).damage(seeds, place, rng_of(name, chosen.seed, number))
            work, started = Path(folder, f"work-{name}"), time.monotonic()
            work.mkdir()
            kind = kind_of(name)
            done = fuzz(kind, seeds, work, chosen.seed, numbers, chosen.jobs, chosen.timeout)
            print(summary(name, chosen.seed, done, time.monotonic() - started), flush=True)
            has_findings |= any(outcome.found for outcome in done)
    return int(has_findings)


if __name__ == "__main__":
    sys.exit(main())
