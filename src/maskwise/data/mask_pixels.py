"""Decide which pixels of an array or a picture are the region: one rule for every way in (docs/guides/masks.md)."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Shaped

from maskwise.errors import MaskError

FULL_SCALES = (255, 65_535)
"""Values that a fully covered pixel has in soft masks of 8 and 16 bits."""
SOLID_SHARE = 0.25
"""From this share on, pixels of further values that lie amid pixels of the same value make an id map."""
COLOUR_TOLERANCE = 12
"""How far the colours of a soft edge may lie from the line between black and the region's colour, 0 to 255."""
ID_MAP = "give it with --instances to name every value, or give one mask per object"


def region_pixels(array: Shaped[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Return which pixels of a mask given as numbers are the region.

    Args:
        array: bool; or whole numbers of two values (the larger is the region), of a soft mask (the region is above half
            of the full scale), or of one value; or floats from 0 to 1 (above 0.5).

    Raises:
        MaskError: the numbers are those of an id map or of logits, or are not numbers.

    >>> region_pixels(np.array([[1, 255], [1, 1]])).tolist()
    [[False, True], [False, False]]
    """
    if array.dtype == bool:
        # A bool array may hold any byte: Pillow's pictures of one bit have 255.
        return np.ascontiguousarray(array).view(np.uint8) != 0
    if array.dtype.kind == "f":
        return _above_half(array)
    if array.dtype.kind not in "iu":
        raise MaskError(f"the mask has type {array.dtype}; accepted are bool, whole numbers and floats from 0 to 1")
    if not array.size:
        return np.zeros(array.shape, dtype=bool)
    values = _values(array)
    if len(values) == 1:
        return array != 0
    if len(values) == 2:
        return array == values[1]
    if values[0] < 0:
        raise MaskError(f"the mask has {len(values)} values from {values[0]} to {values[-1]}; accepted are two values")
    full = next((full for full in FULL_SCALES if values[-1] <= full), None)
    if full is None or _is_id_map(array, values, full):
        raise MaskError(f"the mask has {len(values)} values ({_listed(values)}), like an id map; {ID_MAP}")
    return array > full / 2


def _above_half(array: np.ndarray) -> Bool[np.ndarray, "height width"]:
    if not np.isfinite(array).all():
        raise MaskError("the mask has floats that are not numbers (NaN or infinite); accepted are floats from 0 to 1")
    if array.size and (array.min() < 0 or array.max() > 1):
        raise MaskError(
            f"the mask has floats from {array.min():.4g} to {array.max():.4g}; accepted are floats from 0 to 1; for"
            " logits give `logits > 0`"
        )
    return array > 0.5


def _values(array: np.ndarray) -> list[int]:
    """Return the values of an array of whole numbers, rising."""
    low, high = int(array.min()), int(array.max())
    if low >= 0 and high <= FULL_SCALES[-1]:  # Several times as fast as sorting.
        return np.flatnonzero(np.bincount(array.ravel())).tolist()
    return np.unique(array).tolist()


def _is_id_map(array: np.ndarray, values: list[int], full: int) -> bool:
    """Return whether further values fill areas, as ids do; those of soft masks lie along edges or are noise."""
    reaches = values[-1] >= 0.75 * full
    middle = (array > full / 8) & (array < full * 7 / 8)
    low = (array > values[0]) & (array <= full / 8)
    numbers, square = array.astype(np.uint16), np.ones((3, 3), np.uint8)
    flat = (cv2.erode(numbers, square) == numbers) & (cv2.dilate(numbers, square) == numbers)
    bands = (middle, low) if reaches else (array > values[0],)
    return any(band.any() and (band & flat).sum() >= SOLID_SHARE * band.sum() for band in bands)


def _listed(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:6]))
    return shown if len(values) <= 6 else f"{shown}, ..., {values[-1]}"


def region_pixels_of_colours(
    colours: Shaped[np.ndarray, "height width 3"], opacity: Shaped[np.ndarray, "height width"] | None
) -> Bool[np.ndarray, "height width"]:
    """Return which pixels of a mask given as a colour picture are the region.

    Args:
        colours: RGB, uint8.
        opacity: 0 (transparent) to 255; None if the picture has none.

    Raises:
        MaskError: the picture has several colours, as an id map or a photograph has.
    """
    if opacity is not None and opacity.min() != opacity.max():
        opaque = region_pixels(opacity)
        drawn = _non_black(colours, opaque)
        # A photograph cut out, or black on transparent: the opacity is the mask.
        return opaque if drawn is None or not (opaque & drawn).any() else opaque & drawn
    spread = colours.max(axis=2).astype(int) - colours.min(axis=2)
    if spread.max() <= COLOUR_TOLERANCE:
        return region_pixels(colours[..., 1])
    drawn = _non_black(colours, np.ones(colours.shape[:2], dtype=bool))
    if drawn is None:
        count = len(np.unique(_codes(colours)))
        raise MaskError(f"the mask has {count} colours; accepted are black and one other; {ID_MAP}")
    return drawn


def _non_black(colours: np.ndarray, counted: np.ndarray) -> Bool[np.ndarray, "height width"] | None:
    """Return the pixels of the one colour beside black, soft edges cut at half; None if there are more colours."""
    brightness = colours.max(axis=2)
    brightest = int(np.where(counted, brightness, 0).max())
    if brightest == 0:
        return None
    colour = np.median(colours[counted & (brightness == brightest)], axis=0)
    line = brightness[..., None] / brightest * colour
    off = np.abs(colours - line).max(axis=2)[counted]
    if off.max() > COLOUR_TOLERANCE:
        return None
    shares = np.where(counted, brightness.astype(int) * 255 // brightest, 0).astype(np.uint8)
    try:
        return region_pixels(shares)
    except MaskError:  # Shades of one colour: several objects.
        return None


def _codes(colours: np.ndarray) -> np.ndarray:
    wide = colours.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
