"""Batches made ready in the background: the same ones, few at a time, and nothing left behind."""

import threading
import time

import pytest

from litevl.engine.ahead import NUM_AHEAD, Ahead


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


class Source:
    """Counts up; knows what was taken, who took it, and whether it was closed."""

    def __init__(self, count=100, error=None):
        self.taken, self.threads, self.is_closed = 0, set(), False
        self._count, self._error = count, error
        self.numbers = self._numbers()  # held, so that nothing but `close` closes it

    def _numbers(self):
        """From 0 to count - 1, then the error if there is one."""
        try:
            for number in range(self._count):
                self.taken = number + 1
                self.threads.add(threading.current_thread())
                yield number
            if self._error is not None:
                raise self._error
        finally:
            self.is_closed = True
            self.threads.add(threading.current_thread())


def test_batches_come_in_order_and_end():
    with Ahead(Source(20).numbers) as batches:
        assert list(batches) == list(range(20))
        assert list(batches) == []


def test_only_so_many_are_made_ahead():
    source = Source()
    with Ahead(source.numbers) as batches:
        for number in range(4):
            assert next(batches) == number
            time.sleep(0.05)
            assert source.taken == number + 1 + NUM_AHEAD


def test_they_are_made_in_one_other_thread_which_also_closes_the_generator():
    source = Source(5)
    with Ahead(source.numbers) as batches:
        list(batches)
    assert source.is_closed
    assert len(source.threads) == 1
    assert threading.current_thread() not in source.threads


def test_error_comes_where_its_batch_would_have_come():
    with Ahead(Source(3, ValueError("clip 3")).numbers) as batches:
        assert [next(batches) for _ in range(3)] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(ValueError, match="clip 3"):
                next(batches)


@pytest.mark.parametrize("num_used", [0, 1, 5])
def test_leaving_early_ends_the_thread_and_closes_the_generator(num_used):
    source = Source()
    with Ahead(source.numbers) as batches:
        for _ in range(num_used):
            next(batches)
    assert source.is_closed
    assert source.taken <= num_used + NUM_AHEAD


def test_error_in_the_loop_is_the_one_that_is_told():
    source = Source(3, ValueError("of the next batch"))

    def interrupted():
        with Ahead(source.numbers) as batches:
            next(batches)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert source.is_closed


def test_waiting_is_told_apart_from_working():
    def slow():
        for number in range(3):
            time.sleep(0.1)
            yield number

    def spent(source, seconds):
        waited = stepped = 0.0
        with Ahead(source) as batches:
            for _ in batches:
                time.sleep(seconds)
                waited += batches.waited_seconds
                stepped += batches.step_seconds
        return waited, stepped

    waited, stepped = spent(slow(), 0.0)
    assert 0.25 < waited <= stepped
    waited, stepped = spent(iter(range(4)), 0.1)
    assert waited < 0.1 < 0.25 < stepped
