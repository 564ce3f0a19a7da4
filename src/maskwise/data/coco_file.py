"""COCO JSON files: indexed and checked once; masks are read on demand."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from maskwise.data.coco_index import CocoIndex, cached_index, index_of, json_text, value_of
from maskwise.data.images import MAX_PIXELS, MAX_SIDE, image_size
from maskwise.data.masks import Mask, check_size
from maskwise.data.problems import Id, OnError, Problem, refuse
from maskwise.data.regions import Category
from maskwise.data.segmentations import is_empty, mask_of_segmentation
from maskwise.errors import AnnotationError, MaskError, naming_mask

CACHE_VARIABLE = "MASKWISE_CACHE"
"""Environment variable that may name a folder for the indexes of COCO files."""


class _Outline(msgspec.Struct):
    """What an annotation says of its mask."""

    id: Id
    segmentation: Any = None
    bbox: Any = None


class _RawOutline(msgspec.Struct):
    segmentation: Raw = Raw(b"null")
    bbox: Raw = Raw(b"null")


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A COCO file, with every record that Maskwise relies on checked. Annotations go by their row in the file.

    Attributes:
        path: where it was read.
        index: its images, annotations and categories, without the outlines.
        text: the JSON, where it is not what the file holds byte for byte; else outlines are read from the file.
    """

    path: Path
    index: CocoIndex
    text: bytes | None = None

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes, in the file's order; none where the file has no 'categories'."""
        ids, names = self.index.category_id, self.index.category_name
        return tuple(Category(value_of(ids, row), name.decode()) for row, name in enumerate(names))

    @property
    def problems(self) -> list[Problem]:
        """Faults of records, in the order of the lists."""
        return [Problem(**json.loads(text)) for text in self.index.problems.tolist()]

    def file_name(self, image: int) -> str:
        """Return the file name of an image, by its row."""
        return self.index.file_name[image].decode("utf-8", "surrogatepass")

    def ids(self, annotation: int, /) -> tuple[Id, Id]:
        """The id of the annotation's image, and its own."""
        index = self.index
        return value_of(index.image_id, int(index.image[annotation])), value_of(index.annotation_id, annotation)

    def read_mask(self, annotation: int, image_path: Path, /) -> Mask:
        """Read the mask of an annotation in the size that the file states, else in that of the image.

        Args:
            annotation: its row.
            image_path: the image file.

        Raises:
            AnnotationError: the annotation cannot be read again.
            MaskError: see `mask`.
            ImageError: the file does not state the size, and the image cannot be read.
        """
        height, width = self._stated_hw(annotation)
        stated = not np.isnan(height + width)
        if stated and not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and height * width <= MAX_PIXELS):
            raise MaskError(
                f"{self.path}: annotation id {self.ids(annotation)[1]} is of an image of {width:.12g} x {height:.12g}"
                f" pixels by the file; accepted are {MAX_PIXELS:,} in all and {MAX_SIDE:,} a side"
            )
        return self.mask(annotation, (int(height), int(width)) if stated else image_size(image_path))

    def mask(self, annotation: int, image_hw: tuple[int, int]) -> Mask:
        """Read the mask of an annotation: its polygons or run lengths, else its box.

        Args:
            annotation: its row.
            image_hw: the image's height and width, pixels.

        Raises:
            AnnotationError: the annotation cannot be read again.
            MaskError: no segmentation and no box, a malformed or empty one, or the file states another size of the
                image; the message names the annotation.
        """
        where = f"{self.path}: annotation id {value_of(self.index.annotation_id, annotation)}"
        check_stated_size(where, self._stated_hw(annotation), image_hw)
        outline = self._outline(annotation)
        return mask_of_outline(where, outline.segmentation, outline.bbox, image_hw)

    def _stated_hw(self, annotation: int) -> tuple[float, float]:
        image = self.index.image[annotation]
        return float(self.index.height[image]), float(self.index.width[image])

    def _outline(self, annotation: int) -> _Outline:
        expected = value_of(self.index.annotation_id, annotation)
        try:
            outline = msgspec.json.decode(self.record(annotation), type=_Outline)
        except (OSError, ValueError) as error:
            raise AnnotationError(f"{self.path}: annotation id {expected} cannot be read ({error})") from error
        if outline.id != expected:
            raise AnnotationError(f"{self.path}: has changed since it was opened; start again")
        return outline

    def outline_text(self, annotation: int) -> bytes:
        """Return the JSON of an annotation's outline, of which its mask depends; the whole record if it is faulty."""
        record = self.record(annotation)
        try:
            outline = msgspec.json.decode(record, type=_RawOutline)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return record
        return bytes(outline.segmentation) + b" " + bytes(outline.bbox)

    def file_state(self) -> tuple[int, int, int]:
        """Return what changes when the file is replaced or written to."""
        stat = os.stat(self.path)
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def record(self, annotation: int) -> bytes:
        """Return the JSON of an annotation."""
        start, length = int(self.index.start[annotation]), int(self.index.length[annotation])
        if self.text is not None:
            return self.text[start : start + length]
        with open(self.path, "rb") as file:  # Opened each time, so that workers share no position.
            file.seek(start)
            return file.read(length)


