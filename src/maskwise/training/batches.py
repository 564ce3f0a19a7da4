"""Samples, batches of them, and the worker processes that make them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskwise.errors import MaskwiseError

PREFETCHED_BATCHES = 4
"""Batches that each worker prefetches."""
NO_CLASS = -1
"""Target of a blank crop, in which no class is right."""


@dataclass(frozen=True)
class UnreadableImage:
    """An image that could not be read.

    Attributes:
        path: of the image file.
        reason: the whole error message.
    """

    path: str
    reason: str


class ExtraRegion(NamedTuple):
    """Another region inside a crop, trained on together with the region that the crop was made for.

    Attributes:
        coverage: how much of each pixel of the crop it covers, 0 to 255.
        target: class index.
        number: its index among the regions.
        weight: of its loss, 0 to 1; the region that the crop was made for has weight 1.
    """

    coverage: UInt8[np.ndarray, "h w"]
    target: int
    number: int
    weight: float


class Sample(NamedTuple):
    """A crop of a region, as the network takes it.

    Attributes:
        pixels: RGB, 0 to 255.
        coverage: how much of each pixel the region covers, 0 to 255.
        target: class index, or `NO_CLASS`.
        number: the region's index among the regions it comes from.
        skipped: images that were sampled first and could not be read.
        extra: other regions in the crop to train on.
        wide: pixels and coverage of the second, wider crop, of a model of two.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    coverage: UInt8[np.ndarray, "h w"]
    target: int
    number: int
    skipped: tuple[UnreadableImage, ...] = ()
    extra: tuple[ExtraRegion, ...] = ()
    wide: tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]] | None = None


@dataclass(frozen=True)
class RegionBatch:
    """Crops of several regions, as `RegionClassifier` takes them.

    Attributes:
        images: RGB crops, 0 to 255.
        masks: how much of each pixel of its crop a region covers, 0 to 255. First the regions that the crops were made
            for, in the order of the crops, then the extra regions. Of a model of two crops first all in narrow crops,
            then the same in wide ones.
        image_of: index of the crop that each mask lies in.
        targets: class indices, or `NO_CLASS`.
        numbers: indices of the regions among those they come from.
        weights: weights of the regions' losses, 0 to 1.
        skipped: images that could not be read, once for each time one was sampled.
        crop_of: whether each mask is in a narrow crop (0) or a wide one (1); None for models of one crop.
    """

    images: UInt8[Tensor, "v h w 3"]
    masks: UInt8[Tensor, "m h w"]
    image_of: Int64[Tensor, " m"]
    targets: Int64[Tensor, " n"]
    numbers: Int64[Tensor, " n"]
    weights: Float32[Tensor, " n"]
    skipped: tuple[UnreadableImage, ...] = ()
    crop_of: Int64[Tensor, " m"] | None = None

    def to(self, device: torch.device) -> RegionBatch:
        """Return the batch on a device."""
        return replace(
            self,
            images=self.images.to(device),
            masks=self.masks.to(device),
            image_of=self.image_of.to(device),
            targets=self.targets.to(device),
            numbers=self.numbers.to(device),
            weights=self.weights.to(device),
            crop_of=None if self.crop_of is None else self.crop_of.to(device),
        )

    def add_crops(self, rows: Float32[Tensor, "m d"]) -> Float32[Tensor, "n d"]:
        """Return a row per region: the sum of those of its crops."""
        return rows if self.crop_of is None else rows.reshape(2, -1, rows.shape[1]).sum(dim=0)


def collate(items: Sequence[Sample | UnreadableImage]) -> RegionBatch:
    """Combine samples into one batch; unreadable images go into `skipped`."""
    samples = [item for item in items if isinstance(item, Sample)]
    skipped = [image for item in items for image in (item.skipped if isinstance(item, Sample) else [item])]
    regions = [(view, ExtraRegion(s.coverage, s.target, s.number, 1.0)) for view, s in enumerate(samples)]
    regions += [(view, extra) for view, s in enumerate(samples) for extra in s.extra]
    wide = [s.wide for s in samples if s.wide is not None]
    image_of = torch.tensor([view for view, _ in regions], dtype=torch.int64)
    return RegionBatch(
        images=_stack([s.pixels for s in samples] + [pixels for pixels, _ in wide], (0, 0, 3)),
        masks=_stack([region.coverage for _, region in regions] + [coverage for _, coverage in wide], (0, 0)),
        image_of=torch.cat([image_of, image_of + len(samples)]) if wide else image_of,
        targets=torch.tensor([region.target for _, region in regions], dtype=torch.int64),
        numbers=torch.tensor([region.number for _, region in regions], dtype=torch.int64),
        weights=torch.tensor([region.weight for _, region in regions], dtype=torch.float32),
        skipped=tuple(skipped),
        crop_of=torch.arange(2).repeat_interleave(len(samples)) if wide else None,
    )


def _stack(arrays: Sequence[UInt8[np.ndarray, ...]], empty_shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.stack(arrays) if arrays else np.empty((0, *empty_shape), np.uint8))


class _ErrorsAsItems(Dataset[Any]):
    """Samples; an error is returned in place of its sample and raised where the batch is read.

    If a worker raised the error, the DataLoader would make the worker's traceback the message.
    """

    def __init__(self, samples: Dataset[Sample | UnreadableImage]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]  # Asked only where there is no batch sampler.

    def __getitem__(self, key: Any) -> Sample | UnreadableImage | MaskwiseError:
        try:
            return self.samples[key]
        except MaskwiseError as error:
            return error


def _collate_or_error(items: list[Sample | UnreadableImage | MaskwiseError]) -> RegionBatch | MaskwiseError:
    samples = []
    for item in items:
        if isinstance(item, MaskwiseError):
            return item
        samples.append(item)
    return collate(samples)


def read_batches(samples: Dataset[Sample | UnreadableImage], workers: int, **options: Any) -> Iterator[RegionBatch]:
    """Yield batches of samples, made by worker processes.

    Args:
        samples: `TrainingRegions` or `UnaugmentedRegions`.
        workers: number of worker processes; 0: make batches in the calling process.
        **options: of `torch.utils.data.DataLoader`, for example `batch_size` or `batch_sampler`.

    Raises:
        MaskwiseError: an error of a sample, with its own message.
    """
    loader: DataLoader[Any] = DataLoader(
        _ErrorsAsItems(samples),
        collate_fn=_collate_or_error,
        num_workers=workers,
        worker_init_fn=_use_one_thread,
        # Not fork: OpenCV's thread pool does not survive it, and the first resize in the child hangs.
        multiprocessing_context="forkserver" if workers else None,
        prefetch_factor=PREFETCHED_BATCHES if workers else None,
        **options,
    )
    for batch in loader:
        if isinstance(batch, MaskwiseError):
            raise batch
        yield batch


def _use_one_thread(_worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
