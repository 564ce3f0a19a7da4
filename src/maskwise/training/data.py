"""Training data: regions of several sources as one, and samples drawn from them.

A sample depends on the seed and its number alone, not on what was drawn before. So a resumed run sees what the
unbroken run would have seen, whatever the number of worker processes. An image that cannot be read is skipped: another
region is drawn for its sample, by the same rule, and the sample says so.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from maskwise.coco import regions_from_coco
from maskwise.errors import ImageError, InputError, MaskError, SettingsError
from maskwise.images import Pixels, load_image
from maskwise.labelmaps import regions_from_label_maps
from maskwise.masks import Mask, check_size
from maskwise.regions import Category, LabelledRegion, RegionSet
from maskwise.training.augment import jitter_colours, jitter_crop, jitter_flip, sloppy_mask, window_batch, window_view
from maskwise.training.batches import Sample, Skipped
from maskwise.training.settings import DataSettings, SourceSettings, TrainSettings, expand
from maskwise.views import ViewSettings

TRIES = 32
"""Draws for one sample, all of them of images that cannot be read, after which a run is given up."""


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
    train: tuple[LabelledRegion, ...]
    holdout: tuple[LabelledRegion, ...]
    calibrates: tuple[bool, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, in the order of the logits."""
        return tuple(category.name for category in self.categories)

    def digest(self) -> str:
        """Changes with the classes and with the regions' numbers, names and images, not with where the folders lie."""
        digest = hashlib.sha256(repr(self.names).encode())
        for region in (*self.train, *self.holdout):
            digest.update(repr((region.image_path.name, region.region_id, region.name)).encode())
        return digest.hexdigest()[:16]

    def holding(self, numbers: Sequence[int]) -> Split:
        """The same with some of its held-out regions, those of the given numbers, in that order."""
        holdout = tuple(self.holdout[number] for number in numbers)
        return replace(self, holdout=holdout, calibrates=tuple(self.calibrates[number] for number in numbers))

    def calibration_weights(self, class_power: float) -> Float[Tensor, " holdout"]:
        """What each held-out region counts for when the temperature is set.

        Together the regions of a class count for as much as the class is drawn while training.

        Args:
            class_power: `DataSettings.class_power`.
        """
        learned = Counter(region.name for region in self.train)
        chosen = Counter(r.name for r, calibrates in zip(self.holdout, self.calibrates, strict=True) if calibrates)
        return torch.tensor(
            [
                learned[region.name] ** class_power / chosen[region.name]
                if calibrates and region.name in learned
                else 0.0
                for region, calibrates in zip(self.holdout, self.calibrates, strict=True)
            ]
        )


def read_source(source: SourceSettings, root: Path, *, images_required: bool = True) -> RegionSet:
    """The regions of one source, crowds left out, classes ignored and renamed as it says.

    Args:
        source: the source.
        root: folder that it is relative to.
        images_required: refuse a COCO file that names an image which is not there.

    Raises:
        SettingsError: neither or both of annotations and label_maps.
        AnnotationError: see `regions_from_coco` and `regions_from_label_maps`.
    """
    if bool(source.annotations) == bool(source.label_maps):
        raise SettingsError(f"source {source.images}: give either annotations or label_maps with classes_file")
    if source.annotations:
        regions = regions_from_coco(root / source.annotations, root / source.images, images_required=images_required)
    else:
        regions = regions_from_label_maps(
            root / source.label_maps, root / source.images, root / source.classes_file, min_area=source.min_area
        )
    regions = regions.without(source.ignore).renamed(source.rename)
    return RegionSet(regions.categories, tuple(r for r in regions.regions if not r.crowd))


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
    sets = [read_source(source, root, images_required=False) for source in settings.sources]
    train, holdout, calibrates = [], [], []
    for source, regions in zip(settings.sources, sets, strict=True):
        for region in regions.regions:
            if _held_out(region.image_path, settings.holdout):
                holdout.append(region)
                calibrates.append(source.calibrate)
            else:
                train.append(region)
    if not train:
        raise SettingsError("the sources have no region to learn from")
    return Split(_merge_categories(sets), tuple(train), tuple(holdout), tuple(calibrates))


def _held_out(path: Path, fraction: float) -> bool:
    """By a hash of the file's name: the same on every machine, and unmoved when images are added."""
    digest = hashlib.sha256(path.name.encode()).digest()
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


def batch_shape(settings: TrainSettings, step: int) -> tuple[tuple[int, int] | None, int]:
    """Window size (none: each region's own view) and number of regions of a step's batch, over all processes."""
    window, schedule = settings.window, settings.schedule
    if not window.enabled:
        return None, schedule.batch_size
    return window_batch(window, schedule.batch_size, np.random.default_rng((schedule.seed, 1, step)))


