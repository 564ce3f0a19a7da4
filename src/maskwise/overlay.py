"""Pictures of named regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import supervision
from PIL import Image

from maskwise.files import whole_file
from maskwise.images import Pixels
from maskwise.masks import Mask
from maskwise.predictor import Prediction


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
    scene = supervision.PolygonAnnotator(thickness=thickness, color_lookup=lookup).annotate(scene, detections)
    labels = [f"{i} {p.name} {p.probability:.0%}" for i, p in enumerate(predictions, start=1)]
    scene = supervision.LabelAnnotator(
        text_scale=text_scale,
        text_thickness=max(round(text_scale * 1.6), 1),
        text_padding=max(round(text_scale * 10), 3),
        text_color=supervision.Color.BLACK,
        text_position=supervision.Position.CENTER_OF_MASS,
        color_lookup=lookup,
        smart_position=True,
    ).annotate(scene, detections, labels)
    return np.ascontiguousarray(scene[..., ::-1])


def write_overlay(path: object, image: Pixels, masks: Sequence[Mask], predictions: Sequence[Prediction]) -> None:
    """Draw and write, in the format of the path's suffix, whole or not at all."""
    with whole_file(path) as temporary:
        Image.fromarray(draw_overlay(image, masks, predictions)).save(temporary)
