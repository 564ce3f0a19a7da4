"""What makes a segment: where to look, which masks are good, which are the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, UInt64

COARSEST = 4
"""The first round of a grid takes every fourth point in each direction."""
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


class Candidates:
    """Masks found so far in one image, the best first; a mask that is nearly the same as a better one is dropped."""

    def __init__(self, mask_hw: tuple[int, int], max_overlap: float) -> None:
        """Start without any.

        Args:
            mask_hw: height and width of the network's masks, pixels.
            max_overlap: two masks of a larger IoU are the same, 0 to 1.
        """
        self._max_overlap = max_overlap
        self.logits: Float[np.ndarray, "masks rows columns"] = np.zeros((0, *mask_hw), dtype=np.float16)
        self.scores: Float64[np.ndarray, " masks"] = np.zeros(0)
        self.stabilities: Float64[np.ndarray, " masks"] = np.zeros(0)

    def add(
        self,
        logits: Float[np.ndarray, "masks rows columns"],
        scores: Float64[np.ndarray, " masks"],
        stabilities: Float64[np.ndarray, " masks"],
    ) -> None:
        """Add masks, and drop those that are nearly the same as a better one.

        Args:
            logits: above 0 is the object.
            scores: predicted IoU of each, 0 to 1.
            stabilities: stability of each, 0 to 1.
        """
        all_logits = np.concatenate([self.logits, logits.astype(np.float16)])
        all_scores, all_stabilities = (
            np.concatenate(pair) for pair in ((self.scores, scores), (self.stabilities, stabilities))
        )
        order = np.argsort(-all_scores, kind="stable")
        kept = order[distinct(packed(all_logits[order] > 0), self._max_overlap)]
        self.logits, self.scores, self.stabilities = all_logits[kept], all_scores[kept], all_stabilities[kept]

    def covered(
        self, places: Int64[np.ndarray, "points 2"], max_area: float, min_score: float
    ) -> Bool[np.ndarray, " points"]:
        """Return which points lie in a mask that is good and not too large.

        Args:
            places: row and column in the masks.
            max_area: largest share of the image that such a mask covers, 0 to 1.
            min_score: smallest score of such a mask, 0 to 1.
        """
        inside = self.logits[self.scores >= min_score] > 0
        inside = inside[inside.mean(axis=(1, 2)) <= max_area]
        return inside[:, places[:, 0], places[:, 1]].any(axis=0)


def packed(masks: Bool[np.ndarray, "masks rows columns"]) -> UInt64[np.ndarray, "masks words"]:
    """Return masks as bits, 64 to a word; the last word is filled with zeros."""
    octets = np.packbits(masks.reshape(len(masks), -1), axis=1)
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
