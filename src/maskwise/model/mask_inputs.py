"""Accept masks in every supported form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from maskwise.data.masks import Mask, check_size
from maskwise.data.segmentations import mask_of_segmentation
from maskwise.errors import MaskError, naming_mask


@runtime_checkable
class DetectionsLike(Protocol):
    """The part of `supervision.Detections` that is read: boxes, masks and further data."""

    xyxy: np.ndarray
    mask: Any
    data: dict[str, Any]


Masks: TypeAlias = np.ndarray | Sequence[np.ndarray | Mask | Mapping[str, Any]] | DetectionsLike
"""N x height x width; `supervision.Detections`; or a sequence of height x width arrays, `Mask`s, N x 2 points of
polygons, COCO run lengths (`{"size", "counts"}`) or records of SAM's mask generator (`{"segmentation", ...}`)."""


def as_masks(masks: Masks, image_hw: tuple[int, int]) -> list[Mask]:
    """Return masks given in any accepted form as `Mask`s of one image.

    Args:
        masks: see `Masks`.
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: not masks at all, or one has another size or no pixel set; the message has its index, from 0.
    """
    given: Any = masks
    if isinstance(masks, DetectionsLike):
        if masks.mask is None:
            boxes = masks.xyxy.tolist()
            return [Mask.from_box((x0, y0, x1 - x0, y1 - y0), image_hw) for x0, y0, x1, y1 in boxes]
        given = masks.mask
    if isinstance(given, np.ndarray) and given.ndim != 3:
        remedy = "masks[:, 0]" if given.ndim == 4 else "for one mask: mask[None]"
        raise MaskError(f"masks have shape {given.shape}; accepted is N x height x width ({remedy})")
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise MaskError(
            f"masks are of type {type(given).__name__}; accepted are N x height x width, a sequence of arrays, `Mask`s,"
            " polygons, COCO run lengths or SAM's records, or Detections"
        )
    regions = []
    for index, mask in enumerate(given):
        with naming_mask(f"mask {index}"):
            region = _as_mask(mask, image_hw)
            check_size(region, image_hw)
        regions.append(region)
    return regions


def _as_mask(mask: Any, image_hw: tuple[int, int]) -> Mask:
    if isinstance(mask, Mask):
        return mask
    if isinstance(mask, Mapping):
        if "counts" not in mask and "segmentation" not in mask:
            raise MaskError("a dict without 'segmentation' (SAM) or 'counts' (COCO run lengths); give one of these")
        return mask_of_segmentation(mask.get("segmentation", mask), image_hw)
    array = np.asarray(mask)
    if array.ndim == 2 and array.shape[1] == 2 and array.shape != tuple(image_hw) and array.dtype.kind in "fiu":
        return Mask.from_polygons([array], image_hw)
    return Mask.from_array(array)
