"""Unreadable images: skipped, reported once on stderr, and counted in the record of the run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from accelerate.utils import gather_object
from tqdm import tqdm

from maskwise.errors import InputError
from maskwise.training.batches import RegionBatch, UnreadableImage
from maskwise.training.data import MAX_TRIES


class SkippedImages:
    """Images that this process could not read, and those recorded before the run was resumed."""

    def __init__(self, earlier: dict[str, Any] | None = None) -> None:
        """Start counting, or continue.

        Args:
            earlier: `skipped_images` of the record, if the run is resumed.
        """
        self.earlier = earlier or {"names": [], "samples": 0}
        self.names: set[str] = set()
        self._skipped_samples = 0
        self._regions = 0

    def report(self, images: Iterable[UnreadableImage]) -> None:
        """Print the images on stderr, each once in a run."""
        for image in images:
            if image.path not in self.names and image.path not in self.earlier["names"]:
                tqdm.write(f"maskwise: skipped: {image.reason}", file=sys.stderr)
            self.names.add(image.path)

    def count(self, batch: RegionBatch) -> None:
        """Report and count the images that were skipped while a batch was made.

        Raises:
            InputError: more than half of the sampled images cannot be read.
        """
        self.report(batch.skipped)
        self._regions += len(batch.targets)
        self._skipped_samples += len(batch.skipped)
        if self._skipped_samples > max(MAX_TRIES, self._regions):
            samples = self._skipped_samples + self._regions
            raise InputError(
                f"most images cannot be read: {self._skipped_samples} of {samples} samples; the last:"
                f" {batch.skipped[-1].reason}; repair the data, then start the run again"
            )

    def record(self) -> dict[str, Any]:
        """Return the number and names of skipped images and the number of replaced samples, for the run's record.

        The numbers are of all processes; all processes must call this.
        """
        counts = gather_object([(sorted(self.names), self._skipped_samples)])
        names = sorted({*self.earlier["names"], *(name for names, _ in counts for name in names)})
        samples = self.earlier["samples"] + sum(samples for _, samples in counts)
        return {"count": len(names), "samples": samples, "names": names}
