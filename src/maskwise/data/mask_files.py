"""Read the masks of one image from files: pictures, folders of them, NumPy stacks, and pictures of instances."""

from __future__ import annotations

import re
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import UnidentifiedImageError

from maskwise.data.images import DECODING_ERRORS, open_limited
from maskwise.data.masks import Mask, check_size, read_mask_file
from maskwise.data.plain_files import check_plain_file
from maskwise.errors import ImageError, MaskError, naming_mask

PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".webp", ".gif")
MAX_STACK_BYTES = 2_000_000_000
"""Maximum size of a NumPy stack in memory."""
MAX_INSTANCES = 10_000
"""Maximum number of regions in a picture of instances; a photograph has more colours."""

NamedMask = tuple[str, Mask]
"""What to call a mask, and the mask."""


def read_masks(path: Path, image_hw: tuple[int, int]) -> list[NamedMask]:
    """Read masks of an image.

    Args:
        path: a picture (each page is a mask), a folder of them (as SAM's amg.py writes), or a stack (.npy, .npz).
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: it cannot be read, holds no mask, or a mask has another size; the message names the file.
    """
    if path.is_dir():
        files = sorted((file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES), key=_natural)
        if not files:
            raise MaskError(f"{path}: is a folder without mask pictures ({', '.join(PICTURE_SUFFIXES)})")
        return [named for file in files for named in read_masks(file, image_hw)]
    is_stack = path.suffix.lower() in (".npy", ".npz")
    masks = list(_stack(path, image_hw)) if is_stack else read_mask_file(path)
    names = [path.name] if len(masks) == 1 else [f"{path.name} {number}" for number in range(len(masks))]
    for name, mask in zip(names, masks, strict=True):
        with naming_mask(f"{path.parent / name}"):
            check_size(mask, image_hw)
    return list(zip(names, masks, strict=True))


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort 2.png before 10.png."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in parts]


def _stack(path: Path, image_hw: tuple[int, int]) -> Iterator[Mask]:
    check_plain_file(path, "mask file", MaskError)
    try:
        for array in _arrays(path, image_hw):
            for number, mask in enumerate(array.reshape(-1, *array.shape[-2:])):
                with naming_mask(f"{path}, mask {number}"):
                    yield Mask.from_array(mask)
    except (*DECODING_ERRORS, zipfile.BadZipFile, tokenize.TokenError) as error:
        raise MaskError(f"{path}: is not a NumPy file of masks ({error})") from error


def _arrays(path: Path, image_hw: tuple[int, int]) -> Iterator[np.ndarray]:
    if path.suffix.lower() == ".npy":
        with open(path, "rb") as file:
            yield _checked_array(file, path, image_hw)
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    yield _checked_array(file, path, image_hw)


def _checked_array(file: IO[bytes] | zipfile.ZipExtFile, path: Path, image_hw: tuple[int, int]) -> np.ndarray:
    """Read an array whose header says that it is masks of the image."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    single = len(shape) in (2, 3) or (len(shape) == 4 and shape[1] == 1)
    if not single or tuple(shape[-2:]) != tuple(image_hw):
        raise MaskError(
            f"{path}: has shape {shape}; accepted are N x height x width, N x 1 x height x width and height x width"
            f" of the image, {image_hw[0]} x {image_hw[1]}"
        )
    count = int(np.prod(shape, dtype=np.int64))
    if dtype.hasobject or count * dtype.itemsize > MAX_STACK_BYTES:
        raise MaskError(f"{path}: has {count:,} values of type {dtype}; accepted are up to {MAX_STACK_BYTES:,} bytes")
    content = file.read(count * dtype.itemsize)
    return np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def read_instances(path: Path, image_hw: tuple[int, int]) -> list[NamedMask]:
    """Read a picture of instances: every id, or every colour, but 0 (black) is a region.

    Args:
        path: a picture of 1 to 32 bits, of a palette or of colours.
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: it cannot be read, has another size, no region, or more than 10,000.
    """
    check_plain_file(path, "instances file", MaskError)
    try:
        with open_limited(path) as file:
            colours = file.mode not in ("1", "L", "P") and not file.mode.startswith("I")
            array = np.asarray(file.convert("RGB") if colours else file)
            pages = getattr(file, "n_frames", 1)
    except UnidentifiedImageError as error:
        raise MaskError(f"{path}: is not an image; give a PNG whose values are ids") from error
    except ImageError as error:  # Too many pixels.
        raise MaskError(str(error)) from error
    except DECODING_ERRORS as error:
        raise MaskError(f"{path}: cannot be read ({error})") from error
    if pages > 1:
        raise MaskError(f"{path}: has {pages} pages; give a file of one page")
    if array.shape[:2] != tuple(image_hw):
        raise MaskError(
            f"{path}: is {array.shape[1]} x {array.shape[0]} pixels, the image {image_hw[1]} x {image_hw[0]}"
            " (width x height); give the instances of this image"
        )
    if colours:
        wide = array.astype(np.int64)
        array = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    ids, numbers = np.unique(array, return_inverse=True)
    count = len(ids) - int(0 in ids)
    if not count or count > MAX_INSTANCES:
        raise MaskError(f"{path}: has {count} values besides 0; accepted are 1 to {MAX_INSTANCES:,} objects")
    return list(_regions_of(ids, numbers.reshape(array.shape), colours=colours))


def _regions_of(ids: np.ndarray, numbers: np.ndarray, *, colours: bool) -> Iterator[NamedMask]:
    """Yield a mask per id, each made from its own box only."""
    order = np.argsort(numbers, axis=None, kind="stable")
    ends = np.cumsum(np.bincount(numbers.ravel(), minlength=len(ids)))
    height, width = numbers.shape
    for number, value in enumerate(ids.tolist()):
        if value:
            rows, columns = np.divmod(order[ends[number - 1] if number else 0 : ends[number]], width)
            top, left = int(rows.min()), int(columns.min())
            bits = np.zeros((int(rows.max()) - top + 1, int(columns.max()) - left + 1), dtype=bool)
            bits[rows - top, columns - left] = True
            name = f"colour #{value:06x}" if colours else f"id {value}"
            yield name, Mask.from_array(bits, origin_xy=(left, top), image_hw=(height, width))
