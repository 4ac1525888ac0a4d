"""Batches made ready by a thread while the model works on those before."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")
NUM_AHEAD = 2  # batches in memory besides the one in use


@dataclass(frozen=True)
class _End:
    """There are no more batches, perhaps because of an error."""

    error: BaseException | None


class Ahead(Iterator[T], Generic[T]):
    """The batches of an iterator, in its order, with what it raises; at most NUM_AHEAD are ready.

    The iterator runs in a thread of its own from the start. To be used in a `with`, which ends the
    thread and closes a generator, however the block is left: nothing goes on behind its back.
    waited_seconds: how long the last one was waited for. step_seconds: since the one before was
        there, or since the start.
    """

    def __init__(self, source: Iterator[T]) -> None:
        self.waited_seconds = self.step_seconds = 0.0
        self._ready: SimpleQueue[T | _End] = SimpleQueue()
        self._room = threading.Semaphore(NUM_AHEAD)
        self._is_closed = False
        self._thread = threading.Thread(target=self._fill, args=(source,), daemon=True)
        self._since = time.perf_counter()
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_closed = True
        self._room.release()  # it may be waiting for that
        self._thread.join()

    def __next__(self) -> T:
        asked = time.perf_counter()
        found = self._ready.get()
        now = time.perf_counter()
        self.waited_seconds, self.step_seconds = now - asked, now - self._since
        self._since = now
        if isinstance(found, _End):
            self._ready.put(found)  # for who asks again
            if found.error is not None:
                raise found.error
            raise StopIteration
        self._room.release()
        return found

    def _fill(self, source: Iterator[T]) -> None:
        error = None
        try:
            while self._room.acquire() and not self._is_closed:
                self._ready.put(next(source))
        except StopIteration:
            pass
        except BaseException as raised:  # raised again where the batch is asked for
            error = raised
        finally:
            if hasattr(source, "close"):  # a generator, which has to be closed by who runs it
                source.close()
            self._ready.put(_End(error))
