"""Training data: regions of several sources as one, and samples drawn from them.

A sample depends on the seed and its number alone, not on what was drawn before. So a resumed run sees what the
unbroken run would have seen, whatever the number of worker processes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from maskwise.coco import regions_from_coco
from maskwise.errors import MaskError, SettingsError
from maskwise.images import Pixels, load_image
from maskwise.labelmaps import regions_from_label_maps
from maskwise.masks import Mask, check_size
from maskwise.regions import Category, LabelledRegion, Regions, RegionSet, by_first_mention
from maskwise.training.augment import jitter_colours, jitter_crop, jitter_flip, sloppy_mask, window_batch, window_view
from maskwise.training.settings import DataSettings, SourceSettings, TrainSettings, expand
from maskwise.views import ViewSettings


@dataclass(frozen=True)
class Split:
    """The regions of all sources, apart by image.

    Attributes:
        categories: all classes, in order of first mention; ids are the first source's where it has them.
        train: learned from.
        holdout: never learned from: for calibration and for choosing.
        calibrates: of each held-out region, whether it sets the temperature.
    """

    categories: tuple[Category, ...]
    train: Regions
    holdout: Regions
    calibrates: Bool[np.ndarray, " holdout"]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, in the order of the logits."""
        return tuple(category.name for category in self.categories)

    def calibration_weights(self, class_power: float) -> Float[Tensor, " holdout"]:
        """What each held-out region counts for when the temperature is set.

        Together the regions of a class count for as much as the class is drawn while training.

        Args:
            class_power: `DataSettings.class_power`.
        """
        index = {name: i for i, name in enumerate(self.names)}
        classes = self.holdout.numbered(index)
        learned = np.bincount(self.train.numbered(index), minlength=len(index))
        chosen = np.bincount(classes[self.calibrates], minlength=len(index))
        weights = np.where(learned > 0, learned.astype(float) ** class_power / np.maximum(chosen, 1), 0.0)
        return torch.from_numpy(np.where(self.calibrates, weights[classes], 0.0)).float()


def read_source(source: SourceSettings, root: Path) -> RegionSet:
    """The regions of one source, crowds left out, classes ignored and renamed as it says.

    Raises:
        SettingsError: neither or both of annotations and label_maps.
        AnnotationError: see `regions_from_coco` and `regions_from_label_maps`.
    """
    if bool(source.annotations) == bool(source.label_maps):
        raise SettingsError(f"source {source.images}: give either annotations or label_maps with classes_file")
    if source.annotations:
        regions = regions_from_coco(root / source.annotations, root / source.images)
    else:
        regions = regions_from_label_maps(
            root / source.label_maps, root / source.images, root / source.classes_file, min_area=source.min_area
        )
    regions = regions.without(source.ignore).renamed(source.rename)
    return regions.only(~regions.regions.crowd)


def read_data(settings: DataSettings) -> Split:
    """Read every source and hold out a part of its images.

    Raises:
        SettingsError: no source, or nothing left to learn from.
        AnnotationError: see `read_source`.
    """
    if not settings.sources:
        raise SettingsError("data.sources is empty; name at least one folder of images with annotations or label maps")
    if not any(source.calibrate for source in settings.sources):
        raise SettingsError("no source has calibrate = true, so nothing would set the temperature; let one of them")
    root = Path(expand(settings.data_root))
    sets = [read_source(source, root) for source in settings.sources]
    regions = Regions.joined([found.regions for found in sets])
    calibrates = np.repeat([source.calibrate for source in settings.sources], [len(found.regions) for found in sets])
    held_out = np.array([_held_out(file, settings.holdout) for file in regions.images], dtype=bool)[regions.image]
    if held_out.all():
        raise SettingsError("the sources have no region to learn from")
    return Split(
        _merge_categories(sets), regions.only(~held_out), regions.only(held_out), calibrates[held_out].astype(bool)
    )


