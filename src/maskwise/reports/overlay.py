"""Draw named regions on their photograph."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
    scene = image.copy() if scale == 1 else cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    thickness = max(round(max(height, width) / 450), 2)
    for number in by_size(masks):  # Smaller regions lie over larger ones.
        prediction = predictions[number]
        _draw_region(scene, masks[number], None if prediction is None else class_colour(prediction.name), thickness)
    size = max(round(max(height, width) / 62), 14)
    labels = _labels(masks, predictions, (height, width), size)
    picture = Image.fromarray(scene)
    _draw_labels(ImageDraw.Draw(picture), labels, size)
    return np.array(_with_legend(picture, [label for label in labels if not label.place.written], size))


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
        tinted = box[bits] * (1 - OPACITY) + np.array(colour) * OPACITY
        box[bits] = tinted.round().astype(np.uint8)
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


def _draw_labels(draw: ImageDraw.ImageDraw, labels: Sequence[_Label], size: int) -> None:
    for label in labels:  # Lines first: no line crosses a label.
        if label.place.target_xy is not None:
            draw.line((*label.place.centre_xy, *label.place.target_xy), BLACK, max(size // 4, 3))
            draw.line((*label.place.centre_xy, *label.place.target_xy), label.colour, max(size // 8, 1))
    for label in labels:
        written = label.place.written
        text = label.text if written else str(label.number)
        font_size = size if written else round(0.85 * size)
        width = round(font(size).getlength(text)) + size if written else round(1.7 * size)
        height = round(1.6 * size) if written else round(1.7 * size)
        left, top = label.place.centre_xy[0] - width // 2, label.place.centre_xy[1] - height // 2
        radius = 0 if written else height // 2
        box = (left, top, left + width, top + height)
        draw_plate(draw, box, text, size=font_size, colour=label.colour, radius=radius)


def _with_legend(picture: Image.Image, labels: Sequence[_Label], size: int) -> Image.Image:
    """Return the picture with the names of its numbered dots beside it."""
    if not labels:
        return picture
    line, margin = round(1.9 * size), size
    rows = max((picture.height - 2 * margin) // line, 1)
    column = round(max(font(size).getlength(label.text) for label in labels)) + 3 * size
    columns = -(-len(labels) // rows)
    page = Image.new("RGB", (picture.width + columns * column + margin, picture.height), WHITE)
    page.paste(picture)
    draw = ImageDraw.Draw(page)
    for place, label in enumerate(sorted(labels, key=lambda label: label.number)):
        left = picture.width + margin + place // rows * column
        middle = margin + place % rows * line + line // 2
        dot = round(0.9 * size)
        draw.ellipse((left, middle - dot // 2, left + dot, middle + dot // 2), fill=label.colour)
        draw.text((left + round(1.5 * size), middle), label.text, BLACK, font(size), anchor="lm")
    return page


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
