"""Making the next thing while the last one is in use, and several at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items in order, each made in another thread while the one before it is in use.

    One item is made ahead and no more. An error comes where its item would have come. Whoever stops early waits for the
    item that is being made.

    >>> list(ahead(range(3)))
    [0, 1, 2]
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        coming = thread.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield item


def abreast(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """A function's results in order, so many calls at once, each in a thread of its own.

    Items are made in the calling thread while calls run, no more than one ahead of them. An error comes where its
    result would have come. Whoever stops early waits for the calls that run.

    Args:
        function: to be called with each item.
        items: the items.
        workers: as many calls run at once.

    >>> list(abreast(abs, [3, -1, 2], workers=2))
    [3, 1, 2]
    """
    threads = ThreadPoolExecutor(workers, thread_name_prefix="abreast")
    running: deque[Future[Result]] = deque()
    try:
        for item in items:
            running.append(threads.submit(function, item))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
