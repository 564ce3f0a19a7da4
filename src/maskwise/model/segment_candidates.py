"""What makes a segment: where to look, which masks are good, which are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, UInt64

COARSEST = 4
"""The first round of a grid takes every fourth point in each direction."""
MIN_CELLS = 16
"""Masks of fewer cells are drawn even if they look like a known one: their previews are too coarse to tell."""
CAUTION = 0.05
"""Masks whose previews overlap by this much more than masks may are not drawn."""
MARGIN = 1.0
"""Logits by which a mask is drawn smaller and larger, to see whether it is stable."""


def grid_rounds(side: int) -> Iterator[Float64[np.ndarray, "points 2"]]:
    """Yield the points of a square grid in rounds, from coarse to fine: x, y, each 0 to 1.

    Each round halves the distance between points: first of rows and columns, then of diagonals.

    Args:
        side: number of points in each direction.

    >>> [len(points) for points in grid_rounds(8)]
    [4, 12, 16, 32]
    """
    column, row = np.meshgrid(np.arange(side), np.arange(side))
    rounds = np.full((side, side), 3)
    rounds[(column + row) % 2 == 0] = 2
    rounds[(column % 2 == 1) & (row % 2 == 1)] = 1
    rounds[(column % COARSEST == 1) & (row % COARSEST == 1)] = 0
    for number in range(4):
        chosen = rounds == number
        if chosen.any():
            yield (np.stack([column[chosen], row[chosen]], axis=1) + 0.5) / side


def stability(logits: Float[np.ndarray, "masks rows columns"]) -> Float64[np.ndarray, " masks"]:
    """Return the IoU of each mask drawn at a higher and at a lower threshold, 0 to 1; 0 for an empty one.

    Source:
        The stability score of A. Kirillov et al., Segment anything, arXiv:2304.02643.

    >>> stability(np.array([[[3.0, 2.0, 0.5, -3.0]]])).tolist()
    [0.6666666666666666]
    """
    inner = (logits > MARGIN).sum(axis=(1, 2))
    outer = (logits > -MARGIN).sum(axis=(1, 2))
    return inner / np.maximum(outer, 1)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Masks that the network has drawn.

    Attributes:
        logits: above 0 is the object; four pixels a cell in each direction.
        previews: a logit for each cell.
        scores: predicted IoU of each, 0 to 1.
        stabilities: stability of each, 0 to 1.
    """

    logits: Float[np.ndarray, "masks rows columns"]
    previews: Float[np.ndarray, "masks cell_rows cell_columns"]
    scores: Float[np.ndarray, " masks"]
    stabilities: Float[np.ndarray, " masks"]

    def chosen(self, places: Int64[np.ndarray, " chosen"]) -> Drawn:
        """Return some of the masks, in the given order."""
        return Drawn(self.logits[places], self.previews[places], self.scores[places], self.stabilities[places])


