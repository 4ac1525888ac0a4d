"""Files and folders that appear under their name whole, flushed to the disk, or not at all.

Until then they stand beside it as `.NAME.HOST.PROCESS.tmp`. What a killed process left so is
cleared away by the next one that writes the same name.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from litevl.errors import RunError

OLD_SECONDS = 24 * 3600.0  # on another machine, nobody can tell a killed process from a slow one


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, making its folder. RunError if it cannot be written."""
    try:
        with whole_file(path) as file:
            file.write(content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"{path}: no space left on the disk.\n"
                "  Finished runs are intact. Free some space, or choose another folder with "
                "--output, then repeat the command: it goes on where it stopped."
            ) from error
        raise RunError(
            f"{path}: cannot be written ({error.strerror}).\n"
            "  Choose a folder you may write to with --output."
        ) from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes its place when the block is done; its folder is made.

    Raises OSError. Whatever fails, an older file of that name stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # it has its name, or was never there
            temporary.unlink()


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of an older one when the block is done.

    For one process at a time: see `litevl.locks.alone`.
    Raises OSError. Whatever fails, what stood there is still whole, or gone: never in part.
    """
    path = path.resolve()  # it may be a link to a larger disk
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    temporary = _temporary(path)
    new, old = temporary / "new", temporary / "old"
    try:
        new.mkdir(parents=True)
        yield new
        _flush_all(new)
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, old)  # not deleted in place: that could be broken off half-way
        os.rename(new, path)
        flush_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Make what was renamed in a folder survive a power cut."""
    if os.name == "posix":  # elsewhere a folder cannot be flushed
        _flush(folder)


def _flush_all(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            _flush(Path(place, name))
        flush_folder(Path(place))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")


def _clear_leftovers(path: Path) -> None:
    """Remove what killed processes left of earlier tries to write this name."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        host, _, process = left.name[len(path.name) + 2 : -len(".tmp")].rpartition(".")
        with contextlib.suppress(FileNotFoundError):  # its writer, or somebody else, was faster
            if (host == platform.node() and _is_gone(process)) or _is_old(left):
                # A child of the killed process may still be writing there.
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()


def _is_gone(process: str) -> bool:
    """Whether a process of this machine has ended."""
    if os.name != "posix" or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is somebody else's
        return False
    return False


def _is_old(left: Path) -> bool:
    """Whether nothing was written to it for a day."""
    inside = left.rglob("*") if left.is_dir() else ()
    newest: float = max(each.stat().st_mtime for each in (left, *inside))
    return time.time() - newest > OLD_SECONDS
