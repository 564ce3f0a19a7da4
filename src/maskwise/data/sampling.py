"""Draw a few regions per class."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from maskwise.data.regions import RegionSet, grouped


def sample_per_class(regions: RegionSet, per_class: int, *, seed: int = 0) -> RegionSet:
    """Draw a limited number of regions per class, spread over as many images as possible, without crowds.

    Args:
        regions: to draw from.
        per_class: maximum number of regions per class, at least 1.
        seed: of the draw.
    """
    given = regions.regions
    order = np.random.default_rng(seed).permutation(len(given))
    order = order[~given.crowd[order]]
    met = _times_met(given.name[order].astype(np.int64) * len(given.images) + given.image[order])
    order = order[np.argsort(met, kind="stable")]  # First regions of their class in their image, then second ones, ...
    return regions.only(np.sort(order[_times_met(given.name[order]) < per_class]))


def _times_met(codes: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Count how often each value occurred before.

    >>> _times_met(np.array([7, 3, 7, 7])).tolist()
    [0, 0, 1, 2]
    """
    times = np.empty(len(codes), dtype=np.int64)
    for positions in grouped(codes):
        times[positions] = np.arange(len(positions))
    return times
