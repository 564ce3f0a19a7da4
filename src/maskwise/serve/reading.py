"""Uploaded files to arrays: photographs, masks and files of segments, within the limits."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
from fastapi import UploadFile

from maskwise.data.image_paths import rows_of_image
from maskwise.data.images import DECODING_ERRORS, Pixels, image_size, load_image, open_limited
from maskwise.data.masks import Mask, check_size, read_mask_file
from maskwise.data.segment_files import read_segments
from maskwise.data.segmentations import mask_of_segmentation
from maskwise.errors import InputError, MaskError, naming_mask
from maskwise.serve.bodies import MEGABYTE
from maskwise.serve.schemas import BoxRegion, PolygonRegion, Prompt, PromptRegion, Region, RleRegion
from maskwise.serve.settings import Limits

MAX_NAME = 100
"""Maximum number of characters of a file's name."""
BYTES_PER_PIXEL = 20
"""Memory that a photograph takes while it is read and its regions are cropped: decoder, pixels, integral image."""
BYTES_PER_JSON = 10
"""Memory that a JSON file takes while it is read, per byte."""


class TooLargeError(InputError):
    """Something is larger than this server accepts."""


@dataclass(frozen=True, eq=False)
class GivenRegion:
    """A region of a request.

    Attributes:
        name: what to call it in the answer.
        mask: where it is; None until the segmenter has outlined it.
        prompt: what the segmenter is to outline; None if the mask was given.
        given: the name that a file of segments gives to it.
        predicted_iou: of an outline of the segmenter, 0 to 1.
    """

    name: str
    mask: Mask | None = None
    prompt: Prompt | None = None
    given: str | None = None
    predicted_iou: float | None = None


def save(upload: UploadFile, folder: Path, default: str) -> Path:
    """Write an uploaded file into a folder of its own; returns its path, which ends in the client's name for it.

    Args:
        upload: the file.
        folder: where.
        default: its name if the client gave none that can be used.
    """
    own = folder / str(sum(1 for _ in folder.iterdir()))
    own.mkdir()
    path = own / file_name(upload.filename or "", default)
    with open(path, "wb") as file:
        shutil.copyfileobj(upload.file, file)
    return path


def file_name(given: str, default: str) -> str:
    r"""Return a client's name for a file without folders and without characters that only confuse.

    >>> file_name("C:\\photos\\cup.png", "mask"), file_name("../../etc/passwd", "mask"), file_name("..", "mask")
    ('cup.png', 'passwd', 'mask')
    """
    name = PureWindowsPath(given).name
    name = "".join(letter for letter in name if unicodedata.category(letter)[0] != "C")[-MAX_NAME:]
    name = name.encode("utf-8", "ignore").decode()
    while len(name.encode()) > 2 * MAX_NAME:
        name = name[1:]
    return default if name.strip(". ") == "" else name


@contextmanager
def without_folder(folder: Path) -> Iterator[None]:
    """Errors of files in a temporary folder name the files only."""
    try:
        yield
    except InputError as error:
        parts = str(error).split(f"{folder}/")
        message = parts[0] + "".join(part.partition("/")[2] for part in parts[1:])
        raise type(error)(message) from error


def photo_hw(path: Path, limits: Limits) -> tuple[int, int]:
    """Return height and width of an uploaded photograph, from its header.

    Raises:
        ImageError: it is not an image that can be read.
        TooLargeError: it has too many pixels.
    """
    height, width = image_size(path)
    if height * width > limits.max_megapixels * MEGABYTE:
        raise TooLargeError(
            f"{path}: has {height * width / MEGABYTE:.3g} megapixels; accepted are {limits.max_megapixels:g}: make it"
            " smaller first"
        )
    return height, width


def read_photo(path: Path) -> Pixels:
    """Return an uploaded photograph, RGB, upright.

    Raises:
        ImageError: it cannot be read.
    """
    return load_image(path)


def memory_needed(image_hw: tuple[int, int], masks: int, json_bytes: int, limits: Limits) -> int:
    """Return the bytes that a request may take at most.

    Args:
        image_hw: the photograph's height and width, pixels.
        masks: number of regions.
        json_bytes: size of a file of segments.
        limits: what a client may ask for.
    """
    pixels = image_hw[0] * image_hw[1]
    of_masks = min(masks * pixels, mask_memory(limits))
    return BYTES_PER_PIXEL * pixels + of_masks + BYTES_PER_JSON * json_bytes


