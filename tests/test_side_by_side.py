"""Runs in processes of their own: the same records, failures counted, nothing left behind."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from litevl import run as engine
from litevl import side_by_side
from litevl.cli import main
from litevl.errors import RunError
from litevl.plan import plan
from litevl.record import read_record
from litevl.sharing import Left, Options, left_of
from litevl.side_by_side import CONTEXT, execute_side_by_side, num_side_by_side
from litevl.spec import load_spec

TWO = ["--variant", "full", "--variant", "mean-pooling"]
OPTIONS = Options(None, False, False, "asked for")
SPEC = Path(__file__).parents[1] / "reproductions" / "msrvtt.toml"


@pytest.fixture
def two_cores(monkeypatch):
    """A machine of two cores: one thread for each of two runs, whatever this one has."""
    monkeypatch.setattr(side_by_side, "hardware", lambda _: {"cores": 2})


def two_left(output) -> Left:
    """Two runs to do."""
    return left_of(plan(load_spec(SPEC), "mini", ["full"], [0, 1], None, None), output, False)


def records(output):
    """Variant -> record."""
    paths = (output / "records" / "msrvtt").glob("*.json")
    found = [read_record(path) for path in paths if not path.name.endswith(".plan.json")]
    return {record.run.variant: record for record in found}


@pytest.mark.usefixtures("two_cores")
def test_runs_side_by_side_leave_the_records_of_runs_one_by_one(small, tmp_path, capfd):
    spec, together, apart = small / "spec.toml", tmp_path / "together", tmp_path / "apart"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(["run", str(spec), *TWO, "--output", str(apart), "--no-report"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert main(["run", str(spec), *TWO, "--output", str(together), "--jobs", "2"]) == 0
    assert "run 2 of 2: msrvtt-mini-mean-pooling" in capfd.readouterr().out
    one, other = records(apart), records(together)
    assert one.keys() == other.keys() == {"full", "mean-pooling"}
    for variant, record in other.items():
        assert record.status == "complete"
        assert record.hardware.threads == 1
        assert record.metrics == one[variant].metrics
        assert record.curves == one[variant].curves
    assert (together / "msrvtt-mini" / "index.html").is_file()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("num_runs", "at_once", "expected"),
    [(5, 2, [(4, 2)]), (4, 2, [(4, 2)]), (5, 3, [(3, 3), (5, 2)]), (2, 5, [(2, 2)]), (3, 1, [])],
)
def test_runs_that_fill_no_whole_round_share_the_cores_among_them(
    small, tmp_path, monkeypatch, num_runs, at_once, expected
):
    """The last of five runs on two cores has both: one would be idle."""
    rounds, ends = [], []
    monkeypatch.setattr(
        engine,
        "execute_side_by_side",
        lambda left, _options, at_once, _doers: rounds.append((len(left.runs), at_once)),
    )
    monkeypatch.setattr(engine, "execute_left", lambda left, *_: ends.append(len(left.runs)))
    monkeypatch.setattr(engine, "prepare", lambda *_: None)
    seeds = [part for seed in range(num_runs) for part in ("--seed", str(seed))]
    chosen = ["--variant", "full", *seeds, "--jobs", str(at_once), "--no-report"]
    assert main(["run", str(small / "spec.toml"), *chosen, "--output", str(tmp_path)]) == 0
    assert (rounds, ends) == (expected, [num_runs])


@pytest.mark.parametrize(
    ("asked", "num_runs", "expected"), [(None, 5, 2), (None, 1, 1), (4, 5, 4), (4, 0, 1)]
)
@pytest.mark.usefixtures("two_cores")
def test_as_many_runs_at_once_as_asked_for_or_as_there_are_cores(
    monkeypatch, asked, num_runs, expected
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert num_side_by_side(asked, num_runs) == expected


def test_runs_that_share_a_gpu_go_one_by_one_unless_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert num_side_by_side(None, 5) == 1
    assert num_side_by_side(3, 5) == 3


take_part = side_by_side._take_part  # the real one, where a test puts another in its place

# Processes that end in other ways; a child finds these functions by their names.


def abort(_left, _options, _threads, _bars, line, doers):
    """The second process comes down in the second run, the first would go on for long."""
    doers[line] = os.getpid()
    if line == 0:
        time.sleep(60)
    os.abort()


def test_process_that_comes_down_is_named_by_its_run_and_the_others_are_ended(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(side_by_side, "_take_part", abort)
    left = two_left(tmp_path)
    with pytest.raises(RunError, match=rf"{left.runs[1].id}: its process came down \(SIGABRT\)"):
        execute_side_by_side(left, OPTIONS, 2, CONTEXT.RawArray("q", 2))
    assert multiprocessing.active_children() == []


def disk_full(_left, _options, _threads, _bars, line, doers):
    """Life of a process whose record cannot be written."""

    def execute_left(*_, **__):
        doers[line] = os.getpid()
        raise RunError("out: no space left")

    engine.execute_left = execute_left
    take_part(None, OPTIONS, 1, CONTEXT.RLock(), 0, doers)


def test_error_that_is_no_runs_is_told_as_it_is(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(side_by_side, "_take_part", disk_full)
    left = two_left(tmp_path)
    with pytest.raises(RunError, match="its process ended, with what stands above") as raised:
        execute_side_by_side(left, OPTIONS, 2, CONTEXT.RawArray("q", 2))
    assert "memory" not in str(raised.value)
    said = capfd.readouterr().err
    assert "RunError: out: no space left" in said
    assert "Traceback" not in said


def command(writer):
    """A command with a process that would go on for long."""
    child = CONTEXT.Process(target=go_on, args=(writer,))
    child.start()
    child.join()


def go_on(writer):
    """Life of a process of a plan, with runs that take long."""

    def execute_left(*_, **__):
        writer.send("started")
        time.sleep(60)

    engine.execute_left = execute_left
    side_by_side._take_part(None, OPTIONS, 1, CONTEXT.RLock(), 0, [])


def test_killed_command_leaves_no_process_running():
    reader, writer = CONTEXT.Pipe(duplex=False)
    parent = CONTEXT.Process(target=command, args=(writer,))
    parent.start()
    writer.close()
    assert reader.recv() == "started"
    parent.kill()
    parent.join()
    assert reader.poll(30)
    with pytest.raises(EOFError):  # nobody is left who could write
        reader.recv()
