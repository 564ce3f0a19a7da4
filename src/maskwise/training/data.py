"""Training data: regions of several sources as one, and samples drawn from them.

A sample depends on the seed and its number alone, not on what was drawn before. So a resumed run sees what the
unbroken run would have seen, whatever the number of worker processes. An image that cannot be read is skipped: another
region is drawn for its sample, by the same rule, and the sample says so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from maskwise.data.coco_regions import regions_from_coco
from maskwise.data.images import Pixels, load_image
from maskwise.data.label_maps import regions_from_label_maps
from maskwise.data.masks import Mask, check_size
from maskwise.data.regions import Category, LabelledRegion, Regions, RegionSet, by_first_mention
from maskwise.errors import ImageError, InputError, MaskError, SettingsError
from maskwise.training.augment import (
    jitter_colours,
    jitter_crop,
    jitter_flip,
    sloppy_mask,
    widen_crop,
    window_batch,
    window_view,
    without_content,
)
from maskwise.training.batches import NOTHING, Other, Sample, Skipped
from maskwise.training.settings import DataSettings, SourceSettings, TrainSettings, expand
from maskwise.views.view import View, ViewSettings

LEAST_SEEN = 0.5
"""A region belongs to a view that was drawn for another if so much of its area lies in it ..."""
LEAST_SIDE = 1 / 16
"""... and its box is at least so long, of the view's side: of a ViT of patches of 14 at 224 pixels, a patch."""
LOOKED_AT = 4
"""So many regions of the image are tried for each that a view may have: reading masks takes time."""
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
    train: Regions
    holdout: Regions
    calibrates: Bool[np.ndarray, " holdout"]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, in the order of the logits."""
        return tuple(category.name for category in self.categories)

    def digest(self) -> str:
        """Changes with the classes and with the regions' places, names and images, not with where the folders lie."""
        digest = hashlib.sha256(repr(self.names).encode())
        for part in (self.train, self.holdout):
            digest.update(repr(part.names).encode())
            digest.update(b"/".join(map(os.path.basename, part.images.tolist())))
            for column in (part.name, part.image, part.source, part.record):
                digest.update(column.tobytes())
        return digest.hexdigest()[:16]

    def holding(self, numbers: Sequence[int]) -> Split:
        """The same with some of its held-out regions, those of the given numbers, in that order."""
        chosen = np.array(numbers, dtype=np.int64)
        return replace(self, holdout=self.holdout.only(chosen), calibrates=self.calibrates[chosen])

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
    large = regions.regions.areas() >= source.min_area if source.min_area > 1 else True
    return regions.only(~regions.regions.crowd & large)


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
        self.targets = split.train.numbered({name: i for i, name in enumerate(split.names)})
        # Classes, and the images of each, are drawn from in the order of first mention.
        classes = groups = by_first_mention(self.regions.name)
        if settings.data.image_first:
            images = len(self.regions.images)
            groups = by_first_mention(self.regions.name.astype(np.int64) * images + self.regions.image)
        self._order = np.lexsort((groups, classes))
        self._groups = _bounds(groups[self._order])
        self._classes = _bounds(classes[self._order][self._groups[:-1]])
        counts = np.bincount(classes).astype(float)
        weights = counts**settings.data.class_power
        self._probabilities = weights / weights.sum()
        # Others come as often as they lie near what is drawn: their weights make up for it, but for rare classes,
        # which are drawn often enough.
        self._weights = np.minimum(self._probabilities * len(classes) / counts, 1.0)[classes]
        self._of_image = _Companions(split.train.image) if settings.data.regions_per_view > 1 else None

    def draw(self, rng: np.random.Generator) -> int:
        """The number of a region, at random."""
        group = _between(self._classes, rng.choice(len(self._probabilities), p=self._probabilities), rng)
        return int(self._order[_between(self._groups, group, rng)])

    def __getitem__(self, draw: Draw) -> Sample:
        """A sample; where images cannot be read, of the first region drawn for it whose image can.

        Raises:
            InputError: none of `TRIES` can.
            AnnotationError, MaskError: a mask cannot be made, or is of another size than its image.
        """
        skipped: list[Skipped] = []
        blank = self.settings.augment.blank
        for attempt in range(TRIES):
            key = (self.settings.schedule.seed, 0, draw.number, attempt)
            rng = np.random.default_rng(key if attempt else key[:3])
            number = self.draw(rng)
            try:
                view, pixels, coverage = self._render(self.regions[number], draw, rng)
                if blank and rng.random() < blank:
                    image = without_content((*self.regions[number].read_mask().image_hw, 3), rng)
                    return Sample(view.show(image), coverage, NOTHING, number, tuple(skipped))
                others = tuple(self._others(number, view, rng))
            except ImageError as error:
                skipped.append(Skipped(str(self.regions[number].image_path), str(error)))
                continue
            return Sample(pixels, coverage, int(self.targets[number]), number, tuple(skipped), others)
        raise InputError(
            f"most images cannot be read: {TRIES} in a row, the last of them: {skipped[-1].why}; mend the data, then"
            " start the run again"
        )

    def _render(
        self, region: LabelledRegion, draw: Draw, rng: np.random.Generator
    ) -> tuple[View, np.ndarray, np.ndarray]:
        augment = self.settings.augment
        mask = sloppy_mask(region.read_mask(), augment, rng)
        if draw.window_hw is not None:
            view = window_view(mask, draw.window_hw, rng)
        elif self.settings.view.kind == "crop":
            view = jitter_crop(self.settings.view.view(mask), augment, rng)
            if augment.widen > 1:
                view = widen_crop(view, mask.image_hw, augment, rng)
        else:
            view = self.settings.view.view(mask)
        view = jitter_flip(view, augment, rng)
        pixels, coverage = view.render(image_of(region, mask), mask)
        return view, jitter_colours(pixels, augment, rng), coverage

    def _others(self, number: int, view: View, rng: np.random.Generator) -> Iterator[Other]:
        """Further regions that lie in a view, in random order, as many as may be."""
        wanted = self.settings.data.regions_per_view - 1
        if self._of_image is None:
            return
        for other in self._of_image.of(number, rng)[: LOOKED_AT * wanted].tolist():
            if not wanted:
                return
            mask = self.regions[other].read_mask()
            image_of(self.regions[other], mask)  # Refuses a mask of another size.
            if _lies_in(mask, view):
                coverage = view.cover(sloppy_mask(mask, self.settings.augment, rng))
                yield Other(coverage, int(self.targets[other]), other, float(self._weights[other]))
                wanted -= 1