def _held_out(file: bytes, fraction: float) -> bool:
    """By a hash of the file's name: the same on every machine, and unmoved when images are added."""
    digest = hashlib.sha256(os.path.basename(file)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < fraction


def _merge_categories(sets: list[RegionSet]) -> tuple[Category, ...]:
    by_name: dict[str, Category] = {}
    for category in (c for regions in sets for c in regions.categories):
        if category.name not in by_name:
            taken = {c.id for c in by_name.values()}
            free = category.id if category.id not in taken else max(taken) + 1
            by_name[category.name] = Category(free, category.name)
    return tuple(by_name.values())


@dataclass(frozen=True)
class Draw:
    """One sample to be made: its number in the run, and the size of its window (none: the region's own view)."""

    number: int
    window_hw: tuple[int, int] | None = None


class Draws(Sampler[list[Draw]]):
    """Batches of sample numbers from one step on; of several processes, each takes its share of every batch."""

    def __init__(self, settings: TrainSettings, first_step: int, process: int = 0, processes: int = 1) -> None:
        self.settings = settings
        self.first_step = first_step
        self.process = process
        self.processes = processes

    def __len__(self) -> int:
        return self.settings.schedule.steps - self.first_step

    def __iter__(self) -> Iterator[list[Draw]]:
        window, schedule = self.settings.window, self.settings.schedule
        for step in range(self.first_step, schedule.steps):
            size_hw, count = None, schedule.batch_size
            if window.enabled:
                size_hw, count = window_batch(window, count, np.random.default_rng((schedule.seed, 1, step)))
            yield [
                Draw(step * schedule.batch_size + i, size_hw)
                for i in range(self.process, max(count, self.processes), self.processes)
            ]


@dataclass(frozen=True)
class Batch:
    """Views of several regions, as `RegionClassifier` takes them.

    Attributes:
        images: RGB.
        masks: how much of each pixel the region covers.
        targets: class indices.
        numbers: of the regions, in the tuple that they are from.
    """

    images: UInt8[Tensor, "n h w 3"]
    masks: UInt8[Tensor, "n h w"]
    targets: Int64[Tensor, " n"]
    numbers: Int64[Tensor, " n"]


Sample = tuple[np.ndarray, np.ndarray, int, int]
"""Pixels, coverage, class index, number of the region."""


def collate(samples: list[Sample]) -> Batch:
    """Samples to one batch."""
    images, masks, targets, numbers = zip(*samples, strict=True)
    return Batch(
        torch.from_numpy(np.stack(images)),
        torch.from_numpy(np.stack(masks)),
        torch.tensor(targets),
        torch.tensor(numbers),
    )


@lru_cache(maxsize=16)
def _recent_image(path: Path) -> Pixels:
    return load_image(path)


def image_of(region: LabelledRegion, mask: Mask) -> Pixels:
    """The image of a region, the latest few of them kept.

    Raises:
        ImageError: it cannot be read.
        MaskError: the mask is of another size; the message names image and annotation.
    """
    image = _recent_image(region.image_path)
    try:
        check_size(mask, image.shape[:2])
    except MaskError as error:
        raise MaskError(f"{region.image_path}: annotation {region.region_id}: {error}") from error
    return image


class TrainingRegions(Dataset):
    """Samples drawn at random: class by its weight, then a region of it, then its variations."""

    def __init__(self, split: Split, settings: TrainSettings) -> None:
        self.settings = settings
        self.regions = split.train
        self.targets = split.train.numbered({name: i for i, name in enumerate(split.names)})
        # Classes, and the images of each, are drawn from in the order of first mention.
        classes = groups = by_first_mention(self.regions.name)
        if settings.data.image_first:
            images = len(self.regions.images)
            groups = by_first_mention(self.regions.name.astype(np.int64) * images + self.regions.image)
        self._order = np.lexsort((groups, classes))
        self._groups = _bounds(groups[self._order])
        self._classes = _bounds(classes[self._order][self._groups[:-1]])
        weights = np.bincount(classes).astype(float) ** settings.data.class_power
        self._probabilities = weights / weights.sum()

    def draw(self, rng: np.random.Generator) -> int:
        """The number of a region, at random."""
        group = _between(self._classes, rng.choice(len(self._probabilities), p=self._probabilities), rng)
        return int(self._order[_between(self._groups, group, rng)])

    def __getitem__(self, draw: Draw) -> Sample:
        rng = np.random.default_rng((self.settings.schedule.seed, 0, draw.number))
        number = self.draw(rng)
        region = self.regions[number]
        augment = self.settings.augment
        mask = sloppy_mask(region.read_mask(), augment, rng)
        if draw.window_hw is not None:
            view = window_view(mask, draw.window_hw, rng)
        elif self.settings.view.kind == "crop":
            view = jitter_crop(self.settings.view.view(mask), augment, rng)
        else:
            view = self.settings.view.view(mask)
        pixels, coverage = jitter_flip(view, augment, rng).render(image_of(region, mask), mask)
        return jitter_colours(pixels, augment, rng), coverage, int(self.targets[number]), number


def _bounds(rising: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " bounds"]:
    """Where each run of one value begins, and where the last one ends."""
    return np.append(np.flatnonzero(np.diff(rising, prepend=-1)), len(rising))


def _between(bounds: Int64[np.ndarray, " n"], run: int, rng: np.random.Generator) -> int:
    """A place in a run, at random."""
    return int(bounds[run] + rng.integers(bounds[run + 1] - bounds[run]))


class PlainRegions(Dataset):
    """Given regions as prediction would see them, in order."""

    def __init__(self, regions: Sequence[LabelledRegion], view: ViewSettings, categories: tuple[Category, ...]) -> None:
        self.regions = regions
        self.view = view
        self.index = {category.name: i for i, category in enumerate(categories)}

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, number: int) -> Sample:
        region = self.regions[number]
        mask = region.read_mask()
        pixels, coverage = self.view.view(mask).render(image_of(region, mask), mask)
        return pixels, coverage, self.index[region.name], number
