"""A run on two processes, as accelerate and torchrun start them, seen from outside."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small import small_settings, the_record, write_spec, write_weights

from litevl.cli import main

ROOT = Path(__file__).parents[1]
# Its launcher for GPUs works without any; its own for CPUs needs MPI.
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "-m"]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
ALONE = []
RUN = ["run", "spec.toml", "--profile", "mini", "--variant", "full"]
STEPS = 40_000


def start(folder: Path, launcher: list[str], output: str, *more: str) -> subprocess.Popen:
    """`litevl run` of one variant in a folder with a spec, started by a launcher."""
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "litevl", *RUN, *more, "--output", output],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen) -> str:
    """What a process that ends well has printed."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return out


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory) -> Path:
    """A spec of weights without dropout, and what its run on one process leaves, in `alone`."""
    folder = tmp_path_factory.mktemp("launch")
    weights = write_weights(folder / "weights", dropout=0.0)
    write_spec(folder / "spec.toml", small_settings(small / "world", weights))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as `start`
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert main([*RUN, "--output", "alone"]) == 0
    finally:
        torch.set_num_threads(threads)
    return folder


@pytest.fixture
def endless(small, tmp_path) -> Path:
    """A spec whose training takes minutes, with checkpoints once an hour."""
    spec = small_settings(small / "world", small / "model.safetensors")
    spec["profile"]["mini"]["train"] |= {"epochs": STEPS // 4, "checkpoint_minutes": 60.0}
    write_spec(tmp_path / "spec.toml", spec)
    return tmp_path


def test_launched_run_is_the_run_of_one_process(folder):
    """By accelerate, which goes by torchrun's own code; tests below start torchrun itself."""
    printed = finished(start(folder, ACCELERATE, "launched"))
    assert printed.count("run 1 of 1") == 1, "every process printed"
    record, expected = the_record(folder / "launched"), the_record(folder / "alone")
    assert record.run.id == expected.run.id
    assert record.hardware.processes == 2
    assert record.metrics == expected.metrics
    seconds = record.timings_seconds.train + record.timings_seconds.evaluate
    assert record.cost.device_hours == pytest.approx(2 * seconds / 3600)
    files = ({p.name for p in (folder / o).rglob("*.*")} for o in ("launched", "alone"))
    assert next(files) == next(files)


def workers(process: subprocess.Popen) -> list[int]:
    """The processes that a launcher has started."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    return [int(line) for line in listed.stdout.split()]


def wait_for_training(process: subprocess.Popen, *variants: str) -> None:
    """Return when steps of all variants are done: the bars show them."""
    waiting, seen = {f"{variant}, seed 0:" for variant in variants}, ""
    while waiting:
        assert process.poll() is None, seen
        seen += os.read(process.stderr.fileno(), 4096).decode()
        waiting = {
            bar for bar in waiting if not re.search(rf"{bar}[^\r]*\b[1-9]\d*/{STEPS}\b", seen)
        }


def test_others_end_within_a_minute_when_a_process_dies(endless):
    process = start(endless, TORCHRUN, "out")
    wait_for_training(process, "full")
    both = workers(process)
    assert len(both) == 2
    os.kill(both[1], signal.SIGKILL)
    killed = time.monotonic()
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert time.monotonic() - killed < 60
    assert not list((endless / "out" / "records").rglob("*-full-*.json")), "it is no failed run"


def test_sigterm_makes_all_processes_end_with_a_checkpoint(endless):
    process = start(endless, TORCHRUN, "out")
    wait_for_training(process, "full")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Asked to end (SIGTERM)" in err
    assert list((endless / "out" / "runs").rglob("last.pt"))
    assert not list((endless / "out" / "records").rglob("*-full-*.json")), "it is no failed run"


def test_sigterm_makes_runs_side_by_side_end_with_checkpoints(endless):
    process = start(endless, ALONE, "out", "--variant", "mean-pooling", "--jobs", "2")
    wait_for_training(process, "full", "mean-pooling")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 75
    assert len(list((endless / "out" / "runs").rglob("last.pt"))) == 2
    assert not list((endless / "out" / "records").rglob("*-s0-*.json")), "it is no failed run"


def test_sigterm_of_one_process_asks_to_be_started_again(endless):
    process = start(endless, ALONE, "out")
    wait_for_training(process, "full")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "the same command continues" in err
    assert list((endless / "out" / "runs").rglob("last.pt"))