def mask_memory(limits: Limits) -> int:
    """Return the bytes that the masks of one request may take: half of all memory for requests."""
    return round(limits.memory_mb * MEGABYTE / 2)


class RegionReader:
    """Collects the regions of one request; refuses what is over the limits before it takes memory."""

    def __init__(self, image_hw: tuple[int, int], limits: Limits) -> None:
        """Start without any.

        Args:
            image_hw: the photograph's height and width, pixels.
            limits: what a client may ask for.
        """
        self._hw, self._limits = image_hw, limits
        self._left = mask_memory(limits)
        self.regions: list[GivenRegion] = []

    def add_files(self, paths: Sequence[Path]) -> None:
        """Add mask pictures.

        Raises:
            MaskError: one cannot be read, is no mask, has several pages or another size than the photograph.
            TooLargeError: too many regions, or too large.
        """
        for path in paths:
            _check_picture(path, self._hw)
            for mask in read_mask_file(path):
                check_size(mask, self._hw)
                self._add(GivenRegion(path.name, mask))

    def add_given(self, regions: Sequence[Region]) -> None:
        """Add regions of a request's JSON.

        Raises:
            MaskError: one is malformed, empty or outside the photograph; the message has its place in the list.
            TooLargeError: too many regions, or too large.
        """
        for number, region in enumerate(regions):
            name = region.id if region.id is not None else str(len(self.regions) + 1)
            with naming_mask(f"regions[{number}]"):
                if isinstance(region, PromptRegion):
                    self._add(GivenRegion(name, prompt=region.prompt))
                else:
                    self._add(GivenRegion(name, self._mask_of(region)))

    def add_segments(self, path: Path, photo: Path) -> None:
        """Add the segments that a COCO file, or a file of SAM's, has of the photograph.

        Raises:
            AnnotationError: the file breaks its format, or has no segment of the photograph.
            MaskError: a segment is malformed, empty or of another size.
            TooLargeError: too many regions, or too large.
        """
        coco = read_segments(path, photo)
        rows = np.flatnonzero(np.isin(coco.index.image, rows_of_image(coco, photo))).tolist()
        if not rows:
            raise MaskError(f"{path}: has no segment of an image called {photo.name}")
        self._check_count(len(rows))
        categories = coco.categories
        for row in rows:
            category = int(coco.index.category[row])
            name, given = f"segment {coco.ids(row)[1]}", categories[category].name if category >= 0 else None
            self._add(GivenRegion(name, coco.mask(row, self._hw), given=given))

    def _mask_of(self, region: BoxRegion | PolygonRegion | RleRegion) -> Mask:
        if isinstance(region, BoxRegion):
            return Mask.from_box(region.box, self._hw)
        if isinstance(region, PolygonRegion):
            return Mask.from_polygons(region.polygons, self._hw)
        return mask_of_segmentation(region.rle.model_dump(), self._hw)

    def _add(self, region: GivenRegion) -> None:
        self._check_count(1)
        self._left -= region.mask.bits.size if region.mask is not None else self._hw[0] * self._hw[1]
        if self._left < 0:
            raise TooLargeError("the masks have too many pixels together; give fewer at a time")
        self.regions.append(region)

    def _check_count(self, more: int) -> None:
        if len(self.regions) + more > self._limits.max_masks:
            raise TooLargeError(f"more than {self._limits.max_masks} regions; give fewer at a time")


def _check_picture(path: Path, image_hw: tuple[int, int]) -> None:
    """Refuse a mask picture by its header: before a large one, or one of many pages, is decoded."""
    try:
        with open_limited(path) as file:
            size, pages = file.size, getattr(file, "n_frames", 1)
    except DECODING_ERRORS as error:
        raise MaskError(f"{path}: is not an image; give the mask as a PNG, white on black") from error
    except InputError as error:
        raise MaskError(str(error)) from error
    if pages != 1:
        raise MaskError(f"{path}: has {pages} pages; give a file of one page")
    if size != image_hw[::-1]:
        raise MaskError(
            f"{path}: is {size[0]} x {size[1]} pixels, the photograph {image_hw[1]} x {image_hw[0]} (width x height);"
            " give a mask of the photograph's size"
        )
