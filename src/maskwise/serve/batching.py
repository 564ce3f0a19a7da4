"""Name the regions of many clients in common batches."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import ceil
from typing import Protocol, runtime_checkable

from maskwise.data.images import Pixels
from maskwise.data.masks import Mask
from maskwise.model.prediction import ImageOutputs

FIRST_RATE = 20.0
"""Regions per second that are assumed before any was named."""


@runtime_checkable
class Names(Protocol):
    """The part of `Predictor` that is used."""

    def run(self, image: Pixels, masks: Sequence[Mask], *, embeddings: bool) -> ImageOutputs:
        """Name the regions of one image."""

    def run_many(self, images: Iterator[tuple[Pixels, Sequence[Mask]]], *, embeddings: bool) -> Iterator[ImageOutputs]:
        """Name the regions of many images, in order."""


class BusyError(Exception):
    """Too much is waiting already.

    Attributes:
        retry_after_s: when to try again, whole seconds.
    """

    def __init__(self, retry_after_s: int) -> None:
        """Say when to try again."""
        super().__init__(f"too much is waiting; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, eq=False)
class _Job:
    """The regions of one request."""

    image: Pixels
    masks: Sequence[Mask]
    answer: Future[ImageOutputs] = field(default_factory=Future)


class BatchingThread:
    """Names regions in one thread; requests that wait together share batches.

    Everything given to `submit` must be checked before: masks of the image's size, with a pixel set.
    """

    def __init__(
        self, predictor: Names, *, max_waiting: int, note_round: Callable[[int], None] = lambda requests: None
    ) -> None:
        """Start the thread.

        Args:
            predictor: names regions.
            max_waiting: maximum number of regions that wait; one request alone may have more.
            note_round: called after each round with the number of its requests.
        """
        self._predictor, self._max_waiting, self._note_round = predictor, max_waiting, note_round
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting, self._rate = 0, FIRST_RATE
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batching", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of regions that wait or are being named."""
        return self._waiting

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, image: Pixels, masks: Sequence[Mask]) -> Future[ImageOutputs]:
        """Queue the regions of an image.

        Args:
            image: height x width x 3, uint8, RGB.
            masks: its regions.

        Returns:
            The outputs, logits and embeddings; cancelling it before its turn costs nothing.

        Raises:
            BusyError: too many regions wait already, or the thread was closed.
        """
        job = _Job(image, masks)
        with self._lock:
            if self._closed or (self._waiting and self._waiting + len(masks) > self._max_waiting):
                raise BusyError(min(max(ceil(self._waiting / self._rate), 1), 60))
            self._waiting += len(masks)
            self._jobs.put(job)
        return job.answer

    def close(self) -> None:
        """Name what waits, then stop."""
        with self._lock:
            self._closed = True
            self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.answer.set_running_or_notify_cancel():
                self._done(job)
                continue
            started, named = time.monotonic(), self._run_round(job)
            if named:
                self._rate += 0.2 * (named / max(time.monotonic() - started, 1e-6) - self._rate)

    def _run_round(self, first: _Job) -> int:
        """Name a request, and those that come to wait meanwhile; returns the number of regions."""
        if self._jobs.empty():
            self._run_alone(first)
            self._note_round(1)
            return len(first.masks)
        started: deque[_Job] = deque()
        named = requests = 0
        try:
            for outputs in self._predictor.run_many(self._images(first, started), embeddings=True):
                job = started.popleft()
                self._done(job)
                job.answer.set_result(outputs)
                named, requests = named + len(job.masks), requests + 1
        except Exception:  # Whose fault it was does not show: each runs again alone and gets its own error.
            while started:
                self._run_alone(started.popleft())
        self._note_round(requests)
        return named

    def _images(self, first: _Job, started: deque[_Job]) -> Iterator[tuple[Pixels, Sequence[Mask]]]:
        """Yield what waits, until nothing does; each request is noted in `started` before it is yielded."""
        job: _Job | None = first
        while job is not None:
            started.append(job)
            yield job.image, job.masks
            job = self._next_waiting()

    def _next_waiting(self) -> _Job | None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return None
            if job is None:  # Closing: `_work` must see it too.
                self._jobs.put(None)
                return None
            if job.answer.set_running_or_notify_cancel():
                return job
            self._done(job)

    def _run_alone(self, job: _Job) -> None:
        try:
            outputs = self._predictor.run(job.image, job.masks, embeddings=True)
        except Exception as error:
            self._done(job)
            job.answer.set_exception(error)
        else:
            self._done(job)
            job.answer.set_result(outputs)

    def _done(self, job: _Job) -> None:
        with self._lock:
            self._waiting -= len(job.masks)
