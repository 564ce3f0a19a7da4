"""Draw named regions on their photograph."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from maskwise.data.images import ImageSource, Pixels, as_pixels
from maskwise.data.masks import Mask
from maskwise.errors import InputError
from maskwise.model.mask_inputs import Masks, as_masks
from maskwise.model.prediction import Prediction
from maskwise.reports.drawing import (
    BLACK,
    GREY,
    WHITE,
    Colour,
    class_colour,
    draw_outline,
    draw_plate,
    font,
    write_picture,
)
from maskwise.reports.label_placement import LabelPlacer, Place, by_size

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MIN_SIDE = 900
"""Smaller photographs are enlarged until their longest side has this many pixels."""
OPACITY = 0.4
"""Of the colour inside a region."""


@dataclass(frozen=True)
class _Label:
    """The label of one region."""

    number: int
    text: str
    colour: Colour
    place: Place


def draw_overlay(
    image: ImageSource, masks: Masks, predictions: Sequence[Prediction | None]
) -> UInt8[np.ndarray, "drawn_height drawn_width 3"]:
    """Return a photograph with every region tinted in the colour of its class, outlined and named.

    A region's number is its place in `masks`, from 1. Where a name has no room, a dot shows the number, and a legend
    beside the picture has the name.

    Args:
        image: height x width x 3, uint8, RGB; or what `load_image` takes, such as a path.
        masks: regions of the image, in any form that `Predictor.predict` takes.
        predictions: what each is, in the same order; None draws a grey outline without a name.

    Returns:
        Height x width x 3, uint8, RGB. Small photographs are enlarged; a legend adds width.

    >>> draw_overlay(np.zeros((60, 80, 3), dtype=np.uint8), [], []).shape
    (675, 900, 3)
    """
    pixels = as_pixels(image)
    return _drawn(pixels, as_masks(masks, (pixels.shape[0], pixels.shape[1])), predictions)


def _drawn(
    image: Pixels, masks: Sequence[Mask], predictions: Sequence[Prediction | None]
) -> UInt8[np.ndarray, "drawn_height drawn_width 3"]:
    scale = max(MIN_SIDE / max(image.shape[:2]), 1.0)
    height, width = round(image.shape[0] * scale), round(image.shape[1] * scale)
    thickness = max(round(max(height, width) / 450), 2)
    size = max(round(max(height, width) / 62), 14)
    labels = _labels(masks, predictions, (height, width), size)
    legend = _legend([label for label in labels if not label.place.written], height, size)
    # One array of the whole picture, and drawing in parts of it: a photograph of 12 megapixels is 36 MB.
    picture = np.empty((height, width + legend.shape[1], 3), dtype=np.uint8)
    picture[:, width:], scene = legend, picture[:, :width]
    scene[...] = image if scale == 1 else cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    for number in by_size(masks):  # Smaller regions lie over larger ones.
        prediction = predictions[number]
        _draw_region(scene, masks[number], None if prediction is None else class_colour(prediction.name), thickness)
    _draw_labels(scene, labels, size)
    return picture


def _draw_region(scene: Pixels, mask: Mask, colour: Colour | None, thickness: int) -> None:
    """Tint and outline a region in place; without a colour a grey outline only. Only its box is touched."""
    scale_y, scale_x = scene.shape[0] / mask.image_hw[0], scene.shape[1] / mask.image_hw[1]
    x, y, w, h = mask.box_xywh
    left, top = round(x * scale_x), round(y * scale_y)
    size = (max(round((x + w) * scale_x) - left, 1), max(round((y + h) * scale_y) - top, 1))
    bits = cv2.resize(mask.bits.view(np.uint8) * np.uint8(255), size, interpolation=cv2.INTER_LINEAR) >= 128
    box = scene[top : top + size[1], left : left + size[0]]
    bits = bits[: box.shape[0], : box.shape[1]]
    if colour is not None:
        tints = np.round(np.arange(256)[:, None] * (1 - OPACITY) + np.array(colour) * OPACITY).astype(np.uint8)
        np.copyto(box, cv2.LUT(box, tints[:, None]), where=bits[..., None])
    # With a margin: a thick line spreads to both sides of the edge.
    before = (min(thickness, top), min(thickness, left))
    around = scene[top - before[0] : top + size[1] + thickness, left - before[1] : left + size[0] + thickness]
    inside = np.zeros(around.shape[:2], dtype=bool)
    inside[before[0] : before[0] + bits.shape[0], before[1] : before[1] + bits.shape[1]] = bits
    canvas = np.ascontiguousarray(around)
    draw_outline(canvas, inside, GREY if colour is None else colour, thickness if colour else max(thickness // 2, 1))
    around[...] = canvas


def _labels(
    masks: Sequence[Mask], predictions: Sequence[Prediction | None], picture_hw: tuple[int, int], size: int
) -> list[_Label]:
    """Return the labels of named regions; the largest regions choose their places first."""
    if not masks:
        return []
    placer, labels = LabelPlacer(masks, picture_hw), []
    for number in by_size(masks):
        prediction = predictions[number]
        if prediction is not None:
            text = f"{number + 1} {prediction.name} {prediction.probability:.0%}"
            text_wh = (round(font(size).getlength(text)) + size, round(1.6 * size))
            place = placer.place(number, text_wh, dot=round(1.7 * size))
            labels.append(_Label(number + 1, text, class_colour(prediction.name), place))
    return labels


def _draw_labels(scene: Pixels, labels: Sequence[_Label], size: int) -> None:
    for label in labels:  # Lines first: no line crosses a label.
        if label.place.target_xy is not None:
            _draw_line(scene, label.place.centre_xy, label.place.target_xy, label.colour, size)
    for label in labels:
        written = label.place.written
        text = label.text if written else str(label.number)
        font_size = size if written else round(0.85 * size)
        width = round(font(size).getlength(text)) + size if written else round(1.7 * size)
        height = round(1.6 * size) if written else round(1.7 * size)
        left, top = label.place.centre_xy[0] - width // 2, label.place.centre_xy[1] - height // 2
        radius = 0 if written else height // 2
        with _part(scene, (left, top, left + width + 1, top + height + 1)) as (draw, x, y):
            box = (left - x, top - y, left + width - x, top + height - y)
            draw_plate(draw, box, text, size=font_size, colour=label.colour, radius=radius)


def _draw_line(scene: Pixels, start: tuple[int, int], end: tuple[int, int], colour: Colour, size: int) -> None:
    """Draw a line in a colour with a black edge."""
    (left, right), (top, bottom) = (sorted(pair) for pair in zip(start, end, strict=True))
    with _part(scene, (left - size, top - size, right + size, bottom + size)) as (draw, x, y):
        line = (start[0] - x, start[1] - y, end[0] - x, end[1] - y)
        draw.line(line, BLACK, max(size // 4, 3))
        draw.line(line, colour, max(size // 8, 1))


@contextmanager
def _part(scene: Pixels, box_xyxy: tuple[int, int, int, int]) -> Iterator[tuple[ImageDraw.ImageDraw, int, int]]:
    """Give a part of an image to draw on, with the place of its left top corner."""
    left, top = max(box_xyxy[0], 0), max(box_xyxy[1], 0)
    part = scene[top : max(box_xyxy[3], top + 1), left : max(box_xyxy[2], left + 1)]
    image = Image.fromarray(part)
    yield ImageDraw.Draw(image), left, top
    part[...] = np.asarray(image)


def _legend(labels: Sequence[_Label], height: int, size: int) -> UInt8[np.ndarray, "height width 3"]:
    """Return the names of numbered dots, as wide as they need; without any, no column."""
    if not labels:
        return np.empty((height, 0, 3), dtype=np.uint8)
    line, margin = round(1.9 * size), size
    rows = max((height - 2 * margin) // line, 1)
    column = round(max(font(size).getlength(label.text) for label in labels)) + 3 * size
    columns = -(-len(labels) // rows)
    page = Image.new("RGB", (columns * column + margin, height), WHITE)
    draw = ImageDraw.Draw(page)
    for place, label in enumerate(sorted(labels, key=lambda label: label.number)):
        left = margin + place // rows * column
        middle = margin + place % rows * line + line // 2
        dot = round(0.9 * size)
        draw.ellipse((left, middle - dot // 2, left + dot, middle + dot // 2), fill=label.colour)
        draw.text((left + round(1.5 * size), middle), label.text, BLACK, font(size), anchor="lm")
    return np.asarray(page)


def write_overlay(
    path: str | os.PathLike[str], image: Pixels, masks: Sequence[Mask], predictions: Sequence[Prediction | None]
) -> None:
    """Draw and write in the format of the path's suffix, whole or not at all; arguments as in `draw_overlay`.

    Raises:
        InputError: the suffix is not a picture's, or the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    write_picture(path, draw_overlay(image, masks, predictions))


def check_suffix(path: Path) -> None:
    """Refuse a picture in a format that cannot be written.

    Raises:
        InputError: the path's suffix is not a picture's.
    """
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise InputError(f"{path}: accepted suffixes of pictures are {', '.join(PICTURE_SUFFIXES)}")
