"""Mask noise: masks as a hasty annotator or a segmenter might draw them, for training and evaluation."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np
from jaxtyping import UInt8

from maskwise.data.masks import Mask
from maskwise.errors import MaskError

NoiseKind = Literal["dilate", "erode", "shift", "box", "polygon"]
NOISE_KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)


def perturb_mask(mask: Mask, kind: NoiseKind, strength: float, *, angle: float = 0.0) -> Mask:
    """Return a mask with noise; the mask itself if nothing of it would be left.

    Args:
        mask: an exact mask.
        kind: `dilate` or `erode` by the strength; `shift` by two thirds of it; `box`: its bounding box; `polygon`: its
            outlines with few corners (to within half of the strength).
        strength: share of the region's size (square root of its area), 0 to 1.
        angle: direction of a shift, radians.
    """
    if kind == "box":
        return Mask.from_box(mask.box_xywh, mask.image_hw)
    radius = strength * np.sqrt(mask.area)
    margin = int(np.ceil(radius)) + 1
    x, y, w, h = mask.box_xywh
    bits = mask.crop(x - margin, y - margin, x + w + margin, y + h + margin).view(np.uint8)
    if kind == "dilate":
        bits = cv2.distanceTransform(1 - bits, cv2.DIST_L2, 5) <= radius
    elif kind == "erode":
        bits = cv2.distanceTransform(bits, cv2.DIST_L2, 5) > radius
    elif kind == "shift":
        by = radius * 2 / 3
        shift = np.array([[1, 0, by * np.cos(angle)], [0, 1, by * np.sin(angle)]], dtype=np.float32)
        bits = np.asarray(cv2.warpAffine(bits, shift, bits.shape[::-1], flags=cv2.INTER_NEAREST), dtype=np.uint8)
    else:
        bits = _coarse_outline(bits, radius / 2)
    return _placed(bits, (x - margin, y - margin), mask)


def _coarse_outline(bits: UInt8[np.ndarray, "h w"], tolerance: float) -> UInt8[np.ndarray, "h w"]:
    outlines, _ = cv2.findContours(bits, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    coarse = [cv2.approxPolyDP(outline, tolerance, closed=True) for outline in outlines]
    return cv2.fillPoly(np.zeros_like(bits), coarse, 1)


def _placed(bits: np.ndarray, origin_xy: tuple[int, int], mask: Mask) -> Mask:
    """Return a mask of these bits, clipped to the image; `mask` itself if nothing is left."""
    height, width = mask.image_hw
    left, top = max(-origin_xy[0], 0), max(-origin_xy[1], 0)
    bits = bits[top : height - origin_xy[1], left : width - origin_xy[0]]
    try:
        return Mask.from_array(bits, origin_xy=(origin_xy[0] + left, origin_xy[1] + top), image_hw=mask.image_hw)
    except MaskError:
        return mask
