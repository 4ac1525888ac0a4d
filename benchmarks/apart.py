"""Studies measured in processes of their own, as many at a time as there are cores.

One thread each: numbers then do not depend on how many cores there are, and two studies side by
side take less time than one after the other with two threads. A process of its own also because
some kernels can be chosen only before torch is loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import ROOT, Arithmetic, Measured
from litevl.record import hardware

AS_IT_IS = Arithmetic(name="as it is")
NUM_LINES = 12  # of a failed process's last words


@dataclass(frozen=True)
class Job:
    """One study to be measured."""

    study: str
    seed: int
    arithmetic: Arithmetic = AS_IT_IS
    fault: str | None = None


def side_by_side(jobs: Sequence[Job]) -> Iterator[Measured]:
    """What came out of each job, in their order, each as soon as it and those before are done."""
    with ThreadPoolExecutor(hardware("cpu")["cores"]) as pool:
        yield from pool.map(measured_apart, jobs)


def measured_apart(job: Job) -> Measured:
    """What came out of one job; no values where it failed, its last words then go to stderr."""
    with TemporaryDirectory(prefix="litevl-regression-") as folder:
        path = Path(folder) / "measured.json"
        command = [sys.executable, "-m", "benchmarks.measure", job.study, "--to", str(path)]
        command += ["--seed", str(job.seed), "--threads", str(job.arithmetic.threads)]
        if job.arithmetic.noise_seed is not None:
            command += ["--noise-seed", str(job.arithmetic.noise_seed)]
        if job.fault is not None:
            command += ["--fault", job.fault]
        # Passive: a thread that spins while it waits for another takes the core that one needs.
        settings = {"OMP_NUM_THREADS": str(job.arithmetic.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        settings |= job.arithmetic.environment
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True
        )
        if done.returncode == 0:
            return Measured(**json.loads(path.read_text(encoding="utf-8")))
    lines = done.stderr.replace("\r", "\n").strip().splitlines()[-NUM_LINES:]
    print("\n".join([f"{job.study} failed:", *lines]), file=sys.stderr, flush=True)
    return Measured({}, {}, {})
