"""Draw a few regions per class."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from maskwise.data.regions import RegionSet, grouped


def sample_per_class(regions: RegionSet, per_class: int, *, seed: int = 0) -> RegionSet:
    """At most so many regions of each class, drawn from as many images as there are; crowds left out.

    Args:
        regions: to draw from.
        per_class: at least 1.
        seed: of the draw.
    """
    found = regions.regions
    order = np.random.default_rng(seed).permutation(len(found))
    order = order[~found.crowd[order]]
    met = _times_met(found.name[order].astype(np.int64) * len(found.images) + found.image[order])
    order = order[np.argsort(met, kind="stable")]  # The first of its class in its image, then every second one, ...
    return RegionSet(regions.categories, found.only(np.sort(order[_times_met(found.name[order]) < per_class])))


def _times_met(codes: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """How often each value has stood before.

    >>> _times_met(np.array([7, 3, 7, 7])).tolist()
    [0, 0, 1, 2]
    """
    times = np.empty(len(codes), dtype=np.int64)
    for positions in grouped(codes):
        times[positions] = np.arange(len(positions))
    return times
