"""Colours, text and outlines for every picture that Maskwise draws."""

from __future__ import annotations

import colorsys
import zlib
from functools import cache
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw, ImageFont

from maskwise.data.atomic_files import whole_file
from maskwise.data.images import Pixels

Colour = tuple[int, int, int]
"""Red, green, blue; 0 to 255."""
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
GREY: Colour = (128, 128, 128)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which has Latin, Greek and Cyrillic letters.

    Args:
        size: height, pixels.
    """
    return ImageFont.truetype(str(resources.files("maskwise") / "fonts" / "DejaVuSans.ttf"), size)


def class_colour(name: str) -> Colour:
    """Return the colour of a class: the same in every picture, saturated, neither dark nor pale.

    Args:
        name: the class.

    >>> class_colour("boat") == class_colour("boat"), class_colour("boat") == class_colour("person")
    (True, False)
    """
    code = zlib.crc32(name.encode())
    hue, lightness = code % 3600 / 3600, (0.45, 0.55, 0.65)[code // 3600 % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_colour(background: Colour) -> Colour:
    """Return black or white, whichever has the higher contrast on a background.

    Source:
        WCAG 2.2, relative luminance and contrast ratio.

    >>> text_colour((255, 230, 0)), text_colour((0, 0, 160))
    ((0, 0, 0), (255, 255, 255))
    """
    shares = [value / 255 for value in background]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if (luminance + 0.05) ** 2 > 0.05 * 1.05 else WHITE


def draw_outline(scene: Pixels, inside: Bool[np.ndarray, "height width"], colour: Colour, thickness: int) -> None:
    """Draw along a region's edge and the edges of its holes, in place.

    Args:
        scene: the image, rows one after the other in memory.
        inside: the region.
        colour: in the scene's order of channels.
        thickness: 1 is the region's own outermost pixels, more spreads to both sides, pixels.
    """
    contours, _ = cv2.findContours(inside.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(scene, contours, -1, colour, thickness)


def draw_plate(
    draw: ImageDraw.ImageDraw,
    box_xyxy: tuple[int, int, int, int],
    text: str,
    *,
    size: int,
    colour: Colour,
    radius: int = 0,
) -> None:
    """Draw text in the middle of a coloured box.

    Args:
        draw: draws on the picture.
        box_xyxy: left, top, right and bottom, pixels; the last two outside.
        text: one line.
        size: of the font, pixels.
        colour: of the box; the text is black or white.
        radius: of the corners, pixels.
    """
    left, top, right, bottom = box_xyxy
    ink = text_colour(colour)
    draw.rounded_rectangle((left, top, right - 1, bottom - 1), radius, fill=colour, outline=ink if radius else None)
    draw.text(((left + right) / 2, (top + bottom) / 2), text, ink, font(size), anchor="mm")


def write_picture(path: Path, pixels: Pixels) -> None:
    """Write in the format of the path's suffix, whole or not at all.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    with whole_file(path) as temporary:
        # Level 3 of PNG: 0.6 of the time of the default for 5 % more bytes.
        Image.fromarray(pixels).save(temporary, compress_level=3)
