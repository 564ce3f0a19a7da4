"""Shared views: crops that cover several masks of an image, so that the network runs once for many masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from maskwise.data.masks import Mask
from maskwise.views.view import View, ViewSettings, slide

MAX_WIDENING = 2.0
"""Maximum width of a shared view, relative to the own view of each of its masks."""
GROWTH = 1.25
"""Factor by which the maximum width grows, as often as needed, if the number of views is limited."""
PLACES = (0.0, 0.5, 1.0)
"""Where a mask may lie in a candidate view, along each side: at its start, in the middle, at its end."""
MAX_WINDOWS = 8000
"""Maximum number of candidate views: time and memory grow with the masks, not with their square. Images of up to 800
masks have fewer. In `auto` mode 10,000 masks take 1.6 s and 0.25 GB (one core of an AMD EPYC, 2026-11-27)."""

Boxes = Int64[np.ndarray, "_ 4"]


@dataclass(frozen=True)
class SharedView:
    """A view and the masks that share it.

    Attributes:
        view: the view.
        masks: their numbers, rising.
    """

    view: View
    masks: tuple[int, ...]


def own_views(masks: Sequence[Mask], settings: ViewSettings) -> list[SharedView]:
    """Return a view of its own for each mask."""
    return [SharedView(settings.view(mask), (number,)) for number, mask in enumerate(masks)]


def shared_views(masks: Sequence[Mask], settings: ViewSettings, most: int | None = None) -> list[SharedView]:
    """Return few views that together show every mask with the surroundings of its own view.

    Greedy: choose the view that shows most of the remaining masks, shrink it to what these need, and repeat.

    Args:
        masks: of one image.
        settings: of the masks' own views.
        most: maximum number of views; regions may then appear smaller (default: no maximum).

    Source:
        V. Chvatal, A greedy heuristic for the set-covering problem, Mathematics of Operations Research 4 (1979).
    """
    alone = own_views(masks, settings)
    if len(alone) < 2 or settings.kind == "whole":
        return [SharedView(alone[0].view, tuple(range(len(alone))))] if alone else []
    image_hw = masks[0].image_hw
    own = np.array([shared.view.box_xyxy for shared in alone])
    order = np.lexsort(own.T)  # Ties are broken by place, so the order of the masks does not matter.
    own = own[order]
    widest = MAX_WIDENING
    while (groups := _covering(own, image_hw, widest, most)) is None:
        widest *= GROWTH
    return [
        SharedView(
            View(_around(own[group], image_hw), (settings.size, settings.size)), tuple(sorted(order[group].tolist()))
        )
        for group in groups
    ]


def _covering(
    own: Boxes, image_hw: tuple[int, int], widest: float, most: int | None
) -> list[Int64[np.ndarray, " group"]] | None:
    """Return the numbers of the boxes in each view; None if there are more views than `most`."""
    windows = np.unique(_windows(own, image_hw, widest), axis=0)
    windows = windows[np.linspace(0, len(windows) - 1, min(len(windows), MAX_WINDOWS)).round().astype(np.int64)]
    shown = _shown(windows, own, image_hw, widest)
    gains = shown.sum(axis=0)
    left = np.ones(len(own), dtype=bool)
    groups: list[np.ndarray] = []
    while left.any():
        if len(groups) == most or (most is not None and not gains.any()):
            return None
        if not gains.any():  # No candidate shows these.
            return [*groups, *np.flatnonzero(left)[:, None]]
        new = shown[:, gains.argmax()] & left
        groups.append(np.flatnonzero(new))
        left &= ~new
        gains -= shown[new].sum(axis=0)
    return groups


def _windows(own: Boxes, image_hw: tuple[int, int], widest: float) -> Boxes:
    """Return candidate windows: each box alone, and the widest windows with the box in several places."""
    sides = own[:, 2] - own[:, 0]
    wide = np.minimum(np.round(widest * sides), np.maximum(max(image_hw), sides)).astype(np.int64)
    tried = [own]
    for across in PLACES:
        for down in PLACES:
            corner = [
                _inside(own[:, axis] - np.round(part * (wide - sides)).astype(np.int64), wide, image_hw[1 - axis])
                for axis, part in ((0, across), (1, down))
            ]
            tried.append(np.stack([*corner, corner[0] + wide, corner[1] + wide], axis=1))
    return np.concatenate(tried)


def _inside(starts: Int64[np.ndarray, " n"], lengths: Int64[np.ndarray, " n"], limit: int) -> Int64[np.ndarray, " n"]:
    """Move windows into [0, limit) if they fit, else centre them on it: `slide` for many."""
    return np.where(lengths >= limit, (limit - lengths) // 2, np.clip(starts, 0, np.maximum(limit - lengths, 0)))


def _shown(windows: Boxes, own: Boxes, image_hw: tuple[int, int], widest: float) -> Bool[np.ndarray, "boxes windows"]:
    """Return whether each window holds the part of each box inside the image, and is not too wide for it."""
    edges = np.array([*image_hw[::-1], *image_hw[::-1]])
    needed = np.clip(own, 0, edges)
    shown = (windows[:, 2] - windows[:, 0]) <= np.ceil(widest * (own[:, 2] - own[:, 0]))[:, None]
    for axis in (0, 1):
        shown &= windows[:, axis] <= needed[:, axis, None]
        shown &= windows[:, axis + 2] >= needed[:, axis + 2, None]
    return shown


def _around(boxes: Boxes, image_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the smallest square around boxes, moved into the image if it fits."""
    (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    side = max(x1 - x0, y1 - y0)
    left, top = slide(x0, x1 - x0, side, image_hw[1]), slide(y0, y1 - y0, side, image_hw[0])
    return (left, top, left + side, top + side)
