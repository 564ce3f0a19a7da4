"""Accept masks in every supported form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from maskwise.data.masks import Mask, check_size
from maskwise.errors import MaskError, naming_mask


@runtime_checkable
class DetectionsLike(Protocol):
    """The part of `supervision.Detections` that is read: boxes, masks and further data."""

    xyxy: np.ndarray
    mask: Any
    data: dict[str, Any]


Masks: TypeAlias = np.ndarray | Sequence[np.ndarray | Mask] | DetectionsLike
"""N x height x width; a sequence of height x width arrays or of `Mask`; or `supervision.Detections`."""


def as_masks(masks: Masks, image_hw: tuple[int, int]) -> list[Mask]:
    """Return masks given in any accepted form as `Mask`s of one image.

    Args:
        masks: see `Predictor.predict`.
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
        raise MaskError(f"masks have shape {given.shape}; accepted is N x height x width (for one mask: mask[None])")
    if not isinstance(given, Iterable):
        raise MaskError(
            f"masks are of type {type(given).__name__}; accepted are arrays, a sequence of them or of `Mask`s, or"
            " Detections"
        )
    regions = []
    for index, mask in enumerate(given):
        with naming_mask(f"mask {index}"):
            region = mask if isinstance(mask, Mask) else Mask.from_array(np.asarray(mask))
            check_size(region, image_hw)
        regions.append(region)
    return regions
