"""Decode COCO run-length encodings (RLE)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64

from maskwise.errors import MaskError

MAX_RUN_CHARACTERS = 7
"""Maximum number of characters of a compressed run: 35 bits, where pycocotools has 32."""


def are_run_lengths(values: list[Any] | tuple[Any, ...]) -> bool:
    """Return whether all values are whole numbers from 0.

    >>> are_run_lengths([3, 0]), are_run_lengths([]), are_run_lengths([3.0]), are_run_lengths([-1])
    (True, True, False, False)
    """
    try:
        array = np.array(values)
    except ValueError:  # Lists of unequal lengths.
        return False
    return not array.size or (array.ndim == 1 and array.dtype == np.int64 and bool(array.min() >= 0))


def decode_runs(counts: str | bytes) -> Int64[np.ndarray, " runs"]:
    """Decode the run lengths of COCO's compressed form.

    Each run is groups of five bits, the low ones first, as characters from '0' on, 32 meaning that more follow; 16 in
    the last group is the sign. From the fourth run on it is the difference from the last but one.

    Raises:
        MaskError: not of that form.

    >>> decode_runs("0130000").tolist()
    [0, 1, 3, 1, 3, 1, 3]
    """
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError as error:
        raise MaskError(f"the run-length encoding is malformed ({error})") from error
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return np.zeros(0, dtype=np.int64)
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends + 1])
    sizes = np.diff(starts)
    if codes.min() < 0 or codes.max() > 63 or starts[-1] != len(codes) or sizes.max() > MAX_RUN_CHARACTERS:
        raise MaskError("the run-length encoding is malformed (characters from '0' to 'o' make up its runs)")
    place = np.arange(len(codes)) - np.repeat(starts[:-1], sizes)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts[:-1])
    runs -= np.where(codes[ends] & 16, 1 << (5 * sizes), 0)
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    if runs.min() < 0:
        raise MaskError("the run-length encoding is malformed (a run is shorter than nothing)")
    return runs
