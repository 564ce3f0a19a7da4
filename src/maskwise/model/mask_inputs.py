"""Accept masks in every supported form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from maskwise.data.masks import Mask, check_size
from maskwise.data.segmentations import mask_of_segmentation
from maskwise.errors import MaskError, naming_mask
from maskwise.model.tool_results import ResultsLike, masks_of_results


@runtime_checkable
class DetectionsLike(Protocol):
    """The part of `supervision.Detections` that is read: boxes, masks and further data."""

    xyxy: np.ndarray
    mask: Any
    data: dict[str, Any]


@runtime_checkable
class TensorLike(Protocol):
    """The part of `torch.Tensor` that is read."""

    def detach(self) -> Any:
        """Return the tensor without its gradient."""

    def cpu(self) -> Any:
        """Return the tensor in main memory."""


Masks: TypeAlias = (
    np.ndarray
    | TensorLike
    | Sequence[np.ndarray | TensorLike | Mask | Mapping[str, Any] | ResultsLike]
    | Mapping[str, Any]
    | DetectionsLike
    | ResultsLike
)
"""N x height x width, an array or a tensor; `supervision.Detections`; what ultralytics, SAM 2 or SAM 3 return (see
`masks_of_results`); or a sequence of height x width arrays, `Mask`s, N x 2 points of polygons, COCO run lengths
(`{"size", "counts"}`) or records of SAM's mask generator (`{"segmentation", ...}`)."""


def as_masks(masks: Masks, image_hw: tuple[int, int]) -> list[Mask]:
    """Return masks given in any accepted form as `Mask`s of one image.

    Args:
        masks: see `Masks`.
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: not masks at all, or one has another size or no pixel set; the message has its index, from 0.
    """
    given: Any = masks
    if isinstance(masks, DetectionsLike) and not isinstance(masks, ResultsLike):
        if masks.mask is None:
            boxes = masks.xyxy.tolist()
            return [Mask.from_box((x0, y0, x1 - x0, y1 - y0), image_hw) for x0, y0, x1, y1 in boxes]
        given = masks.mask
    given = masks_of_results(given, image_hw)
    if isinstance(given, np.ndarray) and given.ndim != 3:
        remedy = "masks[:, 0]" if given.ndim == 4 else "for one mask: mask[None]"
        raise MaskError(f"masks have shape {given.shape}; accepted is N x height x width ({remedy})")
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise MaskError(
            f"masks are of type {type(given).__name__}; accepted are N x height x width, a sequence of arrays, `Mask`s,"
            " polygons, COCO run lengths or SAM's records, Detections, or what ultralytics or SAM return"
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
