"""Listed images in blocks: with a JSON file of segments for each, or with the segments in the list itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from maskwise.data.image_blocks import Sample, cut, hash_of, parsed, sample_of, text_at, text_column
from maskwise.data.images import IMAGE_SUFFIXES
from maskwise.data.locations import (
    Entry,
    base_name,
    file_stamp,
    files_in,
    joined,
    opened,
    read_file,
    read_ranges,
)
from maskwise.errors import AnnotationError


class PairBlocks:
    """Images that each have a JSON file of segments under their name: what SAM writes, or SA-1B."""

    categories = b"[]"

    def __init__(self, images: Sequence[Entry], folder: str, segments: str | None, size: int) -> None:
        """List the images.

        Args:
            images: path or URL of each.
            folder: what their names in the output are relative to.
            segments: folder of the JSON files (default: that of each image).
            size: number of images per block.
        """
        chosen = [one for one in images if one.location.lower().endswith(IMAGE_SUFFIXES)]
        self._images = text_column([one.location for one in chosen])
        self._stamps = text_column([one.stamp for one in chosen])
        self._folder, self._segments = folder.rstrip("/") + "/", segments
        self._cuts = cut(len(chosen), size)

    def __len__(self) -> int:
        return len(self._cuts)

    def size(self, block: int) -> int:
        """Return the number of images of a block."""
        return self._cuts[block][1] - self._cuts[block][0]

    def key(self, block: int) -> str:
        """Return a hash of names, sizes and times of the images and of their segments."""
        places = range(*self._cuts[block])
        images = [text_at(self._images, place) for place in places]
        stamps = [text_at(self._stamps, place) for place in places]
        segments = [file_stamp(self._segments_of(image)) for image in images]
        return hash_of([*map(self._name_of, images), *stamps, *segments])

    def read(self, block: int) -> Iterator[Sample]:
        """Yield the images of a block."""
        for place in range(*self._cuts[block]):
            location = text_at(self._images, place)
            name, segments = self._name_of(location), self._segments_of(location)
            try:
                content = parsed(read_file(segments, AnnotationError, "file of segments"))
            except AnnotationError as error:
                yield Sample({"id": name, "file_name": name}, location, [], fault=str(error))
            else:
                yield sample_of(content, location, name, name)

    def _name_of(self, image: str) -> str:
        return image.removeprefix(self._folder)

    def _segments_of(self, image: str) -> str:
        beside = image[: image.rindex(".")] + ".json"
        return beside if self._segments is None else joined(self._segments, base_name(beside))


class LineBlocks:
    """A list in JSON lines, one image per line: `{"image": "a.jpg", "annotations": [...]}`.

    `image` may be a COCO record with `id` and `file_name`, too. Names are relative to the folder of images.
    """

    categories = b"[]"

    def __init__(self, location: str, images: str, size: int) -> None:
        """Find the lines.

        Args:
            location: path or URL of the list, under which workers find it too.
            images: folder of the images, path or URL.
            size: number of images per block.

        Raises:
            OSError: the list cannot be read.
        """
        self._location, self._images = location, images
        starts, lengths, position = [], [], 0
        with opened(location) as file:
            for line in file:
                if line.strip():
                    starts.append(position)
                    lengths.append(len(line))
                position += len(line)
        self._starts, self._lengths = np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64)
        self._cuts = cut(len(starts), size)

    def __len__(self) -> int:
        return len(self._cuts)

    def size(self, block: int) -> int:
        """Return the number of images of a block."""
        return self._cuts[block][1] - self._cuts[block][0]

    def key(self, block: int) -> str:
        """Return a hash of the lines and of the sizes and times of the images."""
        return hash_of([*self._lines(block), *(file_stamp(sample.location) for sample in self.read(block))])

    def _lines(self, block: int) -> list[bytes]:
        places = slice(*self._cuts[block])
        return read_ranges(self._location, self._starts[places].tolist(), self._lengths[places].tolist())

    def read(self, block: int) -> Iterator[Sample]:
        """Yield the images of a block."""
        for number, line in enumerate(self._lines(block), start=self._cuts[block][0] + 1):
            yield self._sample(parsed(line), f"{self._location}: line {number}")

    def _sample(self, content: Any, where: str) -> Sample:
        image = content.get("image") if isinstance(content, dict) else None
        name = image.get("file_name") if isinstance(image, dict) else image
        if not isinstance(name, str):
            return Sample(None, where, [], fault=f'{where} is not of the form {{"image": NAME, "annotations": [...]}}')
        return sample_of(content, joined(self._images, name), name, name)


def images_of_list(location: str, folder: str) -> list[Entry]:
    """Return the images of a text file that has a path or URL per line.

    Args:
        location: path or URL of the list.
        folder: what relative paths are relative to.
    """
    lines = read_file(location, AnnotationError, "list of images").decode("utf-8", "surrogateescape").splitlines()
    places = [joined(folder, line.strip()) for line in lines if line.strip()]
    return [Entry(place, file_stamp(place)) for place in places]


def images_in(folder: str) -> list[Entry]:
    """Return the images of a folder, path or URL."""
    return [one for one in files_in(folder) if one.location.lower().endswith(IMAGE_SUFFIXES)]
