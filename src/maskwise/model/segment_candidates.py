"""What makes a segment: where to look, which masks are good, which are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float16, Float64, Int64, UInt64

from maskwise.model.segment_frame import STRIDE
from maskwise.model.segment_network import Prompted

COARSEST = 4
"""The first round of a grid takes every fourth point in each direction."""
MIN_CELLS = 16
"""Masks of fewer cells are drawn even if they look like a known one: their previews are too coarse to tell."""
CAUTION = 0.05
"""Masks whose previews overlap by this much more than masks may, or are less steady by twice as much, are not drawn."""
REACH = 1, 2
"""Cells drawn around those in which previews show something, and around a click."""
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

    logits: Float16[np.ndarray, "masks rows columns"]
    previews: Float[np.ndarray, "masks cell_rows cell_columns"]
    scores: Float[np.ndarray, " masks"]
    stabilities: Float64[np.ndarray, " masks"]

    def chosen(self, places: Int64[np.ndarray, " chosen"]) -> Drawn:
        """Return some of the masks, in the given order."""
        return Drawn(self.logits[places], self.previews[places], self.scores[places], self.stabilities[places])

    def steadier_than(self, min_stability: float) -> Drawn:
        """Return the masks of at least this stability."""
        return self.chosen(np.flatnonzero(self.stabilities >= min_stability))


def shown(
    previews: Float[np.ndarray, "masks rows columns"], click: Int64[np.ndarray, " row_column"]
) -> tuple[slice, slice]:
    """Return the rows and columns of cells in which masks may have pixels.

    Args:
        previews: a logit for each cell.
        click: row and column of the clicked cell.

    >>> shown(np.array([[[-9.0, -9.0, -9.0, -9.0, 9.0, -9.0]]]), np.array([0, 2]))
    (slice(0, 1, None), slice(0, 6, None))
    """
    anywhere = previews.max(axis=0) > -MARGIN
    spans = []
    for axis, place in enumerate(click.tolist()):
        used = np.flatnonzero(anywhere.any(axis=1 - axis)).tolist() or [place]
        first = min(used[0] - REACH[0], place - REACH[1])
        last = max(used[-1] + REACH[0], place + REACH[1])
        spans.append(slice(max(first, 0), min(last + 1, anywhere.shape[axis])))
    return spans[0], spans[1]


class Candidates:
    """Masks found so far in one image, the best first; a mask that is nearly the same as a better one is dropped."""

    def __init__(self, cells_hw: tuple[int, int], max_overlap: float) -> None:
        """Start without any.

        Args:
            cells_hw: rows and columns of cells.
            max_overlap: two masks of a larger IoU are the same, 0 to 1.
        """
        self._cells_hw, self._max_overlap = cells_hw, max_overlap
        rows, columns = cells_hw
        logits = np.zeros((0, STRIDE * rows, STRIDE * columns), dtype=np.float16)
        self._kept = Drawn(logits, np.zeros((0, rows, columns), dtype=np.float32), np.zeros(0), np.zeros(0))

    def __iter__(self) -> Iterator[tuple[Float[np.ndarray, "rows columns"], float, float]]:
        """Yield logits, score and stability of each, the best first."""
        kept = self._kept
        return zip(kept.logits, kept.scores.tolist(), kept.stabilities.tolist(), strict=True)

    def add(self, drawn: Sequence[Drawn]) -> None:
        """Add masks, and drop those that are nearly the same as a better one."""
        parts = [self._kept, *drawn]
        both = Drawn(
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.previews for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.stabilities for part in parts]),
        )
        order = np.argsort(-both.scores, kind="stable")
        self._kept = both.chosen(order[distinct(packed(both.logits[order] > 0), self._max_overlap)])

    def may_be_new(self, prompted: Prompted, min_stability: float) -> Bool[np.ndarray, "prompts masks"]:
        """Return which masks could add something if they were drawn.

        By their previews, these look unlike every better mask, and steady.

        Args:
            prompted: the masks.
            min_stability: smallest stability, 0 to 1.
        """
        previews = prompted.previews.reshape(-1, *self._cells_hw)
        known, new = (packed(array > 0) for array in (self._kept.previews, previews))
        shared = np.bitwise_count(known[:, None] & new).sum(axis=2, dtype=np.int64)
        either = np.bitwise_count(known[:, None] | new).sum(axis=2, dtype=np.int64)
        better = self._kept.scores[:, None] >= prompted.scores.ravel()
        same = better & (either >= MIN_CELLS) & (shared > (self._max_overlap + CAUTION) * either)
        large = (previews > 0).sum(axis=(1, 2)) >= MIN_CELLS
        shaky = large & (stability(previews) < min_stability - 2 * CAUTION)
        return ~(same.any(axis=0) | shaky).reshape(prompted.scores.shape)

    def covered(
        self, places: Int64[np.ndarray, "points 2"], min_score: float, times: int
    ) -> Bool[np.ndarray, " points"]:
        """Return which points lie in several good masks, as of a thing and of a part of it.

        Args:
            places: row and column in the masks.
            min_score: smallest score of such a mask, 0 to 1.
            times: number of such masks.
        """
        good = self._kept.logits[self._kept.scores >= min_score]
        return (good[:, places[:, 0], places[:, 1]] > 0).sum(axis=0) >= times


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
