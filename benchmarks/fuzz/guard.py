"""What a process may do while it reads a damaged input, and what it did all the same.

Hooks of `sys.addaudithook` see every file opened for writing, every process started, connection
made and class looked up by a pickle, also in C. They cannot be taken away again, so `watch` is for
a process of its own.
"""

import gc
import os
import re
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ADDRESS_SPACE_BYTES = 8 << 30  # on top of what is mapped at the start
LARGEST_GROWTH_BYTES = 3 << 29  # of resident memory while one input is read; one more is a bomb
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Event -> which arguments name what is changed.
CHANGES = {
    "os.remove": (0,), "os.rename": (0, 1), "os.mkdir": (0,), "os.rmdir": (0,), "os.link": (1,),
    "os.symlink": (1,), "os.truncate": (0,), "os.chmod": (0,), "os.chown": (0,), "os.utime": (0,),
    "shutil.rmtree": (0,), "shutil.move": (0, 1),
}  # fmt: skip
NEVER = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn",
    "socket.connect", "socket.bind", "socket.getaddrinfo", "pickle.find_class", "os.kill",
)  # fmt: skip
ALWAYS_FINE = re.compile(r"/dev/(null|tty)|/proc/self/.*")


class Watch:
    """What happened while it was on.   inside: the only folder that may be written to."""

    def __init__(self) -> None:
        self.inside: str | None = None
        self.seen: list[str] = []
        self._busy = threading.local()
        sys.addaudithook(self._hook)

    @contextmanager
    def on(self, inside: Path) -> Iterator[None]:
        """Watch, and note what is written outside a folder."""
        self.seen.clear()
        self.inside = os.path.realpath(inside)
        try:
            yield
        finally:
            self.inside = None

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.inside is None or getattr(self._busy, "now", False):
            return
        self._busy.now = True  # realpath below opens nothing, but other hooks might
        try:
            if event == "open":
                path, mode, flags = arguments
                writes = bool(flags & WRITES) if isinstance(flags, int) else mode[:1] != "r"
                if writes and isinstance(path, str | bytes | os.PathLike):
                    self._expect_inside("writes", path)
            elif event in CHANGES:
                for place in CHANGES[event]:
                    # Relative to an open folder (shutil.rmtree): its own event names the folder.
                    if isinstance(arguments[place], str | bytes | os.PathLike):
                        is_bare = os.path.dirname(os.fsdecode(arguments[place])) == ""
                        if not (is_bare and -1 not in arguments[1:]):
                            self._expect_inside(event, arguments[place])
            elif event in NEVER:
                self.seen.append(f"{event} {arguments!r}"[:300])
                raise PermissionError(f"{event} while a damaged input is read")
        finally:
            self._busy.now = False

    def _expect_inside(self, what: str, path: Any) -> None:
        place = os.path.realpath(os.fsdecode(path))
        assert self.inside is not None
        if place == self.inside or place.startswith(self.inside + os.sep):
            return
        if ALWAYS_FINE.fullmatch(place):
            return
        self.seen.append(f"{what} {place}"[:300])
        raise PermissionError(f"{what} {place} while a damaged input is read")


def limit_memory() -> None:
    """Refuse this process more than ADDRESS_SPACE_BYTES on top of what it has."""
    most = memory_bytes("VmSize") + ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def memory_bytes(name: str) -> int:
    """One line of what Linux says of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


class Peak:
    """How far resident memory grows above where it stood."""

    def __init__(self) -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts again
        self.before = memory_bytes("VmRSS")

    def growth_bytes(self) -> int:
        """So far."""
        return memory_bytes("VmHWM") - self.before


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below one, with its size and time of change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        found[str(path.relative_to(folder))] = (state.st_size, state.st_mtime_ns)
    return found