class Candidates:
    """Masks found so far in one image, the best first; a mask that is nearly the same as a better one is dropped."""

    def __init__(self, cells_hw: tuple[int, int], max_overlap: float) -> None:
        """Start without any.

        Args:
            cells_hw: rows and columns of cells.
            max_overlap: two masks of a larger IoU are the same, 0 to 1.
        """
        self._cells_hw, self._max_overlap = cells_hw, max_overlap
        self._kept = self.none_drawn()

    def none_drawn(self) -> Drawn:
        """Return no masks."""
        rows, columns = self._cells_hw
        logits = np.zeros((0, 4 * rows, 4 * columns), dtype=np.float16)
        return Drawn(logits, np.zeros((0, rows, columns), dtype=np.float16), np.zeros(0), np.zeros(0))

    def __iter__(self) -> Iterator[tuple[Float[np.ndarray, "rows columns"], float, float]]:
        """Yield logits, score and stability of each, the best first."""
        kept = self._kept
        return zip(kept.logits, kept.scores.tolist(), kept.stabilities.tolist(), strict=True)

    def add(self, drawn: Drawn) -> None:
        """Add masks, and drop those that are nearly the same as a better one."""
        if not len(drawn.scores):
            return
        both = Drawn(
            np.concatenate([self._kept.logits, drawn.logits.astype(np.float16)]),
            np.concatenate([self._kept.previews, drawn.previews.astype(np.float16)]),
            np.concatenate([self._kept.scores, drawn.scores]),
            np.concatenate([self._kept.stabilities, drawn.stabilities]),
        )
        order = np.argsort(-both.scores, kind="stable")
        self._kept = both.chosen(order[distinct(packed(both.logits[order] > 0), self._max_overlap)])

    def may_be_new(
        self,
        previews: Float[np.ndarray, "prompts masks rows columns"],
        scores: Float[np.ndarray, "prompts masks"],
    ) -> Bool[np.ndarray, "prompts masks"]:
        """Return which masks look unlike every better one, so that drawing them could add something.

        Args:
            previews: a logit for each cell.
            scores: predicted IoU of each, 0 to 1.
        """
        known, new = (packed(array.reshape(-1, *self._cells_hw) > 0) for array in (self._kept.previews, previews))
        shared = np.bitwise_count(known[:, None] & new).sum(axis=2, dtype=np.int64)
        either = np.bitwise_count(known[:, None] | new).sum(axis=2, dtype=np.int64)
        better = self._kept.scores[:, None] >= scores.ravel()
        same = better & (either >= MIN_CELLS) & (shared > (self._max_overlap + CAUTION) * either)
        return ~same.any(axis=0).reshape(scores.shape)

    def covered(
        self, places: Int64[np.ndarray, "points 2"], max_area: float, min_score: float
    ) -> Bool[np.ndarray, " points"]:
        """Return which points lie in a mask that is good and not too large.

        Args:
            places: row and column in the masks.
            max_area: largest share of the image that such a mask covers, 0 to 1.
            min_score: smallest score of such a mask, 0 to 1.
        """
        inside = self._kept.logits[self._kept.scores >= min_score] > 0
        inside = inside[inside.mean(axis=(1, 2)) <= max_area]
        return inside[:, places[:, 0], places[:, 1]].any(axis=0)


def packed(masks: Bool[np.ndarray, "masks rows columns"]) -> UInt64[np.ndarray, "masks words"]:
    """Return masks as bits, 64 to a word; the last word is filled with zeros."""
    octets = np.packbits(masks.reshape(len(masks), masks.shape[1] * masks.shape[2]), axis=1)
    return np.pad(octets, ((0, 0), (0, -octets.shape[1] % 8))).view(np.uint64)


def distinct(masks: UInt64[np.ndarray, "masks words"], max_overlap: float) -> Int64[np.ndarray, " kept"]:
    """Return the places of masks that overlap no earlier kept one by more than an IoU.

    Args:
        masks: bits, the best first; an empty mask is never kept.
        max_overlap: IoU, 0 to 1.

    >>> distinct(packed(np.array([[[1, 1, 0]], [[1, 1, 1]], [[0, 0, 1]]], dtype=bool)), 0.6).tolist()
    [0, 2]
    """
    areas = np.bitwise_count(masks).sum(axis=1, dtype=np.int64)
    kept: list[int] = []
    for place in np.flatnonzero(areas).tolist():
        # An IoU cannot be larger than the smaller area divided by the larger: most pairs need no comparison.
        rivals = np.array(kept, dtype=np.int64)
        low, high = np.minimum(areas[rivals], areas[place]), np.maximum(areas[rivals], areas[place])
        rivals = rivals[low > max_overlap * high]
        shared = np.bitwise_count(masks[rivals] & masks[place]).sum(axis=1, dtype=np.int64)
        if not (shared > max_overlap * (areas[rivals] + areas[place] - shared)).any():
            kept.append(place)
    return np.array(kept, dtype=np.int64)
