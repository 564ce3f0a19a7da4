"""Labelled regions of images: the input of training and evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import index
from pathlib import Path
from typing import NoReturn, Protocol, SupportsIndex, overload, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64

from maskwise.concurrency import prefetch
from maskwise.data.images import Pixels, check_pixels, load_image
from maskwise.data.masks import Mask, check_size
from maskwise.data.problems import Id, Problem, refuse
from maskwise.errors import AnnotationError, ImageError, InputError, naming_mask


@dataclass(frozen=True)
class Category:
    """A class, and its id in the annotations (COCO's have gaps; other tools use strings)."""

    id: Id
    name: str


@dataclass(frozen=True)
class LabelledRegion:
    """One annotated region; its mask is read on demand.

    Attributes:
        image_path: the image file, or a name for an image in memory.
        image_id: the image's id in its annotations.
        region_id: the region's id in its annotations.
        name: its class.
        stated_area: area that the annotations state, pixels; None if they do not.
        crowd: whether it marks many objects at once; counted in the published protocols only.
        read_mask: returns the mask; raises AnnotationError, ImageError or MaskError.
        image: the image in memory, height x width x 3, RGB; None to read the file.
    """

    image_path: Path
    image_id: Id
    region_id: Id
    name: str
    stated_area: float | None
    crowd: bool
    read_mask: Callable[[], Mask]
    image: Pixels | None = field(default=None, repr=False, compare=False)

    @property
    def area(self) -> float:
        """Area that the annotations state (COCO's sizes go by it), else that of the mask; pixels."""
        return float(self.read_mask().area) if self.stated_area is None else self.stated_area

    def beside(self, mask: Mask, *, region_id: Id, name: str) -> LabelledRegion:
        """Return another region of the same image, whose mask is at hand."""
        return replace(
            self, region_id=region_id, name=name, stated_area=None, crowd=False, read_mask=partial(_same, mask)
        )

    def mask_of(self, image_hw: tuple[int, int]) -> Mask:
        """Read the mask and check its size.

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
class MaskReader(Protocol):
    """Reads masks of annotations, record by record."""

    def ids(self, record: int, /) -> tuple[Id, Id]:
        """Return the ids of the record's image and of the record."""
        ...

    def read_mask(self, record: int, image_path: Path, /) -> Mask:
        """Read the mask of a record of an image.

        Raises:
            AnnotationError, ImageError, MaskError: it cannot be made.
        """
        ...


@dataclass(frozen=True, eq=False)
class Regions(Sequence[LabelledRegion]):
    """Labelled regions in columns (29 bytes per region): a sequence that makes each `LabelledRegion` on demand.

    Attributes:
        names: classes, each once.
        images: image files, each once, as `os.fsencode` gives them.
        readers: where masks and ids are read from.
        name: place of the region's class in `names`.
        image: place of its image in `images`.
        stated_area: area that the annotations state, pixels; NaN if they do not.
        crowd: whether it marks many objects at once.
        reader: place of its reader in `readers`.
        record: its number in the reader.
    """

    names: tuple[str, ...]
    images: np.ndarray
    readers: tuple[MaskReader, ...]
    name: Int32[np.ndarray, " regions"]
    image: Int32[np.ndarray, " regions"]
    stated_area: Float64[np.ndarray, " regions"]
    crowd: Bool[np.ndarray, " regions"]
    reader: Int32[np.ndarray, " regions"]
    record: Int64[np.ndarray, " regions"]

    @classmethod
    def of(cls, regions: Iterable[LabelledRegion]) -> Regions:
        """Return regions in columns."""
        if isinstance(regions, Regions):
            return regions
        given = _Given(tuple(regions))
        names = {name: code for code, name in enumerate(dict.fromkeys(region.name for region in given.regions))}
        paths = {path: code for code, path in enumerate(dict.fromkeys(region.image_path for region in given.regions))}
        areas = [np.nan if region.stated_area is None else region.stated_area for region in given.regions]
        return cls(
            names=tuple(names),
            images=np.array([os.fsencode(path) for path in paths], dtype=bytes),
            readers=(given,),
            name=np.array([names[region.name] for region in given.regions], dtype=np.int32),
            image=np.array([paths[region.image_path] for region in given.regions], dtype=np.int32),
            stated_area=np.array(areas, dtype=np.float64),
            crowd=np.array([region.crowd for region in given.regions], dtype=bool),
            reader=np.zeros(len(given.regions), dtype=np.int32),
            record=np.arange(len(given.regions), dtype=np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence[Regions]) -> Regions:
        """Return the regions of several sets, one set after the other; classes are matched by name, images by path."""
        names = {name: code for code, name in enumerate(dict.fromkeys(name for part in parts for name in part.names))}
        images, new = np.unique(np.concatenate([part.images for part in parts]), return_inverse=True)
        places = np.split(new.astype(np.int32), np.cumsum([len(part.images) for part in parts]))
        readers = np.cumsum([0, *(len(part.readers) for part in parts)], dtype=np.int32)
        return cls(
            names=tuple(names),
            images=images,
            readers=tuple(reader for part in parts for reader in part.readers),
            name=np.concatenate([part.numbered(names) for part in parts]),
            image=np.concatenate([places[i][part.image] for i, part in enumerate(parts)]),
            stated_area=np.concatenate([part.stated_area for part in parts]),
            crowd=np.concatenate([part.crowd for part in parts]),
            reader=np.concatenate([readers[i] + part.reader for i, part in enumerate(parts)]),
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
        reader, record = self.readers[self.reader[number]], int(self.record[number])
        image_path = self.image_path(number)
        image_id, region_id = reader.ids(record)
        area = float(self.stated_area[number])
        return LabelledRegion(
            image_path=image_path,
            image_id=image_id,
            region_id=region_id,
            name=self.names[self.name[number]],
            stated_area=None if np.isnan(area) else area,
            crowd=bool(self.crowd[number]),
            read_mask=partial(reader.read_mask, record, image_path),
        )

    def image_path(self, number: SupportsIndex) -> Path:
        """Return the image file of a region."""
        return Path(os.fsdecode(self.images[self.image[index(number)]]))

    def only(self, chosen: Bool[np.ndarray, " regions"] | Int[np.ndarray, " chosen"]) -> Regions:
        """Return some of the regions.

        Args:
            chosen: for every region whether it stays; or the numbers of those that stay, in the order wanted.
        """
        columns = ("name", "image", "stated_area", "crowd", "reader", "record")
        return replace(self, **{column: getattr(self, column)[chosen] for column in columns})

    def read_image(self, number: SupportsIndex) -> Pixels:
        """Read the image of a region.

        Raises:
            ImageError: the file cannot be read.
        """
        reader = self.readers[self.reader[index(number)]]
        if isinstance(reader, _Given):
            image = reader.regions[int(self.record[index(number)])].image
            if image is not None:
                return image
        return load_image(self.image_path(number))

    def numbered(self, numbers: Mapping[str, int]) -> Int32[np.ndarray, " regions"]:
        """Return the number of each region's class; -1 if it has none.

        Args:
            numbers: number of each class.
        """
        return np.array([numbers.get(name, -1) for name in self.names], dtype=np.int32)[self.name]

    def called(self, names: Collection[str]) -> Bool[np.ndarray, " regions"]:
        """Return which regions are of some classes."""
        return self.numbered(dict.fromkeys(names, 0)) == 0

    def counts(self) -> dict[str, int]:
        """Return the number of regions of each class that has any."""
        counts = np.bincount(self.name, minlength=len(self.names)).tolist()
        return {name: count for name, count in zip(self.names, counts, strict=True) if count}

    def areas(self) -> Float64[np.ndarray, " regions"]:
        """Return areas that the annotations state, else those of the masks, which are read; pixels."""
        areas = self.stated_area.copy()
        for number in np.flatnonzero(np.isnan(areas)).tolist():
            areas[number] = self[number].area
        return areas

    def renamed(self, names: Mapping[str, str]) -> Regions:
        """Return the regions with classes renamed; others keep their names."""
        new = [names.get(name, name) for name in self.names]
        numbers = {name: code for code, name in enumerate(dict.fromkeys(new))}
        codes = np.array([numbers[name] for name in new], dtype=np.int32)
        return replace(self, names=tuple(numbers), name=codes[self.name])

    def by_image(self) -> Iterator[Int64[np.ndarray, " of_image"]]:
        """Yield the numbers of each image's regions, images in order of first mention."""
        return grouped(self.image)


def by_first_mention(codes: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Replace values by 0, 1, 2, ... in order of first mention.

    >>> by_first_mention(np.array([7, 3, 7, 5])).tolist()
    [0, 1, 0, 2]
    """
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def grouped(codes: Int[np.ndarray, " n"]) -> Iterator[Int64[np.ndarray, " of_value"]]:
    """Yield the positions of each value, values in order of first mention.

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
    """Reads the masks of regions that are objects already."""

    regions: tuple[LabelledRegion, ...]

    def ids(self, record: int, /) -> tuple[Id, Id]:
        return self.regions[record].image_id, self.regions[record].region_id

    def read_mask(self, record: int, _: Path, /) -> Mask:
        return self.regions[record].read_mask()


def _same(mask: Mask) -> Mask:
    return mask


@dataclass(frozen=True, eq=False)
class RegionSet:
    """Labelled regions and the classes that they may have.

    Attributes:
        categories: the classes.
        regions: in the annotations' order, those of an image together.
        notes: remarks for a person, such as what was left out when reading.
        problems: faulty records that were left out when reading.
    """

    categories: tuple[Category, ...]
    regions: Regions
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @classmethod
    def from_arrays(
        cls,
        images: Sequence[np.ndarray],
        masks: Sequence[Sequence[np.ndarray | Mask] | np.ndarray],
        names: Sequence[Sequence[str]],
    ) -> RegionSet:
        """Return labelled regions of images in memory, for `evaluate` and `fit_classes`.

        Args:
            images: each height x width x 3, uint8, RGB.
            masks: for each image its regions: N x height x width, or a sequence of such arrays or of `Mask`.
            names: for each image the classes of its regions.

        Raises:
            ImageError: an image has another shape or type.
            MaskError: a mask has another size than its image or no pixel set; the message has both indices.
            AnnotationError: the numbers of images, masks and names differ.

        >>> image, mask = np.zeros((4, 6, 3), dtype=np.uint8), np.eye(4, 6, dtype=bool)
        >>> RegionSet.from_arrays([image], [[mask]], [["diagonal"]]).regions.counts()
        {'diagonal': 1}
        """
        if not len(images) == len(masks) == len(names):
            raise AnnotationError(
                f"{len(images)} images, masks of {len(masks)} and names of {len(names)}; give the same number of each"
            )
        regions = []
        for number, (image, of_image, classes) in enumerate(zip(images, masks, names, strict=True)):
            if len(of_image) != len(classes):
                raise AnnotationError(f"image {number} has {len(of_image)} masks and {len(classes)} names")
            pixels = check_pixels(image)
            for place, (given, name) in enumerate(zip(of_image, classes, strict=True)):
                with naming_mask(f"image {number}, mask {place}"):
                    mask = given if isinstance(given, Mask) else Mask.from_array(np.asarray(given))
                    check_size(mask, (pixels.shape[0], pixels.shape[1]))
                read = partial(_same, mask)
                path = Path(f"image {number}")
                regions.append(LabelledRegion(path, number, place, name, None, False, read, image=pixels))
        classes_of_all = dict.fromkeys(region.name for region in regions)
        categories = tuple(Category(number, name) for number, name in enumerate(classes_of_all))
        return cls(categories, Regions.of(regions))

    def renamed(self, names: Mapping[str, str]) -> RegionSet:
        """Return the set with classes renamed; two classes of one new name become one.

        Raises:
            AnnotationError: a name to be replaced is not a class here.
        """
        self._refuse_unknown(names, "rename")
        first = {names.get(c.name, c.name): c for c in reversed(self.categories)}
        categories = tuple(replace(c, name=name) for name, c in reversed(first.items()))
        return replace(self, categories=categories, regions=self.regions.renamed(names))

    def without(self, names: Sequence[str]) -> RegionSet:
        """Return the set without some classes and their regions.

        Raises:
            AnnotationError: a name is not a class here.
        """
        self._refuse_unknown(names, "ignore")
        categories = tuple(c for c in self.categories if c.name not in names)
        return replace(self, categories=categories, regions=self.regions.only(~self.regions.called(names)))

    def as_single_objects(self) -> RegionSet:
        """Return the set with no region marked as a crowd."""
        return replace(self, regions=replace(self.regions, crowd=np.zeros(len(self.regions), dtype=bool)))

    def only(self, chosen: Bool[np.ndarray, " regions"] | Int[np.ndarray, " chosen"]) -> RegionSet:
        """Return the set with some of the regions and all classes; see `Regions.only`."""
        return replace(self, regions=self.regions.only(chosen))

    def _refuse_unknown(self, names: Sequence[str] | Mapping[str, str], verb: str) -> None:
        known = [c.name for c in self.categories]
        for name in names:
            if name not in known:
                raise AnnotationError(f"cannot {verb} class {name!r}: the classes here are {', '.join(known)}")


def read_by_image(
    regions: Sequence[LabelledRegion],
    *,
    skip: tuple[type[InputError], ...] = (),
    problems: list[Problem] | None = None,
) -> Iterator[tuple[list[int], Pixels, list[Mask]]]:
    """Yield each image once, in order of first mention, with the numbers of its regions and their masks.

    The next image is read while one is in use. At the first fault that is not skipped, the rest is read too, and all
    faults are raised together.

    Args:
        regions: the regions.
        skip: kinds of faults whose regions are left out.
        problems: gets the skipped faults.

    Raises:
        ImageError, MaskError, AnnotationError: the only fault; the message names the region or image.
        AnnotationError: several faults, listed.
    """
    return prefetch(_read_by_image(Regions.of(regions), skip, [] if problems is None else problems))


def _read_by_image(
    regions: Regions, skip: tuple[type[InputError], ...], problems: list[Problem]
) -> Iterator[tuple[list[int], Pixels, list[Mask]]]:
    groups = list(map(np.ndarray.tolist, regions.by_image()))
    for place, numbers in enumerate(groups):
        image, masks, faults = _read_image(regions, numbers)
        if any(not isinstance(error, skip) for error, _ in faults):
            _raise_all(regions, groups[place:])
        problems += [problem for _, problem in faults]
        if image is not None and masks:
            yield list(masks), image, list(masks.values())


def _read_image(
    regions: Regions, numbers: Sequence[int]
) -> tuple[Pixels | None, dict[int, Mask], list[tuple[InputError, Problem]]]:
    """Return an image, the masks of its regions by number, and the faults of the others."""
    first = regions[numbers[0]]
    try:
        image = regions.read_image(numbers[0])
    except ImageError as error:
        return None, {}, [(error, Problem(str(error), first.image_id))]
    masks, faults = {}, []
    for number in numbers:
        region = regions[number]
        try:
            masks[number] = region.mask_of(image.shape[:2])
        except InputError as error:
            faults.append((error, Problem(str(error), region.image_id, region.region_id)))
    return image, masks, faults


def _raise_all(regions: Regions, groups: Sequence[Sequence[int]]) -> NoReturn:
    """Raise the faults of some images: one as it is, several as a list."""
    faults = [fault for numbers in groups for fault in _read_image(regions, numbers)[2]]
    if len(faults) > 1:
        refuse([problem for _, problem in faults])
    raise faults[0][0]