class _Companions:
    """The regions of each image."""

    def __init__(self, image: Int32[np.ndarray, " regions"]) -> None:
        self._image = image
        self._order = np.argsort(image, kind="stable")
        self._sorted = image[self._order]

    def of(self, number: int, rng: np.random.Generator) -> Int64[np.ndarray, " others"]:
        """The numbers of the other regions of a region's image, in random order."""
        first, last = (np.searchsorted(self._sorted, self._image[number], side) for side in ("left", "right"))
        found = self._order[first:last]
        return rng.permutation(found[found != number])


def _lies_in(mask: Mask, view: View) -> bool:
    """Whether enough of a region is seen in a view, and large enough."""
    x0, y0, x1, y1 = view.box_xyxy
    if max(mask.box_xywh[2:]) < LEAST_SIDE * max(x1 - x0, y1 - y0):
        return False
    return bool(np.count_nonzero(mask.crop(x0, y0, x1, y1)) >= LEAST_SEEN * mask.area)


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

    def __getitem__(self, number: int) -> Sample | Skipped:
        """A region by number; in its place, where its image cannot be read, what is wrong with it.

        Raises:
            AnnotationError, MaskError: its mask cannot be made, or is of another size than its image.
        """
        region = self.regions[number]
        try:
            mask = region.read_mask()
            image = image_of(region, mask)
        except ImageError as error:
            return Skipped(str(region.image_path), str(error))
        pixels, coverage = self.view.view(mask).render(image, mask)
        return Sample(pixels, coverage, self.index[region.name], number)
