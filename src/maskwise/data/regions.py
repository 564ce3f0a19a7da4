"""Labelled regions of images: the input of training and evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import index
from pathlib import Path
from typing import Protocol, SupportsIndex, overload, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64

from maskwise.concurrency import prefetch
from maskwise.data.images import Pixels, load_image
from maskwise.data.masks import Mask, check_size
from maskwise.errors import AnnotationError, ImageError, naming_mask


@dataclass(frozen=True)
class Category:
    """A class by name, with its number in the annotations (COCO's have gaps)."""

    id: int
    name: str


@dataclass(frozen=True)
class LabelledRegion:
    """One annotated region; its mask is read only when asked for.

    Attributes:
        image_path: the image file.
        image_id: the image's id in its annotations.
        region_id: the region's id in its annotations.
        name: its class.
        stated_area: pixels, as the annotations state it; None where they do not.
        crowd: marks many objects at once; left out except in the published protocols.
        read_mask: gives the mask; raises AnnotationError, ImageError or MaskError.
    """

    image_path: Path
    image_id: int | str
    region_id: int | str
    name: str
    stated_area: float | None
    crowd: bool
    read_mask: Callable[[], Mask]

    @property
    def area(self) -> float:
        """Pixels, as the annotations state it (COCO's sizes go by this), else counted."""
        return float(self.read_mask().area) if self.stated_area is None else self.stated_area

    def mask_of(self, image_hw: tuple[int, int]) -> Mask:
        """The mask, refused where it is not of the image's size.

        Args:
            image_hw: the image's height and width, pixels.

        Raises:
            MaskError: it has another size, or cannot be used; the message names the region.
        """
        mask = self.read_mask()
        with naming_mask(f"annotation id {self.region_id} of image {self.image_path.name} (id {self.image_id})"):
            check_size(mask, image_hw)
        return mask


@runtime_checkable
class RegionSource(Protocol):
    """Annotations that regions are read from, record by record."""

    def ids(self, record: int) -> tuple[int | str, int | str]:
        """What the annotations call the record's image and the record itself."""
        ...

    def read_mask(self, record: int, image_path: Path) -> Mask:
        """The mask of a record of an image.

        Raises:
            AnnotationError, ImageError, MaskError: it cannot be made.
        """
        ...


@dataclass(frozen=True, eq=False)
class Regions(Sequence[LabelledRegion]):
    """Labelled regions in columns: a sequence that makes each `LabelledRegion` when it is asked for.

    The columns take 29 bytes a region.

    Attributes:
        names: classes, each once.
        images: image files, each once, as `os.fsencode` gives them.
        sources: where masks and ids are read from.
        name: number of the region's class in `names`.
        image: number of its image in `images`.
        stated_area: pixels, as the annotations state it; not a number where they do not.
        crowd: whether it marks many objects at once.
        source: number of its source in `sources`.
        record: its number in the source.
    """

    names: tuple[str, ...]
    images: np.ndarray
    sources: tuple[RegionSource, ...]
    name: Int32[np.ndarray, " regions"]
    image: Int32[np.ndarray, " regions"]
    stated_area: Float64[np.ndarray, " regions"]
    crowd: Bool[np.ndarray, " regions"]
    source: Int32[np.ndarray, " regions"]
    record: Int64[np.ndarray, " regions"]

    @classmethod
    def of(cls, regions: Iterable[LabelledRegion]) -> Regions:
        """Regions that are already at hand, in columns."""
        if isinstance(regions, Regions):
            return regions
        given = _Given(tuple(regions))
        names = {name: code for code, name in enumerate(dict.fromkeys(region.name for region in given.regions))}
        paths = {path: code for code, path in enumerate(dict.fromkeys(region.image_path for region in given.regions))}
        areas = [np.nan if region.stated_area is None else region.stated_area for region in given.regions]
        return cls(
            names=tuple(names),
            images=np.array([os.fsencode(path) for path in paths], dtype=bytes),
            sources=(given,),
            name=np.array([names[region.name] for region in given.regions], dtype=np.int32),
            image=np.array([paths[region.image_path] for region in given.regions], dtype=np.int32),
            stated_area=np.array(areas, dtype=np.float64),
            crowd=np.array([region.crowd for region in given.regions], dtype=bool),
            source=np.zeros(len(given.regions), dtype=np.int32),
            record=np.arange(len(given.regions), dtype=np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence[Regions]) -> Regions:
        """All regions of several sets, one after the other; classes meet by name and images by path."""
        names = {name: code for code, name in enumerate(dict.fromkeys(name for part in parts for name in part.names))}
        images, new = np.unique(np.concatenate([part.images for part in parts]), return_inverse=True)
        new = np.split(new.astype(np.int32), np.cumsum([len(part.images) for part in parts]))
        sources = np.cumsum([0, *(len(part.sources) for part in parts)], dtype=np.int32)
        return cls(
            names=tuple(names),
            images=images,
            sources=tuple(source for part in parts for source in part.sources),
            name=np.concatenate([part.numbered(names) for part in parts]),
            image=np.concatenate([new[i][part.image] for i, part in enumerate(parts)]),
            stated_area=np.concatenate([part.stated_area for part in parts]),
            crowd=np.concatenate([part.crowd for part in parts]),
            source=np.concatenate([sources[i] + part.source for i, part in enumerate(parts)]),
            record=np.concatenate([part.record for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.record)

    @overload
    def __getitem__(self, number: SupportsIndex) -> LabelledRegion: ...
    @overload
    def __getitem__(self, number: slice) -> Regions: ...
    def __getitem__(self, number: SupportsIndex | slice) -> LabelledRegion | Regions:
        if isinstance(number, slice):
            return self.only(np.arange(len(self))[number])
        number = index(number)
        source, record = self.sources[self.source[number]], int(self.record[number])
        image_path = self.image_path(number)
        image_id, region_id = source.ids(record)
        area = float(self.stated_area[number])
        return LabelledRegion(
            image_path=image_path,
            image_id=image_id,
            region_id=region_id,
            name=self.names[self.name[number]],
            stated_area=None if np.isnan(area) else area,
            crowd=bool(self.crowd[number]),
            read_mask=partial(source.read_mask, record, image_path),
        )

    def image_path(self, number: SupportsIndex) -> Path:
        """The image file of a region."""
        return Path(os.fsdecode(self.images[self.image[index(number)]]))

    def only(self, chosen: Bool[np.ndarray, " regions"] | Int[np.ndarray, " chosen"]) -> Regions:
        """Some of the regions.

        Args:
            chosen: of every region whether it stays; or the numbers of those that stay, in the order wanted.
        """
        columns = ("name", "image", "stated_area", "crowd", "source", "record")
        return replace(self, **{column: getattr(self, column)[chosen] for column in columns})

    def numbered(self, numbers: Mapping[str, int]) -> Int32[np.ndarray, " regions"]:
        """What number each region's class has among numbers of names; -1 where it has none."""
        return np.array([numbers.get(name, -1) for name in self.names], dtype=np.int32)[self.name]

    def called(self, names: Collection[str]) -> Bool[np.ndarray, " regions"]:
        """Whether each region's class is among some names."""
        return self.numbered(dict.fromkeys(names, 0)) == 0

    def counts(self) -> dict[str, int]:
        """How many regions each class has, those that have any."""
        counts = np.bincount(self.name, minlength=len(self.names)).tolist()
        return {name: count for name, count in zip(self.names, counts, strict=True) if count}

    def areas(self) -> Float64[np.ndarray, " regions"]:
        """Pixels: as the annotations state it, else counted, for which the masks are read."""
        areas = self.stated_area.copy()
        for number in np.flatnonzero(np.isnan(areas)).tolist():
            areas[number] = self[number].area
        return areas

    def renamed(self, names: Mapping[str, str]) -> Regions:
        """The same with classes called otherwise; what has no new name keeps its own."""
        new = [names.get(name, name) for name in self.names]
        numbers = {name: code for code, name in enumerate(dict.fromkeys(new))}
        codes = np.array([numbers[name] for name in new], dtype=np.int32)
        return replace(self, names=tuple(numbers), name=codes[self.name])

    def by_image(self) -> Iterator[Int64[np.ndarray, " of_image"]]:
        """The numbers of each image's regions, images in order of first mention."""
        return grouped(self.image)


def by_first_mention(codes: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Values replaced by 0, 1, 2, ... in the order in which they first stand.

    >>> by_first_mention(np.array([7, 3, 7, 5])).tolist()
    [0, 1, 0, 2]
    """
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def grouped(codes: Int[np.ndarray, " n"]) -> Iterator[Int64[np.ndarray, " of_value"]]:
    """The positions of each value, values in the order in which they first stand.

    >>> [positions.tolist() for positions in grouped(np.array([7, 3, 7, 5]))]
    [[0, 2], [1], [3]]
    >>> list(grouped(np.array([], dtype=int)))
    []
    """
    codes = by_first_mention(codes)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    ends = np.flatnonzero(np.diff(codes[order], append=-1)) + 1
    for start, end in zip(starts, ends, strict=True):
        yield order[start:end]


@dataclass(frozen=True)
class _Given:
    """A source of regions that are objects already."""

    regions: tuple[LabelledRegion, ...]

    def ids(self, record: int) -> tuple[int | str, int | str]:
        return self.regions[record].image_id, self.regions[record].region_id

    def read_mask(self, record: int, _: Path) -> Mask:
        return self.regions[record].read_mask()


@dataclass(frozen=True, eq=False)
class RegionSet:
    """Labelled regions and the classes they may have, in the annotations' order (regions of an image together)."""

    categories: tuple[Category, ...]
    regions: Regions

    def renamed(self, names: Mapping[str, str]) -> RegionSet:
        """The same with classes called otherwise; two classes of one new name become one.

        Raises:
            AnnotationError: a name to be replaced is not a class here.
        """
        self._refuse_unknown(names, "rename")
        categories = {names.get(c.name, c.name): c for c in reversed(self.categories)}
        categories = tuple(replace(c, name=name) for name, c in reversed(categories.items()))
        return RegionSet(categories, self.regions.renamed(names))

    def without(self, names: Sequence[str]) -> RegionSet:
        """The same without some classes and their regions.

        Raises:
            AnnotationError: a name is not a class here.
        """
        self._refuse_unknown(names, "ignore")
        categories = tuple(c for c in self.categories if c.name not in names)
        return RegionSet(categories, self.regions.only(~self.regions.called(names)))

    def only(self, chosen: Bool[np.ndarray, " regions"]) -> RegionSet:
        """The same with some of the regions; the classes stay."""
        return replace(self, regions=self.regions.only(chosen))

    def _refuse_unknown(self, names: Sequence[str] | Mapping[str, str], verb: str) -> None:
        known = [c.name for c in self.categories]
        for name in names:
            if name not in known:
                raise AnnotationError(f"cannot {verb} class {name!r}: the classes here are {', '.join(known)}")


def read_by_image(
    regions: Sequence[LabelledRegion], *, unreadable: list[ImageError] | None = None
) -> Iterator[tuple[list[int], Pixels, list[Mask]]]:
    """Each image once, in order of first mention, with the numbers of its regions in the sequence and their masks.

    The next image is read while one is in use.

    Args:
        regions: the regions.
        unreadable: gets the errors of images that cannot be used, whose regions are then left out.

    Raises:
        ImageError: an image cannot be used, and `unreadable` is left out.
        MaskError: a mask cannot be used or has another size than its image; the message names the region.
    """
    return prefetch(_read_by_image(Regions.of(regions), unreadable))


def _read_by_image(
    regions: Regions, unreadable: list[ImageError] | None
) -> Iterator[tuple[list[int], Pixels, list[Mask]]]:
    for numbers in map(np.ndarray.tolist, regions.by_image()):
        try:
            image = load_image(regions.image_path(numbers[0]))
        except ImageError as error:
            if unreadable is None:
                raise
            unreadable.append(error)
            continue
        yield numbers, image, [regions[number].mask_of(image.shape[:2]) for number in numbers]
