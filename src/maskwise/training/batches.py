"""Samples, batches of them, and the worker processes that make them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskwise.errors import MaskwiseError


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read: its path, and the whole message."""

    name: str
    why: str


class Sample(NamedTuple):
    """A view of a region, as the network takes it.

    Attributes:
        pixels: RGB.
        coverage: how much of each pixel the region covers.
        target: class index.
        number: of the region, in the tuple that it is from.
        skipped: images that were drawn for it before and could not be read.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    coverage: UInt8[np.ndarray, "h w"]
    target: int
    number: int
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Views of several regions, as `RegionClassifier` takes them.

    Attributes:
        images: RGB.
        masks: how much of each pixel the region covers.
        targets: class indices.
        numbers: of the regions, in the tuple that they are from.
        skipped: images that could not be read, one for each time.
    """

    images: UInt8[Tensor, "n h w 3"]
    masks: UInt8[Tensor, "n h w"]
    targets: Int64[Tensor, " n"]
    numbers: Int64[Tensor, " n"]
    skipped: tuple[Skipped, ...] = ()


def collate(items: list[Sample | Skipped]) -> Batch:
    """Samples to one batch, without those whose images could not be read."""
    samples = [item for item in items if isinstance(item, Sample)]
    skipped = [image for item in items for image in (item.skipped if isinstance(item, Sample) else [item])]
    return Batch(
        torch.from_numpy(np.stack([s.pixels for s in samples] or [np.empty((0, 0, 3), np.uint8)])[: len(samples)]),
        torch.from_numpy(np.stack([s.coverage for s in samples] or [np.empty((0, 0), np.uint8)])[: len(samples)]),
        torch.tensor([s.target for s in samples], dtype=torch.int64),
        torch.tensor([s.number for s in samples], dtype=torch.int64),
        tuple(skipped),
    )


class _Told(Dataset):
    """Samples, or in their place the errors to be raised where the batches are read.

    A DataLoader would make the worker's traceback the message.
    """

    def __init__(self, samples: Dataset) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Any) -> Sample | Skipped | MaskwiseError:
        try:
            return self.samples[key]
        except MaskwiseError as error:
            return error


def _collate_told(items: list[Sample | Skipped | MaskwiseError]) -> Batch | MaskwiseError:
    return next((item for item in items if isinstance(item, MaskwiseError)), None) or collate(items)


def read_batches(samples: Dataset, workers: int, **options: Any) -> Iterator[Batch]:
    """Batches of samples, made by worker processes.

    Args:
        samples: `TrainingRegions` or `PlainRegions`.
        workers: how many; 0: the calling process makes them.
        **options: of `torch.utils.data.DataLoader`: how samples come to batches.

    Raises:
        MaskwiseError: whatever the samples raise, with its own message.
    """
    loader = DataLoader(
        _Told(samples),
        collate_fn=_collate_told,
        num_workers=workers,
        worker_init_fn=_one_thread,
        # Not forked: OpenCV's thread pool does not survive a fork, and the first resize in the child then hangs.
        multiprocessing_context="forkserver" if workers else None,
        prefetch_factor=4 if workers else None,
        **options,
    )
    for batch in loader:
        if isinstance(batch, MaskwiseError):
            raise batch
        yield batch


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