def check_stated_size(where: str, stated_hw: tuple[float, float], image_hw: tuple[int, int]) -> None:
    """Refuse an image of another size than its record states.

    Args:
        where: stands before the message.
        stated_hw: height and width by the record, pixels; not numbers where it does not state them.
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: the sizes differ.
    """
    height, width = np.where(np.isnan(stated_hw), image_hw, stated_hw).tolist()
    if height != width and (height, width) == tuple(image_hw)[::-1]:
        raise MaskError(
            f"{where}: width and height are swapped: the file states {width:.12g} x {height:.12g}, the image turned"
            f" upright by its EXIF orientation has {image_hw[1]} x {image_hw[0]}; if the outlines are upright, swap"
            " them in the file"
        )
    if (height, width) != tuple(image_hw):
        raise MaskError(
            f"{where} is of an image of {width:.12g} x {height:.12g} pixels by the file, but the image has"
            f" {image_hw[1]} x {image_hw[0]} (width x height); give the image that was annotated"
        )


def mask_of_outline(where: str, segmentation: Any, bbox: Any, image_hw: tuple[int, int]) -> Mask:
    """Return the mask of an annotation: its polygons or run lengths, else its box.

    Args:
        where: stands before messages.
        segmentation: of the annotation, in any form that tools write; None or empty where it has none.
        bbox: x, y, width, height, pixels; None where it has none.
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: no segmentation and no box, or a malformed or empty one.
    """
    with naming_mask(where):
        if not is_empty(segmentation):
            mask = mask_of_segmentation(segmentation, image_hw)
            check_size(mask, image_hw)
            return mask
        if bbox is not None and bbox != []:
            return Mask.from_box(_box(bbox), image_hw)
    raise MaskError(f"{where} has neither 'segmentation' nor 'bbox'")


def _box(value: Any) -> list[float]:
    if not isinstance(value, list) or not all(isinstance(one, (int, float)) for one in value):
        raise MaskError(f"'bbox' has {str(value)[:40]!r}; accepted is [x, y, width, height]")
    return value


def read_coco(
    path: str | os.PathLike[str],
    *,
    labelled: bool,
    on_error: OnError = "stop",
    cache: str | os.PathLike[str] | None = None,
) -> CocoFile:
    """Index a COCO file.

    Args:
        path: the JSON file.
        labelled: whether every annotation must have a known category.
        on_error: `stop` refuses a file with faulty records and lists them all; `skip` leaves them in `problems`.
        cache: folder that keeps indexes, each under the hash of its file's bytes (default: the folder that the
            environment variable `MASKWISE_CACHE` names, if any).

    Raises:
        AnnotationError: not JSON, not COCO's form as a whole; or faulty records, which the message lists.
        InputError: the index cannot be kept there.
    """
    path = Path(path)
    text = json_text(path)
    cache = cache or os.environ.get(CACHE_VARIABLE)
    index = cached_index(path, text, Path(cache)) if cache else index_of(path, text)
    coco = CocoFile(path, index, text if isinstance(text, bytes) else None)
    if on_error == "stop":
        refuse([*coco.problems, *(label_problems(coco) if labelled else [])])
    elif labelled:
        _check_categories(coco)
    return coco


def label_problems(coco: CocoFile, *, unnamed: bool = True) -> list[Problem]:
    """Return a problem for each usable annotation without a known category.

    Args:
        coco: the file.
        unnamed: whether having no category at all is a problem.

    Raises:
        AnnotationError: the file has no list of categories.
    """
    _check_categories(coco)
    problems = []
    for row in np.flatnonzero((coco.index.category < 0) & (coco.index.image >= 0)).tolist():
        record = msgspec.json.decode(coco.record(row), type=dict[str, Raw])
        category_id = msgspec.json.decode(record.get("category_id", b"null"))
        if category_id is None and not unnamed:
            continue
        image_id, annotation_id = coco.ids(row)
        shown = category_id if category_id is None else json.dumps(category_id)
        message = f"{coco.path}: annotation id {annotation_id} has category_id {shown}, which is not among 'categories'"
        problems.append(Problem(message, image_id, annotation_id, row))
    return problems


def _check_categories(coco: CocoFile) -> None:
    if not coco.index.has_categories:
        raise AnnotationError(f"{coco.path}: has no list 'categories'; a COCO file needs it")
