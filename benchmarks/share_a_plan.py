"""Several commands started at once on one output folder: every run executed once.

    python -m benchmarks.share_a_plan

draws nothing beforehand, so that the processes meet in drawing and decoding too; runs a tiny plan
of six runs with two processes, with three, and with two of which one is killed in a run; and
compares every record with that of a single process. Exit 1 where anything differs.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from litevl.record import Record, read_record

ROOT = Path(__file__).parents[1]
SCRIPT = "from small import *; import sys; from pathlib import Path; folder = Path(sys.argv[1]); "
SCRIPT += "settings = small_settings(folder / 'world', write_weights(folder)); "
SCRIPT += "write_spec(folder / 'spec.toml', settings)"
OPTIONS = ["--variant", "full", "--variant", "mean-pooling", "--seed", "0", "--seed", "1"]
OPTIONS += ["--seed", "2"]
NUM_RUNS = 6
BEGUN = re.compile(r"^ *run \d+ of \d+: (\S+)$", re.MULTILINE)


def main() -> int:
    """Measure and print; 1 where a run was done twice or not at all, or came out otherwise."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()  # for --help
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    is_right = True
    with TemporaryDirectory() as name:
        alone = shared(Path(name) / "alone", environment, 1, is_killed=False)
        is_right &= tell("1 process", *alone, alone[1])
        for num_processes, is_killed in ((2, False), (3, False), (2, True)):
            title = f"{num_processes} processes" + (", one killed in a run" if is_killed else "")
            folder = Path(name) / f"{num_processes}-{is_killed}"
            found = shared(folder, environment, num_processes, is_killed)
            is_right &= tell(title, *found, alone[1], is_killed)
    return 0 if is_right else 1


def shared(
    folder: Path, environment: dict[str, str], num_processes: int, is_killed: bool
) -> tuple[list[str], dict[str, Record]]:
    """What each process printed, and the records by variant and seed."""
    folder.mkdir()
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], env=environment, check=True)
    command = [sys.executable, "-m", "litevl", "run", str(folder / "spec.toml"), *OPTIONS]
    command += ["--output", str(folder / "out")]
    processes, logs = [], [folder / f"log-{number}" for number in range(num_processes)]
    for log in logs:
        with log.open("w") as file:
            processes.append(
                subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
            )
    if is_killed:
        victim = trained_by(folder / "out", processes)
        os.kill(victim, signal.SIGKILL)
        print(f"  killed process {victim}")
    for process in processes:
        process.wait()
    records = [
        read_record(path)
        for path in (folder / "out" / "records" / "msrvtt").glob("*.json")
        if not path.name.endswith(".plan.json")
    ]
    for pattern in ("out/runs/*.lock", ".*", "*.partial"):
        assert not [*folder.glob(pattern)], f"{pattern} left behind"
    by_run = {f"{record.run.variant} {record.run.seed}": record for record in records}
    # Bars end their lines with a carriage return.
    return [log.read_text().replace("\r", "\n") for log in logs], by_run


def trained_by(output: Path, processes: list[subprocess.Popen[bytes]]) -> int:
    """A process that is training: its run has a checkpoint and no record yet."""
    ours = {process.pid for process in processes}
    while True:
        for folder in (output / "runs").glob("*/last.pt"):
            lock = folder.parent.with_name(f"{folder.parent.name}.lock")
            if lock.exists() and (words := lock.read_text().split()) and int(words[-1]) in ours:
                return int(words[-1])
        assert any(process.poll() is None for process in processes), "all ended before a kill"
        time.sleep(0.01)


def tell(
    title: str,
    logs: list[str],
    records: dict[str, Record],
    expected: dict[str, Record],
    is_killed: bool = False,
) -> bool:
    """Print what came out; whether it is right."""
    begun = [BEGUN.findall(log) for log in logs]
    times = Counter(run for runs in begun for run in runs)
    twice = sum(count > 1 for count in times.values())
    is_once = len(times) == NUM_RUNS and max(times.values()) <= 1 + is_killed
    is_once = is_once and twice == int(is_killed)
    is_whole = len(records) == NUM_RUNS and {r.status for r in records.values()} == {"complete"}
    are_same = records.keys() == expected.keys() and all(
        record.metrics == expected[key].metrics and record.curves == expected[key].curves
        for key, record in records.items()
    )
    print(
        f"{title}: runs begun by each {[len(runs) for runs in begun]}, {twice} begun twice, "
        f"{len(records)} records, {'same' if are_same else 'OTHER'} metrics and curves as one "
        f"process"
    )
    for log in logs:
        last = log.strip().splitlines()[-1] if log.strip() else ""
        print(f"    {last.rpartition('): ')[2][:90]}")
        for line in log.splitlines():
            if "waiting for" in line or "taken over" in line:
                print(f"    {line.strip()[:110]}")
    return is_once and is_whole and are_same


if __name__ == "__main__":
    sys.exit(main())
