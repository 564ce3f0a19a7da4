"""Read image files as arrays."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit
from urllib.request import url2pathname

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from maskwise.data.plain_files import check_plain_file, shortened
from maskwise.errors import ImageError

Pixels = UInt8[np.ndarray, "height width 3"]
"""An image in memory: RGB, 0 to 255."""


@runtime_checkable
class BinaryFile(Protocol):
    """A file that is open for reading bytes."""

    def read(self, size: int = ..., /) -> bytes:
        """Return what is left of it."""
        ...


ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | Image.Image | np.ndarray
"""What an image may be given as; see `load_image`."""
GIVEN = "the image"
"""Name in errors of an image that is not a file of the file system."""
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


def load_image(source: ImageSource) -> Pixels:
    """Read an image as RGB, upright.

    The orientation in the EXIF data is applied, as image viewers and OpenCV do. Grey, palette and CMYK images become
    RGB, and transparency is dropped. Images of more than 8 bits are scaled to 8: whole numbers by the smallest even
    number of bits that holds the largest one (so 12-bit cameras are not black), floats from 0 to 1.

    Args:
        source: path or file:// address of an image file; its bytes, or a file opened for reading bytes; an image of
            Pillow; or an array, height x width (grey) or height x width x 1, 3 (RGB) or 4.

    Raises:
        ImageError: no such file, not a plain file, not an image of an accepted format, damaged, too large, or of
            numbers that cannot be scaled.
    """
    if isinstance(source, np.ndarray):
        return _pixels_of_array(source)
    if isinstance(source, Image.Image):
        _check_size(source, GIVEN)
        with _faults(GIVEN):
            array, orientation = _decoded(source, GIVEN, None)
    else:
        name, file = _file_of(source)
        with _opened(file, name) as opened:
            array, orientation = _decoded(opened, name, file)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return np.array(_upright(array, orientation), order="C", copy=None if array.flags.writeable else True)


def as_pixels(image: ImageSource) -> Pixels:
    """Return an image as the predictor takes it: arrays are checked, all else is read as `load_image` does.

    Raises:
        ImageError: an array of another shape or type; or see `load_image`.
    """
    return check_pixels(image) if isinstance(image, np.ndarray) else load_image(image)


def _file_of(source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile) -> tuple[str, str | BytesIO]:
    """Return the name of a file in errors, and its path or its content.

    Raises:
        ImageError: a path that is not a plain file, an address of the network, or a file opened as text.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return GIVEN, BytesIO(source)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        address = urlsplit(path) if "://" in path[:10] else None
        if address is not None and address.scheme == "file" and address.netloc in ("", "localhost"):
            path = url2pathname(address.path)
        elif address is not None and address.scheme in ("http", "https", "file", "s3", "gs"):
            raise ImageError(
                f"{shortened(path)}: is on another machine; fetch it first, then give its path or its bytes"
            )
        check_plain_file(path, "image file", ImageError)
        return path, path
    content = source.read()
    if not isinstance(content, bytes):  # A file in text mode has the same method.
        raise ImageError('the image file was opened as text; open it with mode "rb"')
    return GIVEN, BytesIO(content)


def _decoded(file: Image.Image, name: str, source: str | BytesIO | None) -> tuple[np.ndarray, int]:
    """Return the numbers of an opened image, 8 bits, grey or RGB, and its EXIF orientation."""
    wide = source is not None and _has_wide_colours(file)  # Before EXIF data, whose reading may decode the image.
    orientation = _orientation(file)
    if wide:
        assert source is not None
        return _wide_colours(source, name), orientation
    if file.mode[0] in "IF":
        return _scaled(np.asarray(file), name), orientation
    return np.asarray(file if file.mode in ("RGB", "L") else file.convert("RGB")), orientation


def _pixels_of_array(array: np.ndarray) -> Pixels:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[2] in (1, 3, 4) and 0 not in array.shape and array.dtype.kind in "uif":
        array = array if array.dtype == np.uint8 else _scaled(array, GIVEN)
        array = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]
    return check_pixels(array)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return height and width of an image file, upright, from its header; pixels.

    Raises:
        ImageError: no such file, not a plain file, not an image of an accepted format, or too large.
    """
    check_plain_file(path, "image file", ImageError)
    with _opened(os.fspath(path), os.fspath(path)) as file:
        width, height = file.size
        turned = _orientation(file) >= 5
    return (width, height) if turned else (height, width)


@contextmanager
def _opened(file: str | BytesIO, name: str) -> Iterator[Image.Image]:
    """Open an image file in Pillow; its errors become ours."""
    with _faults(name), open_limited(file, name) as opened:
        yield opened


@contextmanager
def _faults(name: str) -> Iterator[None]:
    """Make errors of decoders ours."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: is not an image that can be read; give a JPEG, PNG, WebP, BMP or TIFF file"
        ) from error
    except DECODING_ERRORS as error:
        raise ImageError(f"{name}: is damaged or cut short ({error})") from error


@contextmanager
def open_limited(file: str | os.PathLike[str] | BytesIO, name: str = "") -> Iterator[Image.Image]:
    """Open an image file of an accepted format in Pillow, if it is not too large; nothing is decoded yet.

    Args:
        file: path or content.
        name: of the file in errors (default: its path).

    Raises:
        ImageError: it has too many pixels.
        OSError, SyntaxError, ValueError, EOFError: as Pillow raises them.
    """
    name = name or (GIVEN if isinstance(file, BytesIO) else os.fspath(file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of many pixels (our limit is below), odd EXIF data and TIFF tags.
        try:
            opened = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise ImageError(
                f"{name}: has too many pixels (accepted are {MAX_PIXELS:,} in all); make it smaller first"
            ) from error
        with opened:
            _check_size(opened, name)
            yield opened


def _check_size(file: Image.Image, name: str) -> None:
    width, height = file.size
    most = MAX_PIXELS_OF.get(file.format or "", MAX_PIXELS)
    if width * height > most or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{name}: has too many pixels ({width} x {height}; accepted are {most:,} in all and {MAX_SIDE:,} a side);"
            " make it smaller first"
        )


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


def _wide_colours(source: str | BytesIO, name: str) -> np.ndarray:
    content = source.getvalue() if isinstance(source, BytesIO) else Path(source).read_bytes()
    array = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.ndim != 3:
        raise ImageError(f"{name}: has colours of 16 bits that cannot be read; save it with 8 bits")
    return _scaled(array[..., 2::-1], name)


def _scaled(array: np.ndarray, name: str) -> np.ndarray:
    """Scale numbers of more than 8 bits to 8."""
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ImageError(f"{name}: is of floats outside 0 to 1; scale them to that range, or to 8 bits")
        return (array * 255 + 0.5).astype(np.uint8)
    low, high = int(array.min()), int(array.max())
    if low < 0:
        raise ImageError(f"{name}: has negative numbers (down to {low}); scale them to 8 bits")
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
