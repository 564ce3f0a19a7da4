"""Samples, batches of them, and the worker processes that make them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskwise.errors import MaskwiseError

AHEAD = 4
"""Batches that each worker makes ahead."""
NOTHING = -1
"""Target of a view without content, in which no class is to be named."""


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read: its path, and the whole message."""

    name: str
    why: str


class Other(NamedTuple):
    """A further region that lies in a view.

    Attributes:
        coverage: how much of each pixel of the view it covers.
        target: class index.
        number: of the region.
        weight: of its loss, beside that of the region which the view was drawn for, 0 to 1.
    """

    coverage: UInt8[np.ndarray, "h w"]
    target: int
    number: int
    weight: float


class Sample(NamedTuple):
    """A view of a region, as the network takes it.

    Attributes:
        pixels: RGB.
        coverage: how much of each pixel the region covers.
        target: class index, or `NOTHING`.
        number: of the region, in the tuple that it is from.
        skipped: images that were drawn for it before and could not be read.
        others: further regions in the view that are learned from.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    coverage: UInt8[np.ndarray, "h w"]
    target: int
    number: int
    skipped: tuple[Skipped, ...] = ()
    others: tuple[Other, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Views of several regions, as `RegionClassifier` takes them.

    Attributes:
        images: RGB; the views.
        masks: how much of each pixel of its view a region covers; first the regions that the views were drawn for, in
            the views' order, then the others.
        image_of: which view each region lies in.
        targets: class indices, or `NOTHING`.
        numbers: of the regions, in the tuple that they are from.
        weights: of the regions' losses.
        skipped: images that could not be read, one for each time.
    """

    images: UInt8[Tensor, "v h w 3"]
    masks: UInt8[Tensor, "n h w"]
    image_of: Int64[Tensor, " n"]
    targets: Int64[Tensor, " n"]
    numbers: Int64[Tensor, " n"]
    weights: Float32[Tensor, " n"]
    skipped: tuple[Skipped, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def collate(items: list[Sample | Skipped]) -> Batch:
    """Samples to one batch, without those whose images could not be read."""
    samples = [item for item in items if isinstance(item, Sample)]
    skipped = [image for item in items for image in (item.skipped if isinstance(item, Sample) else [item])]
    regions = [(view, Other(s.coverage, s.target, s.number, 1.0)) for view, s in enumerate(samples)]
    regions += [(view, other) for view, s in enumerate(samples) for other in s.others]
    return Batch(
        images=_stacked([s.pixels for s in samples], (0, 0, 3)),
        masks=_stacked([region.coverage for _, region in regions], (0, 0)),
        image_of=torch.tensor([view for view, _ in regions], dtype=torch.int64),
        targets=torch.tensor([region.target for _, region in regions], dtype=torch.int64),
        numbers=torch.tensor([region.number for _, region in regions], dtype=torch.int64),
        weights=torch.tensor([region.weight for _, region in regions], dtype=torch.float32),
        skipped=tuple(skipped),
    )


def _stacked(arrays: list[np.ndarray], blank: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.stack(arrays) if arrays else np.empty((0, *blank), np.uint8))


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
        prefetch_factor=AHEAD if workers else None,
        **options,
    )
    for batch in loader:
        if isinstance(batch, MaskwiseError):
            raise batch
        yield batch


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
