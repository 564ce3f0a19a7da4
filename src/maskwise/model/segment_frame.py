"""The square in which the segmenter sees a photograph, and the way back from its masks to the photograph's pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from PIL import Image

from maskwise.data.images import Pixels
from maskwise.data.masks import Mask

SIDE = 1024
"""Height and width of the frame, pixels."""
CELL = 16
"""Height and width of a cell of the encoded image, pixels of the frame."""
GRID = SIDE // CELL
"""Cells along each side of the frame."""
BLOCK = 4
"""Cells along each side of a block beside the photograph, one of which stands for all."""
STRIDE = 4
"""Height and width of a pixel of the network's masks, pixels of the frame."""
MEAN = np.array([123.675, 116.28, 103.53], dtype=np.float32)
STD = np.array([58.395, 57.12, 57.375], dtype=np.float32)
"""By which the network's colours are normalised, on the scale 0 to 255."""


@dataclass(frozen=True)
class Frame:
    """A photograph, scaled until its longer side has 1,024 pixels, in the top left corner of a square.

    Source:
        A. Kirillov et al., Segment anything, arXiv:2304.02643. There, masks are enlarged to the frame first and then to
        the photograph; here in one step, and only inside the mask's box.

    Attributes:
        image_hw: height and width of the photograph, pixels.

    >>> Frame((480, 640)).size_hw, Frame((480, 640)).cells_hw
    ((768, 1024), (48, 64))
    """

    image_hw: tuple[int, int]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the scaled photograph, pixels of the frame."""
        scale = SIDE / max(self.image_hw)
        height, width = (max(int(side * scale + 0.5), 1) for side in self.image_hw)
        return height, width

    @property
    def cells_hw(self) -> tuple[int, int]:
        """Rows and columns of cells that the photograph touches."""
        height, width = (-(-side // CELL) for side in self.size_hw)
        return height, width

    def cells(self) -> tuple[Int64[np.ndarray, " cells"], Int64[np.ndarray, " cells"]]:
        """Return the cells that the decoder attends to, and the number of cells that each of them stands for.

        First come the cells that the photograph touches, row by row. Beside it the frame is empty and cells differ
        little: of each block, one stands for all. That saves a fifth of the time at 4:3; the mean IoU of 528 boxes
        changed from 0.6930 to 0.6927 (COCO train2017, 2026-11-27), to 0.6875 without any cell beside the photograph.
        """
        rows, columns = self.cells_hw
        inside = (np.arange(rows)[:, None] * GRID + np.arange(columns)).ravel()
        chosen, sizes = [inside], [np.ones_like(inside)]
        for (top, bottom), (left, right) in (((0, rows), (columns, GRID)), ((rows, GRID), (0, GRID))):
            (row, height), (column, width) = _blocks(top, bottom), _blocks(left, right)
            chosen.append((row[:, None] * GRID + column).ravel())
            sizes.append((height[:, None] * width).ravel())
        return np.concatenate(chosen), np.concatenate(sizes)

    def pixels(self, image: Pixels) -> Float32[np.ndarray, "1 3 side side"]:
        """Return the network's input: the photograph scaled and normalised, zeros beside it."""
        height, width = self.size_hw
        scaled = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        out = np.zeros((1, 3, SIDE, SIDE), dtype=np.float32)
        out[0, :, :height, :width] = ((scaled - MEAN) / STD).transpose(2, 0, 1)
        return out

    def points(self, points: Float[np.ndarray, "*shape 2"]) -> Float32[np.ndarray, "*shape 2"]:
        """Return points of the photograph as points of the frame; x, y, pixels."""
        scale = np.array([size / side for size, side in zip(self.size_hw, self.image_hw, strict=True)])
        return (points * scale[::-1]).astype(np.float32)

    def mask(self, logits: Float[np.ndarray, "rows columns"]) -> Mask | None:
        """Return the mask of logits in the photograph's pixels; None if it covers no pixel.

        Args:
            logits: of all cells that the photograph touches, four a cell in each direction; above 0 is the object.
        """
        inside = logits > 0
        spans = []
        for axis in (0, 1):
            places = np.flatnonzero(inside.any(axis=1 - axis))
            if not len(places):
                return None
            scale = self.size_hw[axis] / self.image_hw[axis] / STRIDE
            # Interpolation reaches half a pixel of the logits further out, at most one.
            first = max(int(np.floor(places[0] / scale - 1 / scale)), 0)
            last = min(int(np.ceil((places[-1] + 2) / scale)), self.image_hw[axis])
            spans.append((first, (np.arange(first, last) + 0.5) * scale - 0.5))
        (top, rows), (left, columns) = spans
        bits = interpolated(logits.astype(np.float32), rows, columns) > 0
        if not bits.any():
            return None
        return Mask.from_array(bits, origin_xy=(left, top), image_hw=self.image_hw)


def _blocks(start: int, stop: int) -> tuple[Int64[np.ndarray, " blocks"], Int64[np.ndarray, " blocks"]]:
    """Return the middle and the length of blocks of a range of cells."""
    starts = np.arange(start, stop, BLOCK)
    ends = np.minimum(starts + BLOCK, stop)
    return (starts + ends - 1) // 2, ends - starts


def interpolated(
    array: Float32[np.ndarray, "height width"],
    rows: Float64[np.ndarray, " out_height"],
    columns: Float64[np.ndarray, " out_width"],
) -> Float32[np.ndarray, "out_height out_width"]:
    """Interpolate linearly; places outside take the nearest number.

    Args:
        array: at least two rows and columns.
        rows: places from 0 to height - 1.
        columns: places from 0 to width - 1.

    >>> interpolated(np.array([[0, 4], [8, 12]], dtype=np.float32), np.array([0.5]), np.array([-1, 0.25])).tolist()
    [[4.0, 5.0]]
    """
    for axis, places in enumerate((rows, columns)):
        before = np.clip(np.floor(places), 0, array.shape[axis] - 2).astype(np.intp)
        share = np.clip(places - before, 0, 1).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        low, high = array.take(before, axis=axis), array.take(before + 1, axis=axis)
        array = low + share * (high - low)
    return array
