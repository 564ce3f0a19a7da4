"""Images and their annotations in blocks: what a worker reads, names and writes at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

from maskwise.data.coco_file import check_stated_size, mask_of_outline
from maskwise.data.images import GIVEN, Pixels, load_image
from maskwise.data.locations import is_url, read_file
from maskwise.data.masks import Mask
from maskwise.data.problems import Id, OnError, Problem
from maskwise.errors import AnnotationError, ImageError, MaskError

EMPTY_PIXELS = np.zeros((1, 1, 3), dtype=np.uint8)
"""Stands for an image that cannot be read, or need not be."""


class _Outline(msgspec.Struct):
    id: Id | UnsetType = UNSET
    segmentation: Any = None
    bbox: Any = None


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """An image and its annotations, not read yet.

    Attributes:
        image: its record as in COCO's `images`; None for annotations of no image.
        location: path or URL of the image.
        records: the annotations, JSON.
        content: the bytes of the image file, if they are at hand.
        fault: why none of it can be used, if so.
    """

    image: dict[str, Any] | None
    location: str
    records: list[bytes]
    content: bytes | None = None
    fault: str | None = None


@dataclass(frozen=True, eq=False)
class ReadSample:
    """An image and its masks, as far as they can be read.

    Attributes:
        sample: what was read.
        pixels: the image.
        masks: of the annotations, None where there is a problem.
        problems: the faults, with `row` as the place among the annotations.
    """

    sample: Sample
    pixels: Pixels
    masks: list[Mask | None]
    problems: list[Problem] = field(default_factory=list)

    @property
    def usable(self) -> list[Mask]:
        """The masks that can be named."""
        return [mask for mask in self.masks if mask is not None]


@runtime_checkable
class Blocks(Protocol):
    """A data set in blocks. A copy by pickle reads the same in another process, on another machine too."""

    def __len__(self) -> int:
        """Return the number of blocks."""

    def size(self, block: int, /) -> int:
        """Return the number of images of a block; 0 if it is not known before it is read."""

    def key(self, block: int, /) -> str:
        """Return a hash that changes with what the block holds.

        Raises:
            InputError: the block cannot be read.
        """

    def read(self, block: int, /) -> Iterator[Sample]:
        """Yield the images of a block, in order.

        Raises:
            InputError: the block cannot be read.
        """

    @property
    def categories(self) -> bytes:
        """The JSON list of the categories that the data set brings."""


def read_sample(sample: Sample, on_error: OnError) -> ReadSample:
    """Read an image and its masks; faults become problems.

    Raises:
        AnnotationError, ImageError, MaskError: a fault, if `on_error` is `stop`; the message names the record.
    """
    image_id = None if sample.image is None else sample.image.get("id")
    outlines = [_outline_of(record) for record in sample.records]
    ids: list[Id | None] = [
        None if outline is None or isinstance(outline.id, UnsetType) else outline.id for outline in outlines
    ]
    try:
        if sample.fault is not None:
            raise AnnotationError(sample.fault)
        if not outlines:
            return ReadSample(sample, EMPTY_PIXELS, [])
        pixels = _pixels(sample)
    except (AnnotationError, ImageError) as error:
        if on_error == "stop":
            raise
        problems = [Problem(str(error), image_id, one, row) for row, one in enumerate(ids)]
        return ReadSample(sample, EMPTY_PIXELS, [None] * len(ids), problems or [Problem(str(error), image_id)])
    read = ReadSample(sample, pixels, [])
    for row, outline in enumerate(outlines):
        try:
            read.masks.append(_mask(sample, outline, ids[row], (pixels.shape[0], pixels.shape[1])))
        except (MaskError, AnnotationError) as error:
            if on_error == "stop":
                raise
            read.masks.append(None)
            read.problems.append(Problem(str(error), image_id, ids[row], row))
    return read


def _outline_of(record: bytes) -> _Outline | None:
    try:
        return msgspec.json.decode(record, type=_Outline)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _pixels(sample: Sample) -> Pixels:
    if sample.content is None and not is_url(sample.location):
        return load_image(sample.location)
    content = read_file(sample.location) if sample.content is None else sample.content
    try:
        return load_image(content)
    except ImageError as error:
        raise ImageError(str(error).replace(GIVEN, sample.location, 1)) from error


def _mask(sample: Sample, outline: _Outline | None, annotation_id: Id | None, image_hw: tuple[int, int]) -> Mask:
    where = f"{sample.location}: annotation id {json.dumps(annotation_id)}"
    if outline is None:
        raise AnnotationError(f"{sample.location}: has an annotation that is not of COCO's form")
    stated = [None if sample.image is None else sample.image.get(key) for key in ("height", "width")]
    height, width = (float(value) if isinstance(value, (int, float)) else np.nan for value in stated)
    check_stated_size(where, (height, width), image_hw)
    return mask_of_outline(where, outline.segmentation, outline.bbox, image_hw)


def hash_of(parts: Iterable[bytes | str]) -> str:
    """Return the SHA-256 of texts, of each and of their order."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(b"%d " % len(content) + content)
    return digest.hexdigest()


def sample_of(content: Any, location: str, name: str, image_id: Id, *, image: bytes | None = None) -> Sample:
    """Return the sample of an image that has a JSON file to itself, as SAM's lists and SA-1B's files.

    Annotations without ids are numbered from 1.

    Args:
        content: the JSON: a list of annotations, or an object with `annotations` and perhaps `image`.
        location: path or URL of the image.
        name: file name for the output.
        image_id: unless the JSON has one.
        image: the bytes of the image file, if they are at hand.
    """
    record: dict[str, Any] = {"id": image_id, "file_name": name}
    annotations = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(annotations, list):
        fault = f"{location}: its segments are neither a list nor an object with 'annotations'"
        return Sample(record, location, [], image, fault)
    stated = content.get("image") if isinstance(content, dict) else None
    if isinstance(stated, dict):
        record |= {key: stated[key] for key in ("width", "height") if key in stated}
        record["id"] = next((stated[key] for key in ("id", "image_id") if key in stated), image_id)
    records = [_with_ids(one, record["id"], number) for number, one in enumerate(annotations, start=1)]
    return Sample(record, location, records, image)


def _with_ids(record: Any, image_id: Id, number: int) -> bytes:
    if isinstance(record, dict):
        record = {"id": number, "image_id": image_id, **record}
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")


def parsed(content: bytes | str) -> Any:
    """Return the value of a JSON text; None if it is not JSON.

    >>> parsed(b"[1]"), parsed(b"[1")
    ([1], None)
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def cut(count: int, size: int) -> list[tuple[int, int]]:
    """Return the first and last place plus one of each block.

    >>> cut(5, 2)
    [(0, 2), (2, 4), (4, 5)]
    """
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def text_column(texts: Sequence[str]) -> np.ndarray:
    """Return texts as one array, which processes of a machine can share."""
    return np.array([text.encode("utf-8", "surrogatepass") for text in texts], dtype=bytes)


def text_at(column: np.ndarray, row: int) -> str:
    """Return a text of a column."""
    return bytes(column[row]).decode("utf-8", "surrogatepass")


def raw_section(text: Any, name: str) -> bytes:
    """Return a section of a JSON object as it stands; an empty list if there is none."""
    section = msgspec.json.decode(text, type=dict[str, Raw]).get(name)
    return b"[]" if section is None else bytes(section)
