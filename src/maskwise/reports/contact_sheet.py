"""Contact sheets: crops side by side, regions outlined, a few words under each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from maskwise.data.images import Pixels
from maskwise.reports.drawing import draw_outline, font

LONGEST = 320
"""Longest side of a drawn crop: larger crops are shrunk, smaller ones enlarged by a whole factor, pixels."""
NARROWEST = 160
"""Minimum width of a column, so that the words have room, pixels."""
GAP = 12
"""Space between columns, between rows and at the edges, pixels."""
LINE = 16
"""Height of a line of words, pixels."""
FONT_SIZE = 12
"""Height of the letters, pixels."""
YELLOW_RGB, BLACK_RGB, GREY_RGB, WHITE_RGB = (255, 225, 25), (0, 0, 0), (90, 90, 90), (255, 255, 255)


@dataclass(frozen=True)
class Tile:
    """One view and what is said of it.

    Attributes:
        pixels: as the network gets them.
        coverage: how much of each pixel the region covers (0 none, 255 all).
        lines: words to stand under it; one that is too long loses its middle.
    """

    pixels: Pixels
    coverage: UInt8[np.ndarray, "height width"]
    lines: tuple[str, ...]


def make_contact_sheet(tiles: Sequence[Tile], columns: int = 5) -> Pixels:
    """Tiles row by row on white; a view that is smaller than others stands in the middle of its column, on its words.

    Args:
        tiles: at least one.
        columns: at most this many in a row.
    """
    views = [outlined(tile.pixels, tile.coverage) for tile in tiles]
    width = max(NARROWEST, *(view.shape[1] for view in views))
    height = max(view.shape[0] for view in views)
    words = LINE * max(len(tile.lines) for tile in tiles) + LINE // 2
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    step_x, step_y = width + GAP, height + words + GAP
    page = Image.new("RGB", (GAP + columns * step_x, GAP + rows * step_y), WHITE_RGB)
    for number, (tile, view) in enumerate(zip(tiles, views, strict=True)):
        x, y = GAP + number % columns * step_x, GAP + number // columns * step_y
        page.paste(Image.fromarray(view), (x + (width - view.shape[1]) // 2, y + height - view.shape[0]))
        _write(page, tile.lines, x + width // 2, y + height, width)
    return np.array(page)


def outlined(
    pixels: Pixels, coverage: UInt8[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "drawn_height drawn_width 3"]:
    """A view at the size of a sheet, its region outlined in yellow between black, nothing else changed.

    Args:
        pixels: the view.
        coverage: how much of each pixel the region covers; the outline runs where it passes a half, or on all that is
            covered at all where nothing is so by half.
    """
    scene, coverage = _scaled(pixels), _scaled(coverage)
    inside = coverage >= 128 if coverage.max() >= 128 else coverage > 0
    draw_outline(scene, inside, BLACK_RGB, 3)
    draw_outline(scene, inside, YELLOW_RGB, 1)
    return scene


def _scaled(array: np.ndarray) -> np.ndarray:
    height, width = array.shape[:2]
    longest = max(height, width)
    if longest > LONGEST:
        size = (max(round(width * LONGEST / longest), 1), max(round(height * LONGEST / longest), 1))
        return cv2.resize(array, size, interpolation=cv2.INTER_AREA)
    factor = LONGEST // longest  # Whole, so that a pixel of the network's is a square.
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _write(page: Image.Image, lines: Sequence[str], centre: int, top: int, width: int) -> None:
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        colour = GREY_RGB if number else BLACK_RGB
        draw.text((centre, top + LINE * (number + 1)), shortened(line, width), colour, font(FONT_SIZE), anchor="ms")


def shortened(text: str, width: int) -> str:
    """The text, without its middle where it would be wider than that many pixels on a sheet."""
    kept = len(text)
    short = text
    while kept > 2 and font(FONT_SIZE).getlength(short) > width:
        kept -= 1
        short = text[: kept - kept // 2] + "…" + text[len(text) - kept // 2 :]
    return short
