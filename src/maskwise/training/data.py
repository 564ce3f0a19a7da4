"""Training data: regions of several sources, and samples drawn from them.

A sample depends only on the seed and its number, not on earlier samples. A resumed run therefore sees what an
uninterrupted run would have seen, whatever the number of worker processes. An unreadable image is skipped: another
region is sampled in its place by the same rule, and the sample records it.
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
from jaxtyping import Bool, Float, Int32, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from maskwise.data.coco_regions import regions_from_coco
from maskwise.data.images import Pixels, load_image
from maskwise.data.label_maps import regions_from_label_maps
from maskwise.data.masks import Mask, check_size
from maskwise.data.regions import Category, LabelledRegion, Regions, RegionSet, by_first_mention
from maskwise.errors import ImageError, InputError, MaskError, SettingsError
from maskwise.training.augment import (
    blank_pixels,
    jitter_colours,
    jitter_crop,
    jitter_flip,
    jitter_mask,
    widen_crop,
    window_batch,
    window_view,
)
from maskwise.training.batches import NO_CLASS, ExtraRegion, Sample, UnreadableImage
from maskwise.training.settings import DataSettings, SourceSettings, TrainSettings, data_folder
from maskwise.views.view import View, ViewSettings

MIN_VISIBLE_SHARE = 0.5
"""An extra region must have at least this share of its area inside the crop, ..."""
MIN_SIDE_SHARE = 1 / 16
"""... and the longer side of its box must be at least this share of the crop's: one patch of 14 pixels in 224."""
CANDIDATES_PER_REGION = 4
"""Regions of the image to try for each extra region that is wanted. Bounded, since reading masks takes time."""
MAX_TRIES = 32
"""Regions to try for one sample. If none of their images can be read, the run fails."""


