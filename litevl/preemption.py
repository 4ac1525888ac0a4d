"""SIGTERM, as schedulers send it before they take a machine away: stop soon, and well.

Outside training it ends the command at once. A training step is finished first and a checkpoint
written. Either way the exit code asks for the same command to be run again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: a failure that another try may mend


class Preempted(BaseException):
    """The process was asked to end. Like KeyboardInterrupt, no failure of what it was doing."""


class _Wanted:
    """Whether SIGTERM has come, and whether it has to wait."""

    has_come = False
    is_held_back = False


@contextmanager
def preemptible() -> Iterator[None]:
    """Raise Preempted on SIGTERM, which would end the process at once; main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        _Wanted.has_come = True
        if not _Wanted.is_held_back:
            raise Preempted

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _Wanted.has_come = False


@contextmanager
def held_back() -> Iterator[None]:
    """Inside, SIGTERM only makes `is_wanted` true; who holds it back has to look.

    One that came too late to be seen raises Preempted at the end.
    """
    before, _Wanted.is_held_back = _Wanted.is_held_back, True
    try:
        yield
    finally:
        _Wanted.is_held_back = before
    if _Wanted.has_come and not before:
        raise Preempted


def is_wanted() -> bool:
    """Whether SIGTERM has come."""
    return _Wanted.has_come
