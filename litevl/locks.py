"""Locks between processes, on one machine or on several that share a folder.

The system frees a lock when its process ends, however it ends. The lock file names its holder and
is removed with the lock; one that a killed process left behind is free to take.
"""

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from litevl.errors import RunError

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a lock file while the block runs; False, at once, where another process holds it.

    RunError where the folder's file system has no locks.
    """
    lock = _taken(path)
    if lock is None:
        yield False
        return
    try:
        yield True
    finally:
        # Before the release: who has this file open already finds it gone and takes a new one.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


@contextlib.contextmanager
def alone(path: Path, title: str) -> Iterator[None]:
    """Hold a lock file while the block runs, waiting for it where need be, which a line tells."""
    is_told = False
    while True:
        with held(path) as is_ours:
            if is_ours:
                yield
                return
        if not is_told:
            logger.info("%s: waiting for %s", title, holder(path))
            is_told = True
        time.sleep(POLL_SECONDS)


def alone_with(path: Path) -> AbstractContextManager[None]:
    """Keep other processes from making the same file or folder, by a hidden lock file beside it."""
    whole = path.absolute()  # "." has no name
    return alone(whole.with_name(f".{whole.name}.lock"), str(path))


def holder(path: Path) -> str:
    """Who holds a lock file, or held it last, as host and process."""
    with contextlib.suppress(OSError):  # given back just now
        return path.read_text(encoding="utf-8") or "another process"
    return "another process"


def _taken(path: Path) -> FileLock | None:
    """The lock, signed; None where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # preserve_lock_file: never a soft lock, which would outlive a killed process.
    lock = FileLock(path, preserve_lock_file=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:  # another machine removed it just now
            return None
        if error.errno in NO_LOCKS:
            raise RunError(
                f"{path}: this file system cannot lock files ({error.strerror})\n"
                "  Processes that share a plan could run it twice. Mount it with locks (Lustre: "
                "-o flock), or use a folder elsewhere."
            ) from None
        raise
    with contextlib.suppress(OSError):  # who waits is told less, that is all
        path.write_text(f"{socket.gethostname()}, process {os.getpid()}", encoding="utf-8")
    return lock
