"""Runs in processes of their own: the same records, failures counted, nothing left behind."""

import multiprocessing
import os
import time

import pytest
import torch

from litevl import side_by_side
from litevl.cli import main
from litevl.errors import RunError
from litevl.plan import PlannedRun
from litevl.record import read_record
from litevl.side_by_side import FAILED, FINISHED, Options, execute_side_by_side, num_side_by_side

TWO = ["--variant", "full", "--variant", "mean-pooling"]
OPTIONS = Options(None, False, "asked for", None)


@pytest.fixture
def two_cores(monkeypatch):
    """A machine of two cores: one thread for each of two runs, whatever this one has."""
    monkeypatch.setattr(side_by_side, "hardware", lambda _: {"cores": 2})


def runs(count):
    """Planned runs that no function here looks into."""
    return [PlannedRun(f"run-{number}", None, 0, None, None) for number in range(count)]


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
        assert main(["run", str(spec), *TWO, "--output", str(apart)]) == 0
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


# Processes that end in other ways; a child finds these functions by their names.


def fail(*_):
    raise SystemExit(FAILED)


def finish(*_):
    raise SystemExit(FINISHED)


def abort(run, *_):
    """The second run comes down, the first would go on for long."""
    if run.id == "run-0":
        time.sleep(60)
    os.abort()


def test_failed_runs_are_counted(monkeypatch):
    monkeypatch.setattr(side_by_side, "_execute", fail)
    assert execute_side_by_side(runs(3), OPTIONS, 2) == 3
    monkeypatch.setattr(side_by_side, "_execute", finish)
    assert execute_side_by_side(runs(2), OPTIONS, 2) == 0


def test_process_that_comes_down_is_named_and_the_others_are_ended(monkeypatch):
    monkeypatch.setattr(side_by_side, "_execute", abort)
    with pytest.raises(RunError, match=r"run-1: its process came down \(SIGABRT\)"):
        execute_side_by_side(runs(2), OPTIONS, 2)
    assert multiprocessing.active_children() == []
