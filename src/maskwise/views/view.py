"""Views: which part of the image the network sees of a region, and at what size.

Training and prediction both use this geometry, so they cannot disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from maskwise.data.images import Pixels
from maskwise.data.masks import Mask
from maskwise.errors import SettingsError
from maskwise.views.integral_image import IntegralImage

PADDING_RGB = (124, 116, 104)
"""Colour outside the image: the mean of ImageNet, which normalisation turns into about 0."""
MIN_SCALE = 4
"""From this many image pixels per pixel of the crop (along a side) on, an integral image is faster than resizing."""

Window = tuple[slice, slice]
"""Rows and columns."""
ALL: Window = (slice(None), slice(None))


@dataclass(frozen=True)
class View:
    """A rectangle of an image, rendered at a size.

    Attributes:
        box_xyxy: left, top, right and bottom pixel edges; may lie outside the image.
        size_hw: height and width of the rendered crop, pixels.
        flip: whether it is mirrored left to right.
    """

    box_xyxy: tuple[int, int, int, int]
    size_hw: tuple[int, int]
    flip: bool = False

    def render(
        self, image: Pixels, mask: Mask, sums: IntegralImage | None = None
    ) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """Render what the network sees.

        Args:
            image: RGB, 0 to 255.
            mask: the region, of that image.
            sums: integral image of the image, for several crops of it: large crops then take no longer than small ones,
                and differ by one grey level at most (by a few for images above 16.8 megapixels).

        Returns:
            The pixels, and how much of each pixel the region covers (0 none, 255 all).
        """
        return self.show(image, sums), self.cover(mask)

    def show(self, image: Pixels, sums: IntegralImage | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """Render the pixels; arguments as in `render`."""
        if sums is not None and self._scale >= MIN_SCALE * sums.block:
            pixels = self._means(sums, (0, 0), image.shape[:2], PADDING_RGB)
        else:
            pixels = self._resize(self._cut(image))
        return self._flipped(pixels)

    def cover(self, mask: Mask) -> UInt8[np.ndarray, "h w"]:
        """Render how much of each pixel a region covers (0 none, 255 all).

        If the view shrinks the image, only the part that the region's box touches is computed.
        """
        if self._scale <= 1:
            return self._flipped(self._resize(mask.crop(*self.box_xyxy).view(np.uint8) * 255))
        coverage, part = np.zeros(self.size_hw, dtype=np.uint8), self._touched(mask.box_xywh)
        sums = IntegralImage(mask.bits.view(np.uint8) * 255)
        coverage[part] = self._means(sums, mask.box_xywh[:2], mask.bits.shape, 0, part)
        return self._flipped(coverage)

    def _touched(self, box_xywh: tuple[int, int, int, int]) -> Window:
        """Return the rows and columns of the view that show a box of the image."""
        x, y, w, h = box_xywh
        x0, y0, x1, y1 = self.box_xyxy
        height, width = self.size_hw
        return _cells(y - y0, h, (y1 - y0) / height, height), _cells(x - x0, w, (x1 - x0) / width, width)

    def _flipped(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array[:, ::-1] if self.flip else array)

    @property
    def _scale(self) -> float:
        """Image pixels along the shorter side of a pixel of the view."""
        x0, y0, x1, y1 = self.box_xyxy
        return min((y1 - y0) / self.size_hw[0], (x1 - x0) / self.size_hw[1])

    def _cut(self, image: Pixels) -> UInt8[np.ndarray, "cut_height cut_width 3"]:
        """Cut the rectangle out of the image, padded outside it."""
        x0, y0, x1, y1 = self.box_xyxy
        height, width = image.shape[:2]
        inside = image[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        padding = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
        return cv2.copyMakeBorder(inside, *padding, cv2.BORDER_CONSTANT, value=PADDING_RGB) if any(padding) else inside

    def _resize(self, array: np.ndarray) -> np.ndarray:
        height, width = self.size_hw
        if array.shape[:2] == self.size_hw:
            return array
        # Area averaging skips no pixel when shrinking, but is blocky when enlarging.
        shrinks = array.shape[0] * array.shape[1] > height * width
        return cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def _means(
        self,
        sums: IntegralImage,
        corner_xy: tuple[int, int],
        inner_hw: tuple[int, int],
        padding: int | tuple[int, ...],
        part: Window = ALL,
    ) -> np.ndarray:
        """Return the mean of an array over each pixel of a part of the view.

        Args:
            sums: integral image of the array.
            corner_xy: place of the array's first pixel in the image, pixels.
            inner_hw: height and width of the array, pixels.
            padding: value outside the array.
            part: rows and columns of the view.
        """
        x0, y0, x1, y1 = self.box_xyxy
        (top, bottom, _), (left, right, _) = (s.indices(n) for s, n in zip(part, self.size_hw, strict=True))
        ys = np.linspace(y0, y1, self.size_hw[0] + 1)[top : bottom + 1] - corner_xy[1]
        xs = np.linspace(x0, x1, self.size_hw[1] + 1)[left : right + 1] - corner_xy[0]
        whole = (y1 - y0) * (x1 - x0) / (self.size_hw[0] * self.size_hw[1])
        inside = np.diff(np.clip(ys, 0, inner_hw[0]))[:, None] * np.diff(np.clip(xs, 0, inner_hw[1]))
        outside = whole - inside
        sum_ = sums.over(ys, xs) + (outside[..., None] if np.ndim(padding) else outside) * np.array(padding)
        return (sum_ / whole + 0.5).astype(np.uint8)


def _cells(start: float, length: float, step: float, count: int) -> slice:
    """Return which of `count` cells, each `step` long, the interval [start, start + length) touches."""
    first, last = (min(max(edge / step, 0), count) for edge in (start, start + length))
    return slice(math.floor(first), math.ceil(last))


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """How to choose the view of a region, or the two views.

    Attributes:
        kind: `crop`, a square around the region; or `whole`, the whole image at its own size (the published form).
        size: side of the square that the network sees, pixels (crop only).
        context: side of the crop over the longer side of the region's box (crop only).
        min_side: minimum side of the crop, image pixels (crop only): tiny regions need surroundings most.
        wide_context: the same of a second, wider crop of every region; 0: there is none.
        wide_min_side: minimum side of the second crop, image pixels.
    """

    kind: Literal["crop", "whole"] = "crop"
    size: int = 224
    context: float = 2.0
    min_side: int = 32
    wide_context: float = 0.0
    wide_min_side: int = 32

    def __post_init__(self) -> None:
        if self.kind not in ("crop", "whole"):
            raise SettingsError(f"view kind {self.kind!r}; accepted are 'crop' and 'whole'")
        if self.size < 1 or self.min_side < 1 or self.context < 1:
            raise SettingsError(
                f"view size {self.size}, min_side {self.min_side}, context {self.context}: each must be at least 1"
            )
        if self.wide_context and (self.kind == "whole" or self.wide_context < 1 or self.wide_min_side < 1):
            raise SettingsError(
                f"view wide_context {self.wide_context}, wide_min_side {self.wide_min_side}: give kind 'crop' and at"
                " least 1, or a wide_context of 0"
            )

    @property
    def crops(self) -> tuple[ViewSettings, ...]:
        """The settings of each view of a region: one, or a narrow and a wide crop."""
        if not self.wide_context:
            return (self,)
        narrow = replace(self, wide_context=0.0)
        return narrow, replace(narrow, context=self.wide_context, min_side=self.wide_min_side)

    def view(self, mask: Mask) -> View:
        """Return the view of a region; of two crops, the narrow one.

        A crop is as wide as `context` says but no wider than the image's longer side. It moves inwards where it would
        leave the image: surroundings are worth more than padding.
        """
        height, width = mask.image_hw
        if self.kind == "whole":
            return View((0, 0, width, height), (height, width))
        x, y, w, h = mask.box_xywh
        side = round(min(max(self.context * max(w, h), self.min_side), max(height, width)))
        x0, y0 = slide(x, w, side, width), slide(y, h, side, height)
        return View((x0, y0, x0 + side, y0 + side), (self.size, self.size))


def slide(start: int, length: int, side: int, limit: int) -> int:
    """Return the start of a window of `side` with [start, start + length) in its middle, inside [0, limit) if it fits.

    >>> slide(50, 10, 20, 100), slide(0, 10, 20, 100), slide(92, 8, 20, 100), slide(0, 10, 20, 10)
    (45, 0, 80, -5)
    """
    if side >= limit:
        return (limit - side) // 2
    return min(max(start + (length - side) // 2, 0), limit - side)
