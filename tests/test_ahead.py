import threading

import pytest

from maskwise.ahead import ahead


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
    assert list(ahead(Makes(count))) == list(range(count))


def test_the_next_item_is_made_while_one_is_in_use():
    """The maker of the second waits for the first to be in use, which a single thread could not bring about."""
    in_use, made = threading.Event(), threading.Event()

    def items():
        yield 1
        assert in_use.wait(10)
        made.set()
        yield 2

    for item in ahead(items()):
        in_use.set()
        assert made.wait(10), item


def test_no_more_than_one_is_made_ahead():
    makes = Makes(100)
    for number in ahead(makes):
        assert makes.begun <= number + 2


def test_an_error_comes_in_its_items_place():
    items = ahead(Makes(9, fails_at=3))
    assert [next(items), next(items), next(items)] == [0, 1, 2]
    with pytest.raises(ValueError, match="number 3"):
        next(items)


def test_who_stops_early_leaves_no_thread_behind():
    makes = Makes(100)
    items = ahead(makes)
    assert next(items) == 0
    items.close()
    assert makes.begun <= 2
    assert not any(thread.is_alive() for thread in makes.threads)
