"""Outline things for many clients: one photograph is encoded at a time, and photographs are kept for further clicks."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

from maskwise.data.images import Pixels
from maskwise.model.segment_network import EncodedImage
from maskwise.model.segmenter import Segment
from maskwise.serve.batching import BusyError
from maskwise.serve.schemas import Prompt

SECONDS_EACH = 2
"""What one waiting photograph is assumed to take."""

Result = TypeVar("Result")


@runtime_checkable
class Outlines(Protocol):
    """The part of `Segmenter` that is used."""

    def encode(self, image: Pixels) -> EncodedImage:
        """Return what all prompts of a photograph share."""

    def prompt(
        self,
        encoded: EncodedImage,
        *,
        points: Sequence[Sequence[float]],
        labels: Sequence[int] | None,
        box_xywh: Sequence[float] | None,
    ) -> Segment:
        """Outline one thing."""

    def segment(self, image: Pixels, *, points_per_side: int) -> list[Segment]:
        """Outline everything."""


@dataclass(eq=False)
class KeptImage:
    """A photograph that clients refer to by its id.

    Attributes:
        image_id: 32 characters.
        name: file name.
        pixels: the photograph.
        encoded: what the segmenter's encoder makes of it, once somebody has asked.
    """

    image_id: str
    name: str
    pixels: Pixels
    encoded: Future[EncodedImage] | None = field(default=None, repr=False)


class ImageStore:
    """The photographs last used, up to a number of pixels. Several threads may use it."""

    def __init__(self, max_pixels: int) -> None:
        """Start without any.

        Args:
            max_pixels: of all photographs together; a larger one is kept alone.
        """
        self._max_pixels = max_pixels
        self._images: OrderedDict[str, KeptImage] = OrderedDict()
        self._lock = threading.Lock()
        self._key = os.urandom(32)  # Without it, ids would tell who else has sent a photograph.

    def __len__(self) -> int:
        return len(self._images)

    def keep(self, name: str, pixels: Pixels) -> KeptImage:
        """Keep a photograph; the same one comes back if it is there."""
        width = str(pixels.shape[1]).encode()
        digest = hashlib.blake2b(pixels.data, digest_size=16, key=self._key, salt=width, person=name_hash(name))
        with self._lock:
            image = self._images.setdefault(digest.hexdigest(), KeptImage(digest.hexdigest(), name, pixels))
            self._images.move_to_end(image.image_id)
            total = sum(kept.pixels.size // 3 for kept in self._images.values())
            while total > self._max_pixels and len(self._images) > 1:
                _, oldest = self._images.popitem(last=False)
                total -= oldest.pixels.size // 3
        return image

    def get(self, image_id: str) -> KeptImage | None:
        """Return a photograph by its id; None if it was forgotten."""
        with self._lock:
            image = self._images.get(image_id)
            if image is not None:
                self._images.move_to_end(image_id)
        return image


def name_hash(name: str) -> bytes:
    """Return 16 bytes that differ for different names."""
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


class Outliner:
    """Runs the segmenter: photographs one after the other, each on all cores."""

    def __init__(self, segmenter: Outlines, *, max_waiting: int, note_image: Callable[[], None] = lambda: None) -> None:
        """Start the thread.

        Args:
            segmenter: outlines things.
            max_waiting: maximum number of photographs that wait.
            note_image: called for each photograph that is encoded.
        """
        self._segmenter, self._max_waiting, self._note_image = segmenter, max_waiting, note_image
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outlining")
        self._lock = threading.RLock()  # A call that ends at once leaves while it still enters.
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Number of photographs that wait or are in work."""
        return self._waiting

    def encode(self, image: KeptImage) -> Future[EncodedImage]:
        """Return what all prompts of a photograph share; it is made once.

        Raises:
            BusyError: too many photographs wait.
        """
        with self._lock:
            if image.encoded is None or _has_failed(image.encoded):
                image.encoded = self._submit(partial(self._segmenter.encode, image.pixels))
            return image.encoded

    def segment(self, pixels: Pixels, points_per_side: int) -> Future[list[Segment]]:
        """Outline everything in a photograph.

        Raises:
            BusyError: too many photographs wait.
        """
        with self._lock:
            return self._submit(partial(self._segmenter.segment, pixels, points_per_side=points_per_side))

    def prompt(self, encoded: EncodedImage, prompt: Prompt) -> Segment:
        """Outline one thing; this is quick and runs in the calling thread.

        Raises:
            InputError: a prompt that shows nothing, or points outside the photograph.
            MaskError: a box outside the photograph.
        """
        labels = prompt.labels
        return self._segmenter.prompt(encoded, points=prompt.points, labels=labels, box_xywh=prompt.box)

    def close(self) -> None:
        """Finish what is in work; what waits is dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _submit(self, call: Callable[[], Result]) -> Future[Result]:
        if self._waiting >= self._max_waiting:
            raise BusyError(min(self._waiting * SECONDS_EACH, 60))
        self._waiting += 1
        self._note_image()
        future = self._thread.submit(call)
        future.add_done_callback(lambda _: self._leave())
        return future

    def _leave(self) -> None:
        with self._lock:
            self._waiting -= 1


def _has_failed(future: Future[EncodedImage]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)
