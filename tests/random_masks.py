"""Masks for laws that hold for every mask."""

import numpy as np
from hypothesis import strategies as st

from maskwise import Mask

seeds = st.integers(0, 2**32 - 1)


def random_mask(seed):
    """A few blots at a random place of a small image."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 70, 2)
    bits = np.zeros((height, width), bool)
    for _ in range(rng.integers(1, 4)):
        y, x = rng.integers(0, height - 1), rng.integers(0, width - 1)
        bits[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = True
    return Mask.from_array(bits), rng
