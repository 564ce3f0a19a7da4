"""Draw named regions on their photograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import supervision

from maskwise.data.images import Pixels
from maskwise.data.masks import Mask
from maskwise.errors import InputError
from maskwise.model.prediction import Prediction
from maskwise.reports.contact_sheet import draw_outline, write_picture

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def draw_overlay(image: Pixels, masks: Sequence[Mask], predictions: Sequence[Prediction]) -> Pixels:
    """The image with every region tinted, outlined and named.

    Args:
        image: RGB, 0 to 255.
        masks: regions of that image.
        predictions: what they are, in the same order.
    """
    scene = np.ascontiguousarray(image[..., ::-1])  # supervision draws in BGR.
    if not masks:
        return image
    boxes = np.array([mask.box_xywh for mask in masks], dtype=float)
    boxes[:, 2:] += boxes[:, :2]
    detections = supervision.Detections(
        xyxy=boxes, mask=np.stack([mask.to_array() for mask in masks]), class_id=np.arange(len(masks))
    )
    size = max(image.shape[:2])
    thickness, text_scale = max(round(size / 350), 1), max(size / 1100, 0.4)
    lookup = supervision.ColorLookup.INDEX
    scene = supervision.MaskAnnotator(opacity=0.35, color_lookup=lookup).annotate(scene, detections)
    for number, mask in enumerate(detections.mask):
        draw_outline(scene, mask, supervision.ColorPalette.DEFAULT.by_idx(number).as_bgr(), thickness)
    # A ring's centre of mass is not in the ring: a name stands where its region is thickest.
    points = np.array([thickest_point(mask) for mask in masks], dtype=float)
    anchors = supervision.Detections(xyxy=np.hstack([points, points]), class_id=np.arange(len(masks)))
    labels = [f"{i} {p.name} {p.probability:.0%}" for i, p in enumerate(predictions, start=1)]
    scene = supervision.LabelAnnotator(
        text_scale=text_scale,
        text_thickness=max(round(text_scale * 1.6), 1),
        text_padding=max(round(text_scale * 10), 3),
        text_color=supervision.Color.BLACK,
        text_position=supervision.Position.CENTER,
        color_lookup=lookup,
        smart_position=True,
    ).annotate(scene, anchors, labels)
    return np.ascontiguousarray(scene[..., ::-1])


def thickest_point(mask: Mask) -> tuple[int, int]:
    """Column and row of the region's pixel that is farthest from its edge, in image pixels."""
    x, y, _, _ = mask.box_xywh
    distance = cv2.distanceTransform(np.pad(mask.bits.view(np.uint8), 1), cv2.DIST_L2, 5)
    row, column = np.unravel_index(distance.argmax(), distance.shape)
    return x + int(column) - 1, y + int(row) - 1


def write_overlay(path: Path, image: Pixels, masks: Sequence[Mask], predictions: Sequence[Prediction]) -> None:
    """Draw and write, in the format of the path's suffix, whole or not at all."""
    check_suffix(path)
    write_picture(path, draw_overlay(image, masks, predictions))


def check_suffix(path: Path) -> None:
    """Refuse a picture in a format that cannot be written.

    Raises:
        InputError: the path's suffix is not a picture's.
    """
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise InputError(f"{path}: a picture is written as {', '.join(PICTURE_SUFFIXES)}; give a path that ends so")
