"""A COCO file and its images in blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maskwise.data.coco_file import CocoFile
from maskwise.data.coco_index import index_of, json_text, value_of
from maskwise.data.image_blocks import Sample, cut, hash_of, raw_section, text_at, text_column
from maskwise.data.image_paths import find_each_image
from maskwise.data.locations import file_stamp, is_url, joined, read_file, read_ranges
from maskwise.data.problems import Problem
from maskwise.errors import AnnotationError


class CocoBlocks:
    """The images of a COCO file in the file's order, those without annotations too.

    It holds columns only: workers read outlines from the file, in one read per block. The last block holds the
    annotations that are of no image, if there are any.
    """

    def __init__(self, location: str, images: str, size: int, *, allow_outside: bool = False) -> None:
        """Index a COCO file.

        Args:
            location: path or URL of the file, under which workers find it too.
            images: folder of the images, path or URL.
            size: number of images per block.
            allow_outside: whether file names may leave the folder.

        Raises:
            AnnotationError: not a COCO file as a whole, or there is no such folder.
        """
        path = Path(location)
        text = read_file(location, AnnotationError, "annotation file") if is_url(location) else json_text(path)
        coco = CocoFile(path, index_of(path, text), text if isinstance(text, bytes) else None)
        index = coco.index
        self.categories = raw_section(text, "categories")
        self.problems: list[Problem] = coco.problems
        # Where a file is not UTF-8, places in the text are none in the file; such files are small enough to carry.
        self._text = text if isinstance(text, bytes) and not is_url(location) else None
        self._location, self._images = location, images
        self._order = np.argsort(index.image, kind="stable")
        self._first = np.searchsorted(index.image[self._order], np.arange(len(index.image_id) + 1))
        self._ids, self._start, self._length = index.image_id, index.start, index.length
        self._height, self._width, self._names = index.height, index.width, index.file_name
        self._paths, self._faults = _paths(coco, images, allow_outside)
        self._cuts = cut(len(self._ids), size)

    def __len__(self) -> int:
        return len(self._cuts) + bool(self._first[0])

    def size(self, block: int) -> int:
        """Return the number of images of a block."""
        first, end = self._cuts[block] if block < len(self._cuts) else (0, 0)
        return end - first

    def key(self, block: int) -> str:
        """Return a hash of the block's records and of the sizes and times of its images."""
        return hash_of(self._parts(block))

    def _parts(self, block: int) -> Iterator[bytes | str]:
        for sample in self.read(block):
            yield repr(sample.image)
            yield file_stamp(sample.location)
            yield sample.fault or ""
            yield str(len(sample.records))
            yield from sample.records

    def read(self, block: int) -> Iterator[Sample]:
        """Yield the images of a block."""
        if block == len(self._cuts):
            orphans = self._order[: self._first[0]]
            faults = {problem.row: problem.message for problem in self.problems}
            for row, record in zip(orphans.tolist(), self._records(orphans), strict=True):
                yield Sample(None, self._location, [record], fault=faults.get(row, "is of no image"))
            return
        first, end = self._cuts[block]
        records = iter(self._records(self._order[self._first[first] : self._first[end]]))
        for image in range(first, end):
            count = int(self._first[image + 1] - self._first[image])
            yield self._sample(image, [next(records) for _ in range(count)])

    def _sample(self, image: int, records: list[bytes]) -> Sample:
        name = self._names[image].decode("utf-8", "surrogatepass")
        record: dict[str, Any] = {"id": value_of(self._ids, image), "file_name": name}
        if not np.isnan(self._width[image] + self._height[image]):
            record |= {"width": int(self._width[image]), "height": int(self._height[image])}
        location = joined(self._images, name) if self._paths is None else text_at(self._paths, image)
        return Sample(record, location, records, fault=self._faults.get(image) if records else None)

    def _records(self, rows: np.ndarray) -> list[bytes]:
        starts, lengths = self._start[rows].tolist(), self._length[rows].tolist()
        if self._text is not None:
            return [self._text[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        return read_ranges(self._location, starts, lengths)


def _paths(coco: CocoFile, images: str, allow_outside: bool) -> tuple[np.ndarray | None, dict[int, str]]:
    """Return the path of every image, and why there is none; no paths for a URL, where names are taken as they are."""
    names = range(len(coco.index.file_name))
    if is_url(images):
        parts = {image: os.path.normpath(coco.file_name(image)).split("/")[0] for image in names}
        left = [image for image, first in parts.items() if first in ("..", "") and not allow_outside]
        return None, {image: f"{coco.file_name(image)}: leaves the folder {images}" for image in left}
    found = find_each_image(coco, images, names, allow_outside=allow_outside)
    faults = {image: str(path) for image, path in enumerate(found) if isinstance(path, AnnotationError)}
    return text_column(["" if isinstance(path, AnnotationError) else path for path in found]), faults
