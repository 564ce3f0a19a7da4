"""Encode and decode Label Studio's run-length encoding, which its brush regions have."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8

from maskwise.data.masks import Mask
from maskwise.errors import MaskError

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


def mask_of_brush(runs: Any, image_hw: tuple[int, int]) -> Mask:
    """Return the mask of Label Studio's encoding; see `brush_runs`. Pixels of opacity above 127 are the region.

    Besides runs, a list of values may follow: a bit that is 0, the number of a size, the count less one, the values.

    Args:
        runs: bytes as whole numbers, 0 to 255.
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: not bytes, cut short, of an image of another size, or no pixel is set.
    """
    try:
        data = bytes(np.asarray(runs).tolist())
    except (TypeError, ValueError) as error:
        raise MaskError("the brush's 'rle' is no list of whole numbers from 0 to 255; give Label Studio's") from error
    if len(data) < 7:
        raise MaskError("the brush's 'rle' is cut short; give all of Label Studio's numbers")
    bits = _Bits(data)
    total, value_bits = bits.read(32), bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in range(4)]
    height, width = image_hw
    if total != height * width * CHANNELS or value_bits != 8:
        raise MaskError(
            f"the brush has {total} values of {value_bits} bits, an image of {width} x {height} needs"
            f" {height * width * CHANNELS} of 8 (width x height); give a region of this image"
        )
    opacity = np.zeros(height * width, dtype=np.uint8)
    done = 0
    while done < total:
        is_run = bits.read(1)
        end = min(done + bits.read(sizes[bits.read(2)]) + 1, total)
        # A pixel's opacity is the last of its values.
        pixels = slice(done // CHANNELS, end // CHANNELS)
        if is_run:
            opacity[pixels] = bits.read(8)
        else:
            opacity[pixels] = bits.read_bytes(end - done)[(CHANNELS - 1 - done) % CHANNELS :: CHANNELS]
        done = end
    return Mask.from_array(opacity.reshape(height, width) > 127)


class _Bits:
    """Reads numbers from bytes, the highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def read(self, size: int) -> int:
        """Return the number in the next bits, at most 32."""
        first, self._place = self._place, self._place + size
        if self._place > 8 * len(self._data):
            raise MaskError("the brush's 'rle' is cut short; give all of Label Studio's numbers")
        window = int.from_bytes(self._data[first // 8 : first // 8 + 5].ljust(5, b"\0"))
        return (window >> (40 - first % 8 - size)) & ((1 << size) - 1)

    def read_bytes(self, count: int) -> np.ndarray:
        """Return the next bytes, which may begin within one."""
        first, self._place = self._place, self._place + 8 * count
        if self._place > 8 * len(self._data):
            raise MaskError("the brush's 'rle' is cut short; give all of Label Studio's numbers")
        part = np.frombuffer(self._data[first // 8 : -(-self._place // 8)], dtype=np.uint8)
        return np.packbits(np.unpackbits(part)[first % 8 : first % 8 + 8 * count])
