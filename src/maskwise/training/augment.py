"""Variations of training samples: the view, the mask and the colours."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torchvision.transforms.v2 import functional as tv

from maskwise.errors import MaskError
from maskwise.masks import Mask
from maskwise.training.settings import AugmentSettings, WindowSettings
from maskwise.views import View

SLOPPY_KINDS = ("dilate", "erode", "shift", "box", "polygon")


def jitter_crop(view: View, settings: AugmentSettings, rng: np.random.Generator) -> View:
    """A square crop scaled and moved."""
    x0, y0, x1, _ = view.box_xyxy
    side = x1 - x0
    low, high = np.log(settings.scale)
    grown = max(round(side * float(np.exp(rng.uniform(low, high)))), 8)
    dx, dy = (round(float(d)) for d in rng.uniform(-settings.shift, settings.shift, 2) * side)
    x0, y0 = x0 + dx - (grown - side) // 2, y0 + dy - (grown - side) // 2
    return replace(view, box_xyxy=(x0, y0, x0 + grown, y0 + grown))


def jitter_flip(view: View, settings: AugmentSettings, rng: np.random.Generator) -> View:
    """A view perhaps mirrored."""
    return replace(view, flip=bool(rng.random() < settings.flip))


def window_view(mask: Mask, size_hw: tuple[int, int], rng: np.random.Generator) -> View:
    """A random window that holds the region's box, or lies inside it where the box is larger.

    An image smaller than the window is enlarged as little as makes it fit.

    Args:
        mask: the region.
        size_hw: height and width of the batch, pixels.
        rng: source of the window's place.

    Source:
        S. Eppel's training scripts (arXiv:1812.00291). There the enlarged image is made before the window is cut;
        here both are one view, so that a region of few pixels is never resized twice.
    """
    enlarge = max(size_hw[0] / mask.image_hw[0], size_hw[1] / mask.image_hw[1], 1.0)
    x, y, w, h = mask.box_xywh
    width, height = (max(round(side / enlarge), 1) for side in (size_hw[1], size_hw[0]))
    x0 = _window_start(x, w, width, mask.image_hw[1], rng)
    y0 = _window_start(y, h, height, mask.image_hw[0], rng)
    return View((x0, y0, x0 + width, y0 + height), size_hw)


def _window_start(start: int, length: int, window: int, limit: int, rng: np.random.Generator) -> int:
    holds = (start + length - window, start) if length <= window else (start, start + length - window)
    low, high = max(holds[0], 0), min(holds[1], max(limit - window, 0))
    return int(rng.integers(low, high + 1)) if low <= high else low


def window_batch(settings: WindowSettings, most: int, rng: np.random.Generator) -> tuple[tuple[int, int], int]:
    """Height, width and number of samples of one batch of windows."""
    height, width = (int(side) for side in rng.integers(settings.min_side, settings.max_side + 1, 2))
    return (height, width), max(min(most, settings.max_pixels // (height * width)), 1)


def sloppy_mask(mask: Mask, settings: AugmentSettings, rng: np.random.Generator) -> Mask:
    """Now and then, the mask as a hasty person or a segmenter might have drawn it; never empty."""
    if rng.random() >= settings.mask_jitter:
        return mask
    kind = SLOPPY_KINDS[rng.integers(len(SLOPPY_KINDS))]
    return make_sloppy(
        mask, kind, float(rng.uniform(0, settings.mask_strength)), angle=float(rng.uniform(0, 2 * np.pi))
    )


def make_sloppy(mask: Mask, kind: str, strength: float, *, angle: float = 0.0) -> Mask:
    """A mask made worse in one way; the mask itself where nothing of it would be left.

    Args:
        mask: an exact mask.
        kind: `dilate` or `erode` by strength; `shift` by two thirds of it; `box`, its box; `polygon`, its outlines
            drawn with corners only (to within half of it).
        strength: over the region's size (square root of its area), 0 to 1.
        angle: direction of a shift, radians.

    Raises:
        ValueError: another kind.
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
        shift = np.float32([[1, 0, radius * np.cos(angle) * 2 / 3], [0, 1, radius * np.sin(angle) * 2 / 3]])
        bits = cv2.warpAffine(bits, shift, bits.shape[::-1], flags=cv2.INTER_NEAREST)
    elif kind == "polygon":
        bits = _coarse_outline(bits, radius / 2)
    else:
        raise ValueError(f"kind {kind!r}; accepted are {', '.join(SLOPPY_KINDS)}")
    return _placed(bits, (x - margin, y - margin), mask)


def _coarse_outline(bits: UInt8[np.ndarray, "h w"], tolerance: float) -> UInt8[np.ndarray, "h w"]:
    outlines, _ = cv2.findContours(bits, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    coarse = [cv2.approxPolyDP(outline, tolerance, closed=True) for outline in outlines]
    return cv2.fillPoly(np.zeros_like(bits), coarse, 1)


def _placed(bits: np.ndarray, origin_xy: tuple[int, int], mask: Mask) -> Mask:
    """Bits at a place of the mask's image, cut at its edge; `mask` itself where nothing is left."""
    height, width = mask.image_hw
    left, top = max(-origin_xy[0], 0), max(-origin_xy[1], 0)
    bits = bits[top : height - origin_xy[1], left : width - origin_xy[0]]
    try:
        return Mask.from_array(bits, origin_xy=(origin_xy[0] + left, origin_xy[1] + top), image_hw=mask.image_hw)
    except MaskError:
        return mask


def jitter_colours(
    pixels: UInt8[np.ndarray, "h w 3"], settings: AugmentSettings, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Brightness, contrast and saturation each times a random factor."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for adjust, spread in (
        (tv.adjust_brightness, settings.brightness),
        (tv.adjust_contrast, settings.contrast),
        (tv.adjust_saturation, settings.saturation),
    ):
        if spread:
            image = adjust(image, float(rng.uniform(1 - spread, 1 + spread)))
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
