"""Convert Label Studio's regions to masks, and masks to its regions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from maskwise.data.brush_rle import brush_runs, mask_of_brush
from maskwise.data.masks import Mask
from maskwise.data.outlines import mask_polygons
from maskwise.data.relative_boxes import mask_of_shares
from maskwise.errors import MaskError

Kind = Literal["brush", "polygon", "rectangle"]
"""Shapes that are read and written; a result's type is one of these, alone or with `labels` behind it."""
KINDS: tuple[Kind, ...] = get_args(Kind)
GEOMETRY = ("format", "rle", "points", "closed", "x", "y", "width", "height", "rotation")
"""Keys of a result's value that say where it is."""


def kind_of(result: Mapping[str, Any]) -> Kind | None:
    """Return the shape that a result has; None if it has none that is read.

    >>> kind_of({"type": "choices", "value": {"points": [], "choices": ["cup"]}}), kind_of({"type": "brushlabels"})
    ('polygon', 'brush')
    """
    value = result.get("value")
    keys = value if isinstance(value, Mapping) else {}
    for kind, key in zip(KINDS, ("rle", "points", "width"), strict=True):
        if result.get("type") in (kind, f"{kind}labels"):
            return kind
        # A name of a region, as of choices, repeats where it is.
        if result.get("type") in ("choices", "labels") and key in keys:
            return kind
    return None


def mask_of_region(result: Mapping[str, Any], image_hw: tuple[int, int]) -> Mask:
    """Return the mask of a brush, polygon or rectangle region.

    Args:
        result: a record of an annotation's, a draft's or a prediction's `result`.
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: malformed, empty, outside the image, of a rotated image or of an image of another size.
    """
    kind, value = kind_of(result), result.get("value")
    if kind is None or not isinstance(value, Mapping):
        raise MaskError(f"a region of type {str(result.get('type'))[:40]!r}; accepted are {', '.join(KINDS)}")
    if result.get("image_rotation"):
        raise MaskError("the region is of an image rotated in Label Studio; rotate it back")
    height, width = image_hw
    size = [result.get("original_height", height), result.get("original_width", width)]
    if kind == "brush":
        if size != [height, width]:
            raise MaskError(
                f"the region is of an image of {str(size[1])[:20]} x {str(size[0])[:20]} pixels, this one has {width} x"
                f" {height} (width x height); draw it again on this image"
            )
        return mask_of_brush(value.get("rle", ()), image_hw)
    if kind == "polygon":
        return Mask.from_polygons([_points(value.get("points")) * (width / 100, height / 100)], image_hw)
    x, y, w, h, rotation = _numbers(value)
    if not rotation:
        return mask_of_shares((x / 100, y / 100, w / 100, h / 100), image_hw)
    # Label Studio turns a rectangle clockwise around its first corner.
    corners = np.array([(0, 0), (w, 0), (w, h), (0, h)]) * (width / 100, height / 100)
    sine, cosine = np.sin(np.deg2rad(rotation)), np.cos(np.deg2rad(rotation))
    turned = corners @ np.array([[cosine, sine], [-sine, cosine]])
    return Mask.from_polygons([turned + np.array([x * width / 100, y * height / 100])], image_hw)


def region_values(mask: Mask, kind: Kind) -> list[dict[str, Any]]:
    """Return a mask as values of Label Studio's results: one, or for polygons one for each part.

    >>> region_values(Mask.from_box((1, 0, 2, 3), (4, 8)), "rectangle")
    [{'x': 12.5, 'y': 0.0, 'width': 25.0, 'height': 75.0, 'rotation': 0}]
    """
    height, width = mask.image_hw
    if kind == "brush":
        return [{"format": "rle", "rle": brush_runs(mask).tolist()}]
    if kind == "polygon":
        scale = 100 / np.array([width, height])
        return [{"points": (part * scale).round(6).tolist(), "closed": True} for part in mask_polygons(mask)]
    x, y, w, h = mask.box_xywh
    percent = {"x": 100 * x / width, "y": 100 * y / height, "width": 100 * w / width, "height": 100 * h / height}
    return [{**percent, "rotation": 0}]


def geometry_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a result's value that says where it is."""
    return {key: value[key] for key in GEOMETRY if key in value}


def _points(points: Any) -> np.ndarray:
    try:
        array = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MaskError("a polygon's 'points' are not pairs of numbers; give x and y in percent") from error
    if array.ndim != 2 or array.shape[1] != 2:
        raise MaskError("a polygon's 'points' are not pairs of numbers; give x and y in percent")
    return array


def _numbers(value: Mapping[str, Any]) -> list[float]:
    numbers = [value.get(key) for key in ("x", "y", "width", "height")] + [value.get("rotation") or 0]
    found = [float(one) for one in numbers if isinstance(one, (int, float)) and np.isfinite(one)]
    if len(found) < 5:
        raise MaskError("a rectangle lacks numbers; give x, y, width and height in percent")
    return found
