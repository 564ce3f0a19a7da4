"""Unreadable images: skipped, named when met, and counted in the record of the run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from accelerate.utils import gather_object
from tqdm import tqdm

from maskwise.errors import InputError
from maskwise.training.batches import Batch, Skipped
from maskwise.training.data import TRIES


class SkippedImages:
    """What one process could not read, and what the run could not before it was resumed."""

    def __init__(self, earlier: dict[str, Any] | None = None) -> None:
        """Go on counting.

        Args:
            earlier: the record's `skipped_images`, of a run that is resumed.
        """
        self.earlier = earlier or {"names": [], "samples": 0}
        self.names: set[str] = set()
        self._samples = 0
        self._made = 0

    def name(self, skipped: Iterable[Skipped]) -> None:
        """Name images on stderr, each once in a run."""
        for image in skipped:
            if image.name not in self.names and image.name not in self.earlier["names"]:
                tqdm.write(f"maskwise: skipped: {image.why}", file=sys.stderr)
            self.names.add(image.name)

    def count(self, batch: Batch) -> None:
        """Name and count the images for which others were drawn into a batch.

        Raises:
            InputError: more than half of what was drawn cannot be read.
        """
        self.name(batch.skipped)
        self._made += len(batch.targets)
        self._samples += len(batch.skipped)
        if self._samples > max(TRIES, self._made):
            raise InputError(
                f"most images cannot be read: {self._samples} of {self._samples + self._made} drawn, the last of them:"
                f" {batch.skipped[-1].why}; mend the data, then start the run again"
            )

    def record(self) -> dict[str, Any]:
        """For the run's record: the images' number and names, and how many samples were drawn anew.

        Of all processes together; to be called by all.
        """
        everywhere = gather_object([(sorted(self.names), self._samples)])
        names = sorted({*self.earlier["names"], *(name for found, _ in everywhere for name in found)})
        samples = self.earlier["samples"] + sum(samples for _, samples in everywhere)
        return {"count": len(names), "samples": samples, "names": names}
