"""Locks between real processes: one holder at a time, and none outlives its process."""

import errno
import logging
import multiprocessing
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from litevl import locks
from litevl.errors import RunError
from litevl.locks import alone, held, holder

SPAWN = multiprocessing.get_context("spawn")


def hold(path: Path, ready) -> None:
    """Take a lock, say so, and keep it until killed."""
    with held(path) as is_ours:
        assert is_ours
        ready.set()
        time.sleep(60)


@pytest.fixture
def other(tmp_path):
    """Another process that holds `tmp_path/deep/run.lock`."""
    ready = SPAWN.Event()
    process = SPAWN.Process(target=hold, args=(tmp_path / "deep" / "run.lock", ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_lock_is_held_by_one_process_and_free_as_soon_as_that_is_killed(tmp_path, other):
    path = tmp_path / "deep" / "run.lock"
    with held(path) as is_ours:
        assert not is_ours
    assert holder(path) == f"{socket.gethostname()}, process {other.pid}"
    other.kill()
    other.join()
    assert path.exists()
    with held(path) as is_ours:
        assert is_ours
        assert holder(path) == f"{socket.gethostname()}, process {os.getpid()}"
    assert not path.exists()


def test_who_waits_for_a_lock_says_for_whom_and_gets_it(tmp_path, other, caplog):
    caplog.set_level(logging.INFO, "litevl")
    path = tmp_path / "deep" / "run.lock"
    threading.Timer(0.3, other.kill).start()
    with alone(path, "the world"):
        assert not other.is_alive()
    assert caplog.messages == [
        f"the world: waiting for {socket.gethostname()}, process {other.pid}"
    ]


def test_error_inside_gives_the_lock_back(tmp_path):
    path = tmp_path / "run.lock"
    with pytest.raises(KeyboardInterrupt), held(path):
        raise KeyboardInterrupt
    with held(path) as is_ours:
        assert is_ours


def count_up(path: Path, counter: Path, times: int) -> None:
    """Add one to a number in a file, often; two at once would lose some."""
    for _ in range(times):
        with alone(path, "counter"):
            number = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(number + 1))


def test_removing_the_file_lets_no_two_processes_in(tmp_path, monkeypatch):
    """The file goes with each release: those who have it open must not take it for the lock."""
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.0)
    path, counter = tmp_path / "run.lock", tmp_path / "counter"
    counter.write_text("0")
    threads = [threading.Thread(target=count_up, args=(path, counter, 100)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text() == "400"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_file_system_without_locks_is_an_error_not_a_lock_that_is_none(
    tmp_path, monkeypatch, number
):
    import fcntl

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunError, match=r"run\.lock: this file system cannot lock files"):
        held(tmp_path / "run.lock").__enter__()


def test_lock_file_that_another_machine_removed_just_now_is_not_ours(tmp_path, monkeypatch):
    import fcntl

    def stale(*_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(fcntl, "flock", stale)
    with held(tmp_path / "run.lock") as is_ours:
        assert not is_ours
