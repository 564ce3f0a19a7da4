"""Read a mask in any form that tools write into `segmentation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from maskwise.data.masks import Mask
from maskwise.errors import MaskError

ACCEPTED = (
    "accepted are polygons [[x1, y1, x2, y2, x3, y3, ...], ...], run lengths {'size': [height, width], 'counts': ...}"
    " (SAM: output mode coco_rle), and a height x width array of true/false"
)


def mask_of_segmentation(segmentation: Any, image_hw: tuple[int, int]) -> Mask:
    """Return the mask of a `segmentation`.

    Args:
        segmentation: COCO's polygons or run lengths; also one flat polygon, points as pairs, a list of one run-length
            encoding, and an array or nested list of the image's size.
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: another form, or no pixel is set.
    """
    if isinstance(segmentation, Mapping):
        return _mask_of_run_lengths(segmentation, image_hw)
    if isinstance(segmentation, np.ndarray) or _is_picture(segmentation, image_hw):
        return Mask.from_array(np.asarray(segmentation))
    if isinstance(segmentation, (list, tuple)) and segmentation:
        if isinstance(segmentation[0], Mapping) and len(segmentation) == 1:
            return _mask_of_run_lengths(segmentation[0], image_hw)
        if _is_number(segmentation[0]) or (len(segmentation) > 2 and all(map(_is_pair, segmentation))):
            return Mask.from_polygons([_points(segmentation)], image_hw)
        if all(isinstance(part, (list, tuple)) for part in segmentation):
            return Mask.from_polygons([_points(part) for part in segmentation if len(part)], image_hw)
    raise MaskError(f"'segmentation' has {str(segmentation)[:40]!r}; {ACCEPTED}")


def _mask_of_run_lengths(rle: Mapping[str, Any], image_hw: tuple[int, int]) -> Mask:
    """Read run lengths; another size than the image's is refused before anything of that size is made."""
    size = rle.get("size")
    if isinstance(size, (list, tuple)) and len(size) == 2 and list(size) != list(image_hw):
        raise MaskError(
            f"the mask is {str(size[1])[:20]} x {str(size[0])[:20]} pixels, the image {image_hw[1]} x {image_hw[0]}"
            " (width x height); give a mask of the image's size"
        )
    return Mask.from_rle(dict(rle))


def outline_fields(mask: Mask) -> dict[str, Any]:
    """Return the fields of a COCO annotation that its mask decides."""
    return {"segmentation": mask.to_rle(), "bbox": list(mask.box_xywh), "area": mask.area, "iscrowd": 0}


def is_empty(segmentation: Any) -> bool:
    """Return whether a `segmentation` says nothing: missing, [], [[]] or an empty object."""
    if isinstance(segmentation, (list, tuple)):
        return all(isinstance(part, (list, tuple)) and not part for part in segmentation)
    return segmentation is None or segmentation == {}


def _points(part: list[Any] | tuple[Any, ...]) -> np.ndarray:
    """Return one polygon as a flat array, from numbers or pairs."""
    values = [value for pair in part for value in pair] if all(map(_is_pair, part)) else part
    for value in values:
        if not _is_number(value):
            raise MaskError(f"'segmentation' has {str(value)[:40]!r} where a number belongs; {ACCEPTED}")
    return np.array(values, dtype=np.float64)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2


def _is_picture(value: Any, image_hw: tuple[int, int]) -> bool:
    """Return whether a list has the rows of a mask: of the image's width, of true and false or 0 and 1."""
    height, width = image_hw
    if not isinstance(value, (list, tuple)) or len(value) != height:
        return False
    return all(isinstance(row, (list, tuple)) and len(row) == width and set(row) <= {0, 1} for row in value)
