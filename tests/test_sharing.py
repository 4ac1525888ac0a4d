"""Several real processes at one plan: each run done once, and none left over."""

import multiprocessing
import os
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from records import make_arrays, make_record

from litevl.locks import held
from litevl.plan import PlannedRun, plan
from litevl.record import write_record
from litevl.sharing import Left, is_held, left_of, tidy, turns
from litevl.spec import load_spec

SPEC = Path(__file__).parents[1] / "reproductions" / "msrvtt.toml"
SPAWN = multiprocessing.get_context("spawn")


def runs_of(seeds) -> tuple[PlannedRun, ...]:
    """Two runs for each seed."""
    return plan(load_spec(SPEC), "mini", ["full", "mean-pooling"], seeds, None, None)


def record(left: Left, number: int, **changes) -> None:
    """Leave the record of a run."""
    run, arrays = left.runs[number], make_arrays("full", 0)
    content = make_record("full", 0, arrays) | changes
    content["run"]["id"] = run.id
    write_record(left.output / "records" / run.resolved.name, content, arrays)


def note(left: Left, what: str) -> None:
    with (left.output / "log").open("a") as log:  # short lines are appended whole
        log.write(f"{what} {os.getpid()}\n")


def noted(left: Left) -> list[list[str]]:
    return [line.split() for line in (left.output / "log").read_text().splitlines()]


def take_part(left: Left, barrier) -> None:
    """A process that shares the runs, each of which takes a while."""

    barrier.wait()
    for number in turns(left):
        note(left, left.runs[number].id)
        time.sleep(0.1)
        record(left, number)


def get_stuck(left: Left, started) -> None:
    """A process that begins the first run and never ends it."""

    for _ in turns(left):
        started.set()
        time.sleep(60)


def test_three_processes_do_each_of_six_runs_once_and_all_wait_for_the_last(tmp_path):
    left = left_of(runs_of([0, 1, 2]), tmp_path, rerun=False)
    barrier = SPAWN.Barrier(3)
    processes = [SPAWN.Process(target=take_part, args=(left, barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    processes[0].join()
    assert [left.outcome(number) for number in range(6)] == ["done"] * 6
    for process in processes:
        process.join()
        assert process.exitcode == 0
    ids, workers = zip(*noted(left), strict=True)
    assert sorted(ids) == sorted(run.id for run in left.runs)
    assert len(set(workers)) == 3
    assert list((tmp_path / "runs").iterdir()) == []


def test_run_of_a_process_that_is_killed_is_taken_over_by_one_that_waits(tmp_path, capsys):
    left = left_of(runs_of([0]), tmp_path, rerun=False)
    started = SPAWN.Event()
    other = SPAWN.Process(target=get_stuck, args=(left, started))
    other.start()
    assert started.wait(60)
    done = []
    threading.Timer(1.0, other.kill).start()
    for number in turns(left):
        done.append((number, other.is_alive()))
        record(left, number)
    other.join()
    assert done == [(1, True), (0, False)]
    waiting, taken = capsys.readouterr().out.splitlines()
    assert waiting.startswith(f"  {left.runs[0].id}: waiting for ")
    assert waiting.endswith(f"process {other.pid}")
    assert taken.startswith(f"  {left.runs[0].id}: ")
    assert taken.endswith(f"process {other.pid} left no record; taken over")


def test_without_waiting_what_others_hold_is_left_to_them(tmp_path):
    left = left_of(runs_of([0]), tmp_path, rerun=False)
    with held(tmp_path / "runs" / f"{left.runs[0].id}.lock"):
        assert is_held(left.runs[0], tmp_path)
        assert list(turns(left, wait=False)) == [1]
    assert not is_held(left.runs[0], tmp_path)


def test_failure_of_another_process_counts_and_one_of_before_is_tried_again(tmp_path):
    runs = runs_of([0])
    failed = {"status": "failed", "error": "out of luck"}
    record(left_of(runs, tmp_path, rerun=False), 0, **failed)
    left, done = left_of(runs, tmp_path, rerun=False), []
    assert left.outcome(0) == "missing"
    for number in turns(left):
        done.append(number)
        record(left, 0, **failed)
        record(left, 1, **failed)  # as another process would meanwhile
    assert done == [0]
    assert [left.outcome(0), left.outcome(1)] == ["failed", "failed"]


@pytest.mark.parametrize("rerun", [False, True])
def test_done_runs_are_left_out_unless_they_are_to_be_run_again(tmp_path, rerun):
    runs = runs_of([0])
    record(left_of(runs, tmp_path, rerun=False), 0)
    left = left_of(runs, tmp_path, rerun)
    assert left.runs == (runs if rerun else runs[1:])
    assert left.outcome(0) == "missing"
    record(left, 0)
    assert left.outcome(0) == "done"


def test_record_written_while_a_command_begins_is_not_lost(tmp_path, monkeypatch):
    """The other process finishes between the two looks; its run would be done twice."""
    from litevl import sharing

    runs, state = runs_of([0]), sharing.state
    nothing_yet = left_of(runs, tmp_path, rerun=False)

    def finished_meanwhile(run, records):
        before = state(run, records)
        record(nothing_yet, 0)
        return before

    monkeypatch.setattr(sharing, "state", finished_meanwhile)
    left = left_of(runs, tmp_path, rerun=False)
    monkeypatch.undo()
    assert left.runs[0] == runs[0]
    assert left.outcome(0) == "done"


def test_checkpoints_of_a_done_run_go_unless_it_is_being_done_again(tmp_path):
    left = left_of(runs_of([0]), tmp_path, rerun=False)
    run, other = left.runs
    for entry in (run, other):
        checkpoint = tmp_path / "runs" / entry.id / "last.pt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"")
    with held(tmp_path / "runs" / f"{run.id}.lock"):
        for entry in (run, other):
            tidy(entry, tmp_path)
    left_over = {path.parent.name for path in tmp_path.rglob("last.pt")}
    assert left_over == {run.id}


def test_error_in_a_run_gives_its_lock_back(tmp_path):
    left = left_of(runs_of([0]), tmp_path, rerun=False)
    with closing(turns(left)) as mine:
        assert next(mine) == 0
        assert is_held(left.runs[0], tmp_path)
    assert not is_held(left.runs[0], tmp_path)
