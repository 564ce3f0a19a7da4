"""Read image files as arrays."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from maskwise.data.plain_files import check_plain_file
from maskwise.errors import ImageError

Pixels = UInt8[np.ndarray, "height width 3"]
"""An image in memory: RGB, 0 to 255."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
"""Formats that are read. Pillow knows more; some of them start other programs (EPS) or are rarely tested."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes by which images are found in a folder."""
MAX_PIXELS = 120_000_000
"""Maximum number of pixels of an image: 840 MB while it is read."""
MAX_PIXELS_OF = {"WEBP": 60_000_000, "GIF": 60_000_000, "AVIF": 60_000_000, "JPEG2000": 60_000_000}
"""The same for formats whose decoders need more memory per pixel."""
MAX_SIDE = 65_535
"""Maximum height and width of an image, pixels."""
DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
    ZeroDivisionError, AssertionError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip
"""What decoders of Pillow and NumPy raise on damaged files."""
_ORIENTATION = 0x0112


def load_image(path: str | os.PathLike[str], content: bytes | None = None) -> Pixels:
    """Read an image file as RGB, upright.

    The orientation in the EXIF data is applied, as image viewers and OpenCV do. Grey, palette and CMYK images become
    RGB, and transparency is dropped. Images of more than 8 bits are scaled to 8: whole numbers by the smallest even
    number of bits that holds the largest one (so 12-bit cameras are not black), floats from 0 to 1.

    Args:
        path: the file; only its name in messages if its content is given.
        content: the bytes of a file that is not on this disk.

    Raises:
        ImageError: no such file, not a plain file, not an image of an accepted format, damaged, too large, or of
            numbers that cannot be scaled.
    """
    with _opened(path, content) as file:
        wide = _has_wide_colours(file)  # Before EXIF data, whose reading may decode the image.
        orientation = _orientation(file)
        if wide:
            array = _wide_colours(path, content)
        elif file.mode[0] in "IF":
            array = _scaled(np.asarray(file), path)
        else:
            array = np.asarray(file if file.mode in ("RGB", "L") else file.convert("RGB"))
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return np.array(_upright(array, orientation), order="C", copy=None if array.flags.writeable else True)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return height and width of an image file, upright, from its header; pixels.

    Raises:
        ImageError: no such file, not a plain file, not an image of an accepted format, or too large.
    """
    with _opened(path) as file:
        width, height = file.size
        turned = _orientation(file) >= 5
    return (width, height) if turned else (height, width)


@contextmanager
def _opened(path: str | os.PathLike[str], content: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image file in Pillow; its errors become ours."""
    if content is None:
        check_plain_file(path, "image file", ImageError)
    try:
        with open_limited(path, content) as file:
            yield file
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path}: is not an image that can be read; give a JPEG, PNG, WebP, BMP or TIFF file"
        ) from error
    except DECODING_ERRORS as error:
        raise ImageError(f"{path}: is damaged or cut short ({error})") from error


@contextmanager
def open_limited(path: str | os.PathLike[str], content: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image file of an accepted format in Pillow, if it is not too large; nothing is decoded yet.

    Args:
        path: the file; only its name in messages if its content is given.
        content: the bytes of a file that is not on this disk.

    Raises:
        ImageError: it has too many pixels.
        OSError, SyntaxError, ValueError, EOFError: as Pillow raises them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of many pixels (our limit is below), odd EXIF data and TIFF tags.
        try:
            file = Image.open(path if content is None else io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise ImageError(
                f"{path}: has too many pixels (accepted are {MAX_PIXELS:,} in all); make it smaller first"
            ) from error
        with file:
            width, height = file.size
            most = MAX_PIXELS_OF.get(file.format or "", MAX_PIXELS)
            if width * height > most or max(width, height) > MAX_SIDE:
                raise ImageError(
                    f"{path}: has too many pixels ({width} x {height}; accepted are {most:,} in all and {MAX_SIDE:,} a"
                    " side); make it smaller first"
                )
            yield file


def _orientation(file: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if it is missing or not one of them."""
    value = file.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation.

    Source:
        EXIF 2.32, tag 0x0112: 2 to 4 mirror or turn by 180 degrees, 5 to 8 swap rows and columns besides.
    """
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _has_wide_colours(file: Image.Image) -> bool:
    """Return whether an image has colours of 16 bits, which Pillow would cut to 8."""
    return file.mode in ("RGB", "RGBA") and any("16" in str(tile[3]) for tile in getattr(file, "tile", ()))


def _wide_colours(path: str | os.PathLike[str], content: bytes | None) -> np.ndarray:
    if content is None:
        with open(path, "rb") as stream:
            content = stream.read()
    array = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.ndim != 3:
        raise ImageError(f"{path}: has colours of 16 bits that cannot be read; save it with 8 bits")
    return _scaled(array[..., 2::-1], path)


def _scaled(array: np.ndarray, path: str | os.PathLike[str]) -> np.ndarray:
    """Scale numbers of more than 8 bits to 8."""
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ImageError(f"{path}: is of floats outside 0 to 1; scale them to that range, or to 8 bits")
        return (array * 255 + 0.5).astype(np.uint8)
    low, high = int(array.min()), int(array.max())
    if low < 0:
        raise ImageError(f"{path}: has negative numbers (down to {low}); scale them to 8 bits")
    bits = max(high.bit_length() + high.bit_length() % 2, 8)
    return (array >> (bits - 8)).astype(np.uint8)


def check_pixels(image: np.ndarray) -> Pixels:
    """Check that an array is an image as the predictor takes it.

    Raises:
        ImageError: not a height x width x 3 array of uint8 with at least one pixel.
    """
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise ImageError(
            f"the image has shape {array.shape} and type {array.dtype}; accepted is height x width x 3, uint8, RGB"
        )
    return array
