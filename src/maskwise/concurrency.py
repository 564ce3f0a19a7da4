"""Threads: make the next item while the last one is in use, and run several calls at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items in order, making each in another thread while the one before it is in use.

    Only one item is made ahead. An error is raised where its item would have come. Stopping early waits for the item
    that is being made.

    >>> list(prefetch(range(3)))
    [0, 1, 2]
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        coming = thread.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield item  # type: ignore[misc]  # Not the end: an item.


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield a function's results in order, running several calls at once, each in a thread of its own.

    Items are made in the calling thread, at most one more than there are workers. An error, of a call or of an item, is
    raised where its result would have come. Stopping early waits for running calls.

    Args:
        function: called with each item.
        items: the items.
        workers: maximum number of calls at once.

    >>> list(map_in_threads(abs, [3, -1, 2], workers=2))
    [3, 1, 2]
    """
    threads = ThreadPoolExecutor(workers, thread_name_prefix="map")
    running: deque[Future[Result]] = deque()
    iterator, failure = iter(items), None
    try:
        while failure is None:
            try:
                running.append(threads.submit(function, next(iterator)))
            except StopIteration:
                break
            except Exception as error:  # Raised below, after the results of the items before it.
                failure = error
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
        if failure is not None:
            raise failure
    finally:
        threads.shutdown(cancel_futures=True)