@dataclass(frozen=True)
class Split:
    """The regions of all sources, divided by image into a training set and a held-out set.

    Attributes:
        categories: all classes, in order of first mention; ids are the first source's where it has the class.
        train: regions to train on.
        holdout: regions that are never trained on, for validation and calibration.
        calibrates: for each held-out region, whether it sets the temperature.
        nothing: regions to train on that are none of the classes; None: the model does not learn to tell.
    """

    categories: tuple[Category, ...]
    train: Regions
    holdout: Regions
    calibrates: Bool[np.ndarray, " holdout"]
    nothing: Regions | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return tuple(category.name for category in self.categories)

    def digest(self) -> str:
        """Return a short text that depends on classes and regions, and not on where the folders are."""
        digest = hashlib.sha256(repr(self.names).encode())
        for part in (self.train, self.holdout, *([] if self.nothing is None else [self.nothing])):
            digest.update(repr(part.names).encode())
            digest.update(b"/".join(map(os.path.basename, part.images.tolist())))
            for column in (part.name, part.image, part.reader, part.record):
                digest.update(column.tobytes())
        return digest.hexdigest()[:16]

    def with_holdout(self, numbers: Sequence[int]) -> Split:
        """Return the split with only the held-out regions of the given indices, in that order."""
        chosen = np.array(numbers, dtype=np.int64)
        return replace(self, holdout=self.holdout.only(chosen), calibrates=self.calibrates[chosen])

    def calibration_weights(self, class_power: float) -> Float[Tensor, " holdout"]:
        """Return the weight of each held-out region when the temperature is set.

        The weights of a class add up in proportion to how often the class is sampled in training.

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
    """Read the regions of one source: without crowds, classes ignored and renamed as the source says.

    Args:
        source: the source.
        root: folder that relative paths start from.
        images_required: whether a COCO file that names a missing image is refused.

    Raises:
        SettingsError: neither or both of annotations and label_maps.
        AnnotationError: see `regions_from_coco` and `regions_from_label_maps`.
    """
    if bool(source.annotations) == bool(source.label_maps):
        raise SettingsError(f"source {source.images}: give either annotations or label_maps with classes_file")
    if source.annotations:
        annotations = _located(root, source.annotations)
        regions = regions_from_coco(annotations, root / source.images, images_required=images_required)
    else:
        regions = regions_from_label_maps(
            root / source.label_maps, root / source.images, root / source.classes_file, min_area=source.min_area
        )
    regions = regions.without(source.ignore).renamed(source.rename)
    large = regions.regions.areas() >= source.min_area if source.min_area > 1 else True
    return regions.only(~regions.regions.crowd & large)


def _located(root: Path, path: str) -> Path:
    """Return a file below the root, or of the working folder if only that one exists: a run may have made it."""
    return Path(path) if not (root / path).exists() and Path(path).exists() else root / path


def read_data(settings: DataSettings) -> Split:
    """Read every source and hold out a part of its images.

    Raises:
        SettingsError: there is no source, no source calibrates, no region is left to train on, or a path is relative
            and data_root is not set.
        AnnotationError: see `read_source`.
    """
    if not settings.sources:
        raise SettingsError("data.sources is empty; name at least one folder of images with annotations or label maps")
    if not any(source.calibrate for source in settings.sources):
        raise SettingsError(
            "no source has calibrate = true, so nothing would set the temperature; set it for one source"
        )
    root = data_folder(settings.data_root, (*settings.sources, *settings.nothing))
    sets = [read_source(source, root, images_required=False) for source in settings.sources]
    regions = Regions.joined([one.regions for one in sets])
    calibrates = np.repeat([source.calibrate for source in settings.sources], [len(one.regions) for one in sets])
    held_out = np.array([_held_out(file, settings.holdout) for file in regions.images], dtype=bool)[regions.image]
    if held_out.all():
        raise SettingsError("the sources have no region to train on")
    return Split(
        _merge_categories(sets),
        regions.only(~held_out),
        regions.only(held_out),
        calibrates[held_out].astype(bool),
        _read_nothing(settings, root),
    )


def _read_nothing(settings: DataSettings, root: Path) -> Regions | None:
    """Read the regions of no class, without the images that are held out."""
    if not settings.nothing:
        return None
    regions = Regions.joined([read_source(source, root, images_required=False).regions for source in settings.nothing])
    held_out = np.array([_held_out(file, settings.holdout) for file in regions.images], dtype=bool)[regions.image]
    if held_out.all():
        raise SettingsError("data.nothing has no region to train on")
    return regions.only(~held_out)


def _held_out(file: bytes, fraction: float) -> bool:
    """Decide by a hash of the file name: the same on every machine, and stable when images are added."""
    digest = hashlib.sha256(os.path.basename(file)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < fraction


def _merge_categories(sets: list[RegionSet]) -> tuple[Category, ...]:
    by_name: dict[str, Category] = {}
    for category in (c for regions in sets for c in regions.categories):
        if category.name not in by_name:
            taken = {c.id for c in by_name.values()}
            numbers = [value for value in taken if isinstance(value, int)]
            free = category.id if category.id not in taken else max(numbers, default=0) + 1
            by_name[category.name] = Category(free, category.name)
    return tuple(by_name.values())


@dataclass(frozen=True)
class SampleRequest:
    """A sample to make.

    Attributes:
        number: of the sample in the run.
        window_hw: height and width of its random window, pixels; None: a crop around the region.
    """

    number: int
    window_hw: tuple[int, int] | None = None


def batch_shape(settings: TrainSettings, step: int) -> tuple[tuple[int, int] | None, int]:
    """Return a batch's window size (None: crops around regions) and its number of crops, over all processes."""
    window, schedule = settings.window, settings.schedule
    if not window.enabled:
        return None, schedule.batch_size
    return window_batch(window, schedule.batch_size, np.random.default_rng((schedule.seed, 1, step)))


