"""Integral images: sums over rectangles in constant time."""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Float64, UInt8, UInt32

MAX_CELLS = 2**24
"""Maximum number of cells of a table: 255 times this fits 32 bits. Three channels take 200 MB."""


class IntegralImage:
    """Sums of an array over the cells of any grid, exact up to 16.8 megapixels.

    The summed-area table (4 bytes per number) is made at the first use. A larger array is halved once or more first:
    the pixels of a block then share their mean.

    Source:
        F. C. Crow, Summed-area tables for texture mapping, SIGGRAPH 1984. Here edges of cells may lie
        between pixels: inside a pixel the sum grows linearly along rows and columns.
    """

    def __init__(self, array: UInt8[np.ndarray, "height width *channels"]) -> None:
        """Keep the array; nothing is computed yet.

        Args:
            array: 0 to 255.
        """
        self._array = array
        self._hw = array.shape[:2]
        self.block = 1
        """Side of the blocks of the table, pixels."""
        while _ceil(self._hw[0], self.block) * _ceil(self._hw[1], self.block) > MAX_CELLS:
            self.block *= 2

    @cached_property
    def _table(self) -> UInt32[np.ndarray, "rows columns *channels"]:
        halved, block = self._array, 1
        while block < self.block:
            block *= 2
            height, width = halved.shape[:2]
            even = cv2.copyMakeBorder(halved, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            halved = cv2.resize(even, (_ceil(width, 2), _ceil(height, 2)), interpolation=cv2.INTER_AREA)
        return cv2.integral(halved, sdepth=cv2.CV_32S).view(np.uint32)  # Signed numbers would overflow.

    def over(
        self, ys: Float64[np.ndarray, " rows_and_one"], xs: Float64[np.ndarray, " columns_and_one"]
    ) -> Float64[np.ndarray, "rows columns *channels"]:
        """Return the sum over every cell of a grid; outside the array all is 0.

        Args:
            ys: edges of the cells from top to bottom, pixels from the array's upper edge.
            xs: edges from left to right, pixels from its left edge.
        """
        table = self._table
        columns = table.shape[1]
        (row, down), (column, right) = (
            _placed(edges, limit, self.block) for edges, limit in zip((ys, xs), self._hw, strict=True)
        )
        colours = (1,) * (table.ndim - 2)
        down, right = down.reshape(-1, 1, *colours), right.reshape(-1, *colours)
        corner = row[:, None] * columns + column
        flat = table.reshape(-1, *table.shape[2:])
        upper, lower = (
            _between(flat.take(first, axis=0), flat.take(first + 1, axis=0), right)
            for first in (corner, corner + columns)
        )
        return np.diff(np.diff(_between(upper, lower, down), axis=0), axis=1) * self.block**2


def _ceil(length: int, block: int) -> int:
    return -(-length // block)


def _placed(edges: np.ndarray, limit: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the block of each edge and how far into it the edge lies (0 to 1); edges outside move to the array's."""
    places = np.clip(edges, 0, limit) / block
    blocks = np.minimum(places.astype(np.int64), _ceil(limit, block) - 1)
    return blocks, places - blocks


def _between(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    return first * (1 - share) + second * share
