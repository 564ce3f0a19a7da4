"""Read image files as arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from maskwise.errors import ImageError

Pixels = UInt8[np.ndarray, "height width 3"]
"""An image in memory: RGB, 0 to 255."""


def load_image(path: str | os.PathLike[str]) -> Pixels:
    """Read an image file as RGB, upright.

    The orientation that a camera stored in EXIF is applied, as image viewers and OpenCV do. Grey, palette
    and CMYK images become RGB, grey of 16 bits by its upper eight; transparency is dropped.

    Raises:
        ImageError: no such file, not an image, damaged, or too large to be decoded safely.
    """
    with _opened(path) as file:
        upright = ImageOps.exif_transpose(file)
        if upright.mode.startswith("I;16"):  # Pillow would cut every value above 255 to white.
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return np.array(upright.convert("RGB"))


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width in pixels of an image file, upright, from its header alone.

    Raises:
        ImageError: no such file, not an image, or too large to be decoded safely.
    """
    with _opened(path) as file:
        width, height = file.size
        turned = file.getexif().get(0x0112, 1) >= 5
    return (width, height) if turned else (height, width)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """An image file open in Pillow, whose errors become ours."""
    try:
        with Image.open(path) as file:
            yield file
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such image file") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: is a folder, not an image file") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path}: is not an image that can be read; give a JPEG, PNG, WebP, BMP or TIFF file"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path}: has too many pixels to be decoded safely ({error}); make it smaller first"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path}: is damaged or cut short ({error})") from error


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
