"""Boxes as shares of an image, as annotation tools keep them."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, isfinite

from maskwise.data.masks import Mask
from maskwise.errors import MaskError

DECIMALS = 2
"""Edges are rounded to this many decimals of a pixel: tools round shares, and 0.33333 of 60 pixels means 20."""


def mask_of_shares(box_xywh: Sequence[float], image_hw: tuple[int, int]) -> Mask:
    """Return every pixel that a box touches, clipped to the image.

    Args:
        box_xywh: left, top, width and height, shares of the image's width and height, 0 to 1.
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: not finite, no width or height, or wholly outside the image.

    >>> mask_of_shares((0.125, 0.33333, 0.6, 0.16667), (60, 80)).box_xywh
    (10, 20, 48, 10)
    """
    x, y, w, h = box_xywh
    height, width = image_hw
    if not all(map(isfinite, box_xywh)) or w <= 0 or h <= 0:
        raise MaskError(f"the box {x:g}, {y:g}, {w:g}, {h:g} has no width or no height; give shares of the image")
    left, top = floor(round(x * width, DECIMALS)), floor(round(y * height, DECIMALS))
    right, bottom = ceil(round((x + w) * width, DECIMALS)), ceil(round((y + h) * height, DECIMALS))
    return Mask.from_box((left, top, max(right - left, 1), max(bottom - top, 1)), image_hw)
