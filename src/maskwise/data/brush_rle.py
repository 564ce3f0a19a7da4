"""Encode masks in Label Studio's run-length encoding, which its brush regions have."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from maskwise.data.masks import Mask

CHANNELS = 4
"""Label Studio encodes pictures in RGBA: each pixel is four equal values."""
LENGTH_BITS = np.array([3, 4, 8, 16])
"""Sizes of the numbers that hold a run's length less one."""


def brush_runs(mask: Mask) -> UInt8[np.ndarray, " bytes"]:
    """Return a mask in Label Studio's encoding.

    A header: the number of values (32 bits), bits of a value less one (5), four sizes of lengths less one (4 each).
    Then runs: a bit that is 1, the number of a size (2), the length less one, the value (8). Bits are padded to bytes.

    Source:
        thi.ng/umbrella, rle-pack (K. Schmidt), which Label Studio uses.
    """
    height, width = mask.image_hw
    _, top, _, box_height = mask.box_xywh
    rows = mask.crop(0, top, width, top + box_height).ravel()
    changes = np.flatnonzero(rows[1:] != rows[:-1]) + 1
    starts = np.concatenate([[0], changes])
    lengths = np.diff(starts, append=len(rows))
    values = rows[starts]
    if not values[0]:
        lengths[0] += top * width
    elif top:
        lengths, values = np.concatenate([[top * width], lengths]), np.concatenate([[False], values])
    below = (height - top - box_height) * width
    if not values[-1]:
        lengths[-1] += below
    elif below:
        lengths, values = np.append(lengths, below), np.append(values, False)
    return _packed(lengths * CHANNELS, values, height * width * CHANNELS)


def _packed(lengths: np.ndarray, values: np.ndarray, total: int) -> UInt8[np.ndarray, " bytes"]:
    longest = 1 << int(LENGTH_BITS[-1])
    pieces = -(-lengths // longest)
    last = lengths - (pieces - 1) * longest
    lengths = np.full(int(pieces.sum()), longest)
    lengths[np.cumsum(pieces) - 1] = last
    values = np.repeat(values, pieces)
    kind = np.searchsorted(1 << LENGTH_BITS, lengths)
    sizes = LENGTH_BITS[kind]
    # At most 27 bits a run, left-aligned in 32.
    words = (1 << 31) | (kind << 29) | ((lengths - 1) << (29 - sizes)) | (values * 255 << (21 - sizes))
    bits = np.unpackbits(words.astype(">u4").view(np.uint8)).reshape(-1, 32)
    runs = bits[np.arange(32) < (11 + sizes)[:, None]]
    header = [(total, 32), (7, 5), *((int(size) - 1, 4) for size in LENGTH_BITS)]
    first = "".join(f"{value:0{size}b}" for value, size in header)
    return np.packbits(np.concatenate([np.array(list(first), dtype=np.uint8), runs]))
