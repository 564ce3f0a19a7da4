import threading

import pytest

from maskwise.concurrency import map_in_threads, prefetch


class Makes:
    """Numbers, and how many of them have been begun; waits before each for `allowed`, if given."""

    def __init__(self, count, fails_at=None):
        self.count, self.fails_at, self.begun, self.threads = count, fails_at, 0, set()

    def __iter__(self):
        for number in range(self.count):
            self.begun += 1
            self.threads.add(threading.current_thread())
            if number == self.fails_at:
                raise ValueError(f"number {number}")
            yield number


@pytest.mark.parametrize("count", [0, 1, 7])
def test_items_come_in_order(count):
    assert list(prefetch(Makes(count))) == list(range(count))


def test_the_next_item_is_made_while_one_is_in_use():
    """The maker of the second waits for the first to be in use, which a single thread could not bring about."""
    in_use, made = threading.Event(), threading.Event()

    def items():
        yield 1
        assert in_use.wait(10)
        made.set()
        yield 2

    for item in prefetch(items()):
        in_use.set()
        assert made.wait(10), item


def test_no_more_than_one_is_made_ahead():
    makes = Makes(100)
    for number in prefetch(makes):
        assert makes.begun <= number + 2


def test_an_error_comes_in_its_items_place():
    items = prefetch(Makes(9, fails_at=3))
    assert [next(items), next(items), next(items)] == [0, 1, 2]
    with pytest.raises(ValueError, match="number 3"):
        next(items)


def test_who_stops_early_leaves_no_thread_behind():
    makes = Makes(100)
    items = prefetch(makes)
    assert next(items) == 0
    items.close()
    assert makes.begun <= 2
    assert not any(thread.is_alive() for thread in makes.threads)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_results_come_in_order(count, workers):
    assert list(map_in_threads(lambda number: -number, Makes(count), workers)) == [-number for number in range(count)]


def test_as_many_calls_run_at_once_as_there_are_workers():
    """Each of three calls waits for the others, which fewer threads could not bring about."""
    together = threading.Barrier(3, timeout=10)
    assert list(map_in_threads(lambda number: together.wait() >= 0 and number, range(6), 3)) == list(range(6))


def test_no_more_than_one_item_is_made_ahead_of_the_calls():
    makes = Makes(100)
    for number in map_in_threads(abs, makes, 2):
        assert makes.begun <= number + 4
    assert makes.threads == {threading.current_thread()}


def test_an_error_comes_in_its_results_place():
    results = map_in_threads(lambda number: 1 // (number - 2), range(5), 2)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_who_stops_early_starts_no_further_call():
    called = []
    results = map_in_threads(called.append, range(100), 1)
    next(results)
    results.close()
    assert len(called) <= 3
