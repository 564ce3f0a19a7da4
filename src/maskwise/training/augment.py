"""Data augmentation: random variations of a sample's crop, mask and colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import UInt8
from torchvision.transforms.v2 import functional as tv

from maskwise.data.mask_noise import NOISE_KINDS, perturb_mask
from maskwise.data.masks import Mask
from maskwise.training.settings import AugmentSettings, WindowSettings
from maskwise.views.view import View


def jitter_crop(view: View, settings: AugmentSettings, rng: np.random.Generator) -> View:
    """Return a square crop, randomly scaled and moved."""
    x0, y0, x1, _ = view.box_xyxy
    side = x1 - x0
    low, high = np.log(settings.scale)
    grown = max(round(side * float(np.exp(rng.uniform(low, high)))), 8)
    dx, dy = (round(float(d)) for d in rng.uniform(-settings.shift, settings.shift, 2) * side)
    x0, y0 = x0 + dx - (grown - side) // 2, y0 + dy - (grown - side) // 2
    return replace(view, box_xyxy=(x0, y0, x0 + grown, y0 + grown))


def widen_crop(view: View, image_hw: tuple[int, int], settings: AugmentSettings, rng: np.random.Generator) -> View:
    """Return a larger square crop that contains the given one at a random place, as in crops that regions share.

    The larger crop is at most as wide as the image's longer side. It lies inside the image if it fits; otherwise as
    little as possible lies outside.

    Args:
        view: the crop.
        image_hw: the image's height and width, pixels.
        settings: of the augmentation.
        rng: random generator.
    """
    x0, y0, x1, _ = view.box_xyxy
    side = x1 - x0
    widened = round(side * float(np.exp(rng.uniform(0, np.log(settings.widen)))))
    slack = min(widened, max(*image_hw, side)) - side
    left, top = (_inward(start, side, slack, limit, rng) for start, limit in ((x0, image_hw[1]), (y0, image_hw[0])))
    return replace(view, box_xyxy=(left, top, left + side + slack, top + side + slack))


def _inward(start: int, side: int, slack: int, limit: int, rng: np.random.Generator) -> int:
    """Return a random start of an interval `slack` longer than [start, start + side), inside [0, limit) if it fits."""
    low, high = start - slack, start
    low, high = max(low, min(0, high)), min(high, max(limit - side - slack, low))
    return int(rng.integers(min(low, high), max(low, high) + 1))


def jitter_flip(view: View, settings: AugmentSettings, rng: np.random.Generator) -> View:
    """Return the view, mirrored at random."""
    return replace(view, flip=bool(rng.random() < settings.flip))


def window_view(mask: Mask, size_hw: tuple[int, int], rng: np.random.Generator) -> View:
    """Return a random window that contains the region's box, or lies inside it if the box is larger.

    An image smaller than the window is enlarged until it fits, and no more.

    Args:
        mask: the region.
        size_hw: height and width of the batch, pixels.
        rng: random generator.

    Source:
        S. Eppel's training scripts (arXiv:1812.00291). They enlarge the image, then cut the window; here both are one
        view, so that a region of few pixels is never resized twice.
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


def window_batch(settings: WindowSettings, max_samples: int, rng: np.random.Generator) -> tuple[tuple[int, int], int]:
    """Return height and width (pixels) and the number of samples of one batch of windows."""
    height, width = (int(side) for side in rng.integers(settings.min_side, settings.max_side + 1, 2))
    return (height, width), max(min(max_samples, settings.max_pixels // (height * width)), 1)


def jitter_mask(mask: Mask, settings: AugmentSettings, rng: np.random.Generator) -> Mask:
    """Return the mask with random mask noise, at the probability in the settings; never empty."""
    if rng.random() >= settings.mask_jitter:
        return mask
    kind = NOISE_KINDS[rng.integers(len(NOISE_KINDS))]
    return perturb_mask(
        mask, kind, float(rng.uniform(0, settings.mask_strength)), angle=float(rng.uniform(0, 2 * np.pi))
    )


def blank_pixels(shape: tuple[int, ...], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Return pixels that show nothing: black, white or a random colour; half of the time with noise.

    Args:
        shape: height, width and 3.
        rng: random generator.
    """
    colour = (0, 255, rng.uniform(0, 255, 3))[rng.integers(3)]
    noise = rng.uniform(0, 128) if rng.random() < 0.5 else 0.0
    return np.clip(rng.normal(colour, noise, shape), 0, 255).astype(np.uint8)


def jitter_colours(
    pixels: UInt8[np.ndarray, "h w 3"], settings: AugmentSettings, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels with brightness, contrast and saturation each multiplied by a random factor."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for adjust, spread in (
        (tv.adjust_brightness, settings.brightness),
        (tv.adjust_contrast, settings.contrast),
        (tv.adjust_saturation, settings.saturation),
    ):
        if spread:
            image = adjust(image, float(rng.uniform(1 - spread, 1 + spread)))
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
