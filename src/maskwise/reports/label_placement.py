"""Find a place for the label of every region, so that no label hides a smaller region or another label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Int32

from maskwise.data.masks import Mask

MAP_SIDE = 640
"""Longest side of the map on which places are looked for, pixels."""
HIDDEN_SHARE = 0.5
"""Maximum share of its own visible region that a label may hide."""
REACH = 6
"""How far from its region a dot may lie, in diameters of a dot."""


@dataclass(frozen=True)
class Place:
    """Where the label of a region stands, in pixels of the picture.

    Attributes:
        centre_xy: centre of the label.
        written: whether the whole text stands there; if not, a numbered dot.
        target_xy: a point of the region that a line leads to; None if the label lies on its region.
    """

    centre_xy: tuple[int, int]
    written: bool
    target_xy: tuple[int, int] | None = None


class LabelPlacer:
    """Places the labels of one picture, one after the other."""

    def __init__(self, masks: Sequence[Mask], picture_hw: tuple[int, int]) -> None:
        """Draw the map of visible regions, smaller ones over larger ones.

        Args:
            masks: regions of one image, at least one.
            picture_hw: height and width of the picture, pixels; it may be larger than the image.
        """
        self._masks = masks
        self._scale = min(MAP_SIDE / max(picture_hw), 1.0)
        self._hw = tuple(max(round(side * self._scale), 1) for side in picture_hw)
        self._owner: Int32[np.ndarray, "h w"] = np.full(self._hw, -1, dtype=np.int32)
        self._rank = np.zeros(len(masks) + 1, dtype=np.int32)  # The last is that of no region.
        for rank, number in enumerate(by_size(masks), start=1):
            _paint(self._owner, masks[number], number)
            self._rank[number] = rank
        self._taken: Bool[np.ndarray, "h w"] = np.zeros(self._hw, dtype=bool)

    def place(self, number: int, text_wh: tuple[int, int], dot: int) -> Place:
        """Find the place of a region's label and keep it free from now on.

        Args:
            number: the region's place in `masks`.
            text_wh: width and height of the label with its text, pixels of the picture.
            dot: diameter of a numbered dot, pixels of the picture.
        """
        own = self._owner == number
        if not own.any():  # Smaller regions cover all of it.
            own = np.zeros(self._hw, dtype=np.int32)
            _paint(own, self._masks[number], 1)
            own = own == 1
        blocked = self._taken | (self._rank[self._owner] > self._rank[number])
        for wh, written in ((text_wh, True), ((dot, dot), False)):
            size = self._on_map(wh)
            if size[0] * size[1] <= HIDDEN_SHARE * own.sum() and (centre := _inside(own, blocked, size)):
                return self._keep(centre, size, written, None)
        target = _middle(own)
        size = self._on_map((dot, dot))
        centre = self._beside(target, size, own)
        return self._keep(centre, size, False, self._on_picture(target))

    def _on_map(self, wh: tuple[int, int]) -> tuple[int, int]:
        width, height = (
            min(max(round(side * self._scale), 1), limit) for side, limit in zip(wh, self._hw[::-1], strict=True)
        )
        return width, height

    def _on_picture(self, xy: tuple[int, int]) -> tuple[int, int]:
        return round((xy[0] + 0.5) / self._scale), round((xy[1] + 0.5) / self._scale)

    def _beside(self, target: tuple[int, int], size: tuple[int, int], own: np.ndarray) -> tuple[int, int]:
        """Return the free centre that is nearest to a region, off all other small regions if possible."""
        area = size[0] * size[1]
        counts = np.bincount(self._owner[self._owner >= 0], minlength=len(self._rank))
        counts[-1] = self._owner.size
        small = counts[self._owner] < 4 * area
        for blocked in (self._taken | small, self._taken | own, self._taken, np.zeros_like(own)):
            free = _free_centres(blocked, size)
            ys, xs = np.nonzero(free)
            if len(ys):
                distance = (ys - target[1]) ** 2 + (xs - target[0]) ** 2
                best = int(distance.argmin())
                if distance[best] <= (REACH * size[0]) ** 2:
                    return int(xs[best]), int(ys[best])
        return target

    def _keep(
        self, centre: tuple[int, int], size: tuple[int, int], written: bool, target: tuple[int, int] | None
    ) -> Place:
        x, y = centre[0] - size[0] // 2, centre[1] - size[1] // 2
        self._taken[max(y, 0) : y + size[1], max(x, 0) : x + size[0]] = True
        return Place(self._on_picture(centre), written, target)


def by_size(masks: Sequence[Mask]) -> list[int]:
    """Return the places of masks in a sequence, the largest mask first."""
    return sorted(range(len(masks)), key=lambda number: -masks[number].area)


def _paint(owner: Int32[np.ndarray, "h w"], mask: Mask, number: int) -> None:
    """Write a region's number on the map, at least into one pixel."""
    height, width = owner.shape
    scale_y, scale_x = height / mask.image_hw[0], width / mask.image_hw[1]
    x, y, w, h = mask.box_xywh
    left, top = min(int(x * scale_x), width - 1), min(int(y * scale_y), height - 1)
    right = min(max(round((x + w) * scale_x), left + 1), width)
    bottom = min(max(round((y + h) * scale_y), top + 1), height)
    size = (right - left, bottom - top)
    covered = cv2.resize(mask.bits.view(np.uint8) * np.uint8(255), size, interpolation=cv2.INTER_AREA)
    owner[top:bottom, left:right][covered >= min(128, covered.max())] = number


def _inside(
    own: Bool[np.ndarray, "h w"], blocked: Bool[np.ndarray, "h w"], size: tuple[int, int]
) -> tuple[int, int] | None:
    """Return the centre on a region at which a label hides nothing and lies deepest in the region."""
    x, y, w, h = cv2.boundingRect(own.view(np.uint8))
    margin_x, margin_y = size[0] // 2 + 1, size[1] // 2 + 1
    rows = slice(max(y - margin_y, 0), y + h + margin_y)
    columns = slice(max(x - margin_x, 0), x + w + margin_x)
    free = _free_centres(blocked[rows, columns], size) & own[rows, columns]
    if not free.any():
        return None
    depth = cv2.distanceTransform(np.pad(own[rows, columns], 1).view(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(np.where(free, depth, -1).argmax(), free.shape)
    return columns.start + int(column), rows.start + int(row)


def _free_centres(blocked: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Return at which centres a box lies inside the map and touches nothing blocked."""
    width, height = size
    free = np.zeros(blocked.shape, dtype=bool)
    sums = cv2.integral(blocked.view(np.uint8))
    if blocked.shape[0] < height or blocked.shape[1] < width:
        return free
    hits = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = height // 2, width // 2
    free[top : top + hits.shape[0], left : left + hits.shape[1]] = hits == 0
    return free


def _middle(own: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    """Return the point of a region that is farthest from its edge: a ring's centre of mass is not in the ring."""
    x, y, w, h = cv2.boundingRect(own.view(np.uint8))
    depth = cv2.distanceTransform(np.pad(own[y : y + h, x : x + w], 1).view(np.uint8), cv2.DIST_L2, 5)
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return x + int(column) - 1, y + int(row) - 1