class ResumableBatchSampler(Sampler[list[SampleRequest]]):
    """Batches of sample requests, starting at any step; several processes share every batch.

    A batch does not depend on the number of processes: process p takes every n-th sample, starting at the p-th.
    """

    def __init__(self, settings: TrainSettings, first_step: int, process: int = 0, processes: int = 1) -> None:
        """Start at a step.

        Args:
            settings: of the run.
            first_step: the first step to yield; earlier ones are done.
            process: index of this process, from 0.
            processes: number of processes.

        Raises:
            SettingsError: a batch may have fewer crops than there are processes.
        """
        window, smallest = settings.window, settings.schedule.batch_size
        if window.enabled:
            smallest = min(smallest, max(window.max_pixels // window.max_side**2, 1))
        if smallest < processes:
            raise SettingsError(
                f"a batch may have only {smallest} crops for {processes} processes; start fewer processes, or raise"
                f" schedule.batch_size{' and window.max_pixels' if window.enabled else ''}"
            )
        self.settings = settings
        self.first_step = first_step
        self.process = process
        self.processes = processes

    def __len__(self) -> int:
        return self.settings.schedule.steps - self.first_step

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        schedule = self.settings.schedule
        for step in range(self.first_step, schedule.steps):
            size_hw, count = batch_shape(self.settings, step)
            first = step * schedule.batch_size
            yield [SampleRequest(first + i, size_hw) for i in range(self.process, count, self.processes)]


@lru_cache(maxsize=16)
def _recent_image(path: Path) -> Pixels:
    return load_image(path)


def load_region_image(region: LabelledRegion, mask: Mask) -> Pixels:
    """Return the image of a region, from a cache of the last few images.

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


class TrainingRegions(Dataset[Sample]):
    """Random training samples: sample a class, then a region of it, then its augmentations."""

    def __init__(self, split: Split, settings: TrainSettings) -> None:
        self.settings = settings
        self.regions = split.train
        self.targets = split.train.numbered({name: i for i, name in enumerate(split.names)})
        # Classes, and the images of each class, are in order of first mention.
        classes = groups = by_first_mention(self.regions.name)
        if settings.data.image_first:
            images = len(self.regions.images)
            groups = by_first_mention(self.regions.name.astype(np.int64) * images + self.regions.image)
        self._order = np.lexsort((groups, classes))
        self._groups = _run_bounds(groups[self._order])
        self._classes = _run_bounds(classes[self._order][self._groups[:-1]])
        counts = np.bincount(classes).astype(float)
        weights = counts**settings.data.class_power
        self._probabilities = weights / weights.sum()
        # Extra regions occur as often as they lie near sampled ones. Their weights restore the classes' frequencies,
        # except for rare classes, which are sampled often enough.
        self._weights = np.minimum(self._probabilities * len(classes) / counts, 1.0)[classes]
        self._by_image = _RegionsByImage(split.train.image) if settings.data.regions_per_view > 1 else None

    def draw(self, rng: np.random.Generator) -> int:
        """Return the index of a random region."""
        group = _random_in_run(self._classes, rng.choice(len(self._probabilities), p=self._probabilities), rng)
        return int(self._order[_random_in_run(self._groups, group, rng)])

    def __getitem__(self, request: SampleRequest) -> Sample:
        """Return a sample of the first region drawn for it whose image can be read.

        Raises:
            InputError: none of `MAX_TRIES` images can be read.
            AnnotationError, MaskError: a mask cannot be made, or does not have the size of its image.
        """
        skipped: list[UnreadableImage] = []
        blank = self.settings.augment.blank
        for attempt in range(MAX_TRIES):
            key = (self.settings.schedule.seed, 0, request.number, attempt)
            rng = np.random.default_rng(key if attempt else key[:3])
            number = self.draw(rng)
            try:
                if self.settings.view.wide_context:
                    return self.augmented(number, rng, tuple(skipped))
                view, pixels, coverage = self._render(self.regions[number], request, rng)
                if blank and rng.random() < blank:
                    image = blank_pixels((*self.regions[number].read_mask().image_hw, 3), rng)
                    return Sample(view.show(image), coverage, NO_CLASS, number, tuple(skipped))
                extra = tuple(self._extra_regions(number, view, rng))
            except ImageError as error:
                skipped.append(UnreadableImage(str(self.regions[number].image_path), str(error)))
                continue
            return Sample(pixels, coverage, int(self.targets[number]), number, tuple(skipped), extra)
        raise InputError(
            f"most images cannot be read: {MAX_TRIES} in a row; the last: {skipped[-1].reason}; repair the data, then"
            " start the run again"
        )

    def augmented(self, number: int, rng: np.random.Generator, skipped: tuple[UnreadableImage, ...] = ()) -> Sample:
        """Return a sample of a given region, with each of its crops; both are mirrored, or none is.

        Raises:
            ImageError, AnnotationError, MaskError: as in `__getitem__`.
        """
        region, augment = self.regions[number], self.settings.augment
        mask = jitter_mask(region.read_mask(), augment, rng)
        image, flip = load_region_image(region, mask), bool(rng.random() < augment.flip)
        crops = []
        for one in self.settings.view.crops:
            view = jitter_crop(one.view(mask), augment, rng)
            if augment.widen > 1:
                view = widen_crop(view, mask.image_hw, augment, rng)
            pixels, coverage = replace(view, flip=flip).render(image, mask)
            crops.append((jitter_colours(pixels, augment, rng), coverage))
        wide = crops[1] if len(crops) > 1 else None
        return Sample(*crops[0], int(self.targets[number]), number, skipped, wide=wide)

    def _render(
        self, region: LabelledRegion, request: SampleRequest, rng: np.random.Generator
    ) -> tuple[View, UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        augment = self.settings.augment
        mask = jitter_mask(region.read_mask(), augment, rng)
        if request.window_hw is not None:
            view = window_view(mask, request.window_hw, rng)
        elif self.settings.view.kind == "crop":
            view = jitter_crop(self.settings.view.view(mask), augment, rng)
            if augment.widen > 1:
                view = widen_crop(view, mask.image_hw, augment, rng)
        else:
            view = self.settings.view.view(mask)
        view = jitter_flip(view, augment, rng)
        pixels, coverage = view.render(load_region_image(region, mask), mask)
        return view, jitter_colours(pixels, augment, rng), coverage

    def _extra_regions(self, number: int, view: View, rng: np.random.Generator) -> Iterator[ExtraRegion]:
        """Yield other regions that lie in a crop, in random order, up to the number that is wanted."""
        wanted = self.settings.data.regions_per_view - 1
        if self._by_image is None:
            return
        for other in self._by_image.others(number, rng)[: CANDIDATES_PER_REGION * wanted].tolist():
            if not wanted:
                return
            mask = self.regions[other].read_mask()
            load_region_image(self.regions[other], mask)  # Refuses a mask that does not have the image's size.
            if _is_visible(mask, view):
                coverage = view.cover(jitter_mask(mask, self.settings.augment, rng))
                yield ExtraRegion(coverage, int(self.targets[other]), other, float(self._weights[other]))
                wanted -= 1


class _RegionsByImage:
    """The regions of each image."""

    def __init__(self, image: Int32[np.ndarray, " regions"]) -> None:
        self._image = image
        self._order = np.argsort(image, kind="stable")
        self._sorted = image[self._order]

    def others(self, number: int, rng: np.random.Generator) -> Int64[np.ndarray, " others"]:
        """Return the indices of the other regions in a region's image, in random order."""
        first, last = (np.searchsorted(self._sorted, self._image[number], side) for side in ("left", "right"))
        in_image = self._order[first:last]
        return rng.permutation(in_image[in_image != number])


def _is_visible(mask: Mask, view: View) -> bool:
    """Return whether enough of a region lies in a crop, and the region is large enough there."""
    x0, y0, x1, y1 = view.box_xyxy
    if max(mask.box_xywh[2:]) < MIN_SIDE_SHARE * max(x1 - x0, y1 - y0):
        return False
    return bool(np.count_nonzero(mask.crop(x0, y0, x1, y1)) >= MIN_VISIBLE_SHARE * mask.area)


def _run_bounds(ascending: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " bounds"]:
    """Return where each run of equal values begins, and where the last one ends."""
    return np.append(np.flatnonzero(np.diff(ascending, prepend=-1)), len(ascending))


def _random_in_run(bounds: Int64[np.ndarray, " n"], run: int, rng: np.random.Generator) -> int:
    """Return a random position in a run."""
    return int(bounds[run] + rng.integers(bounds[run + 1] - bounds[run]))


class UnaugmentedRegions(Dataset[Sample | UnreadableImage]):
    """Regions as prediction sees them, in the given order."""

    def __init__(
        self, regions: Sequence[LabelledRegion], view: ViewSettings, categories: tuple[Category, ...] | None
    ) -> None:
        """Name the regions.

        Args:
            regions: the regions.
            view: which part of the image the network sees.
            categories: the classes; None if the regions are of no class.
        """
        self.regions = regions
        self.view = view
        self.index = None if categories is None else {category.name: i for i, category in enumerate(categories)}

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, number: int) -> Sample | UnreadableImage:
        """Return the sample of a region, or the error if its image cannot be read.

        Raises:
            AnnotationError, MaskError: its mask cannot be made, or does not have the size of its image.
        """
        region = self.regions[number]
        try:
            mask = region.read_mask()
            image = load_region_image(region, mask)
        except ImageError as error:
            return UnreadableImage(str(region.image_path), str(error))
        (pixels, coverage), *others = (one.view(mask).render(image, mask) for one in self.view.crops)
        target = NO_CLASS if self.index is None else self.index[region.name]
        return Sample(pixels, coverage, target, number, wide=others[0] if others else None)