class Draws(Sampler[list[Draw]]):
    """Batches of sample numbers from one step on; of several processes, each takes its share of every batch.

    A batch is the same, whatever the number of processes: its samples are dealt out to them like cards.
    """

    def __init__(self, settings: TrainSettings, first_step: int, process: int = 0, processes: int = 1) -> None:
        """Deal out a run's samples.

        Args:
            settings: of the run.
            first_step: steps before it are done.
            process: whose share it is, from 0.
            processes: how many there are.

        Raises:
            SettingsError: a batch may have too few regions for each process to get one.
        """
        window, least = settings.window, settings.schedule.batch_size
        if window.enabled:
            least = min(least, max(window.max_pixels // window.max_side**2, 1))
        if least < processes:
            raise SettingsError(
                f"a batch may have {least} regions, fewer than the {processes} processes; start fewer, or raise"
                f" schedule.batch_size{' and window.max_pixels' if window.enabled else ''}"
            )
        self.settings = settings
        self.first_step = first_step
        self.process = process
        self.processes = processes

    def __len__(self) -> int:
        return self.settings.schedule.steps - self.first_step

    def __iter__(self) -> Iterator[list[Draw]]:
        schedule = self.settings.schedule
        for step in range(self.first_step, schedule.steps):
            size_hw, count = batch_shape(self.settings, step)
            first = step * schedule.batch_size
            yield [Draw(first + i, size_hw) for i in range(self.process, count, self.processes)]


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
        self.index = {name: i for i, name in enumerate(split.names)}
        self._by_class: dict[str, list[list[int]]] = {}
        for name, numbers in self._grouped(range(len(self.regions)), "name").items():
            images = self._grouped(numbers, "image_path").values() if settings.data.image_first else [numbers]
            self._by_class[name] = list(images)
        counts = np.array([sum(map(len, groups)) for groups in self._by_class.values()], dtype=float)
        weights = counts**settings.data.class_power
        self._names = list(self._by_class)
        self._probabilities = weights / weights.sum()

    def _grouped(self, numbers: Iterable[int], attribute: str) -> dict[Any, list[int]]:
        groups = defaultdict(list)
        for number in numbers:
            groups[getattr(self.regions[number], attribute)].append(number)
        return groups

    def draw(self, rng: np.random.Generator) -> int:
        """The number of a region, at random."""
        groups = self._by_class[self._names[rng.choice(len(self._names), p=self._probabilities)]]
        group = groups[rng.integers(len(groups))]
        return group[rng.integers(len(group))]

    def __getitem__(self, draw: Draw) -> Sample:
        """A sample; where images cannot be read, of the first region drawn for it whose image can.

        Raises:
            InputError: none of `TRIES` can.
            AnnotationError, MaskError: a mask cannot be made, or is of another size than its image.
        """
        skipped: list[Skipped] = []
        for attempt in range(TRIES):
            key = (self.settings.schedule.seed, 0, draw.number, attempt)
            rng = np.random.default_rng(key if attempt else key[:3])
            number = self.draw(rng)
            try:
                pixels, coverage = self._render(self.regions[number], draw, rng)
            except ImageError as error:
                skipped.append(Skipped(str(self.regions[number].image_path), str(error)))
                continue
            return Sample(pixels, coverage, self.index[self.regions[number].name], number, tuple(skipped))
        raise InputError(
            f"most images cannot be read: {TRIES} in a row, the last of them: {skipped[-1].why}; mend the data, then"
            " start the run again"
        )

    def _render(self, region: LabelledRegion, draw: Draw, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        augment = self.settings.augment
        mask = sloppy_mask(region.read_mask(), augment, rng)
        if draw.window_hw is not None:
            view = window_view(mask, draw.window_hw, rng)
        elif self.settings.view.kind == "crop":
            view = jitter_crop(self.settings.view.view(mask), augment, rng)
        else:
            view = self.settings.view.view(mask)
        pixels, coverage = jitter_flip(view, augment, rng).render(image_of(region, mask), mask)
        return jitter_colours(pixels, augment, rng), coverage


class PlainRegions(Dataset):
    """Given regions as prediction would see them, in order."""

    def __init__(
        self, regions: tuple[LabelledRegion, ...], view: ViewSettings, categories: tuple[Category, ...]
    ) -> None:
        self.regions = regions
        self.view = view
        self.index = {category.name: i for i, category in enumerate(categories)}

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, number: int) -> Sample | Skipped:
        """A region by number; in its place, where its image cannot be read, what is wrong with it.

        Raises:
            AnnotationError, MaskError: its mask cannot be made, or is of another size than its image.
        """
        region = self.regions[number]
        mask = region.read_mask()
        try:
            image = image_of(region, mask)
        except ImageError as error:
            return Skipped(str(region.image_path), str(error))
        pixels, coverage = self.view.view(mask).render(image, mask)
        return Sample(pixels, coverage, self.index[region.name], number)
