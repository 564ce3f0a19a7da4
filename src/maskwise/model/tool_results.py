"""Read what segmentation tools return, by its attributes and keys: ultralytics, SAM 2, SAM 3, any torch tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np

from maskwise.data.masks import Mask
from maskwise.errors import MaskError

MASK_KEYS = ("masks", "out_binary_masks")
"""Where SAM 3 keeps an image's masks: its image processor (also transformers'), and its video predictor."""


@runtime_checkable
class ResultsLike(Protocol):
    """The part of ultralytics' `Results` that is read: one image, its masks and boxes; either of these may be None."""

    masks: Any
    boxes: Any
    orig_shape: tuple[int, ...]


def as_array(value: Any) -> Any:
    """Return a torch tensor as a NumPy array without importing torch; anything else comes back as it is."""
    if not (hasattr(value, "detach") and hasattr(value, "cpu")):
        return value
    tensor = value.detach().cpu()
    if "bfloat16" in str(tensor.dtype):  # NumPy has no such type.
        tensor = tensor.float()
    return tensor.numpy()


def masks_of_results(given: Any, image_hw: tuple[int, int]) -> Any:
    """Return the masks in what a segmentation tool returned: a stack, or a list of arrays and boxes.

    Args:
        given: an ultralytics `Results`, alone or in a list; what SAM's or SAM 2's image predictor returns (masks,
            scores and low-resolution logits); what SAM 3 returns (a mapping with masks); a tensor, N x height x width
            or N x 1 x height x width; an array, N x height x width. Of N x several x height x width with scores, the
            mask with the highest score is taken for each of the N prompts. Logits are cut at 0. Anything else comes
            back as it is.
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: results of several images, or of another image; several masks for each prompt without scores.
    """
    if isinstance(given, (list, tuple)) and given and all(isinstance(one, ResultsLike) for one in given):
        if len(given) > 1:
            raise MaskError(f"results of {len(given)} images; give those of one: results[0]")
        given = given[0]
    if isinstance(given, ResultsLike):
        return _masks_of_ultralytics(given, image_hw)
    if isinstance(given, Mapping):
        key = next((key for key in MASK_KEYS if key in given), None)
        return given if key is None else _stack(given[key], given.get("scores"))
    if isinstance(given, tuple) and len(given) in (2, 3) and np.ndim(as_array(given[0])) in (3, 4):
        return _stack(given[0], given[1])  # (masks, scores) or (masks, scores, low-resolution logits).
    if isinstance(given, (list, tuple)):
        return [as_array(one) for one in given]
    # An array N x 1 x height x width may also be one mask of N pictures: `as_masks` asks for masks[:, 0].
    is_stack = hasattr(given, "detach") or (isinstance(given, np.ndarray) and given.shape[1:2] != (1,))
    return _stack(given, None) if is_stack else given


def _stack(masks: Any, scores: Any) -> Any:
    """Return masks as N x height x width, one for each thing."""
    masks, scores = as_array(masks), as_array(scores)
    if isinstance(masks, Sequence):
        return [as_array(one) for one in masks]
    if masks.ndim == 4:
        masks = _one_of_each(masks, scores)
    # Only the logits of SAM are negative anywhere; other numbers are judged mask by mask.
    return masks > 0 if masks.dtype.kind == "f" and masks.size and masks.min() < 0 and masks.ndim == 3 else masks


def _one_of_each(masks: np.ndarray, scores: Any) -> np.ndarray:
    if masks.shape[1] == 1:
        return masks[:, 0]
    if np.shape(scores) != masks.shape[:2]:
        raise MaskError(
            f"masks have shape {masks.shape}: {masks.shape[1]} for each thing; give one for each (multimask_output="
            "False), or masks and scores as the predictor returns them"
        )
    return masks[np.arange(len(masks)), np.argmax(scores, axis=1)]


def _masks_of_ultralytics(results: ResultsLike, image_hw: tuple[int, int]) -> list[Any]:
    """Return a mask for each thing that ultralytics found; its box where the mask is empty, or there is none."""
    if tuple(results.orig_shape[:2]) != tuple(image_hw):
        height, width = results.orig_shape[:2]
        raise MaskError(
            f"the results are of an image of {width} x {height} pixels, this one has {image_hw[1]} x {image_hw[0]}"
            " (width x height); give the image that ultralytics saw"
        )
    boxes = [] if results.boxes is None else as_array(results.boxes.xyxy).tolist()
    if results.masks is None:
        return [_box_mask(box, image_hw) for box in boxes]
    masks = [unletterboxed(mask, image_hw) for mask in as_array(results.masks.data)]
    if len(boxes) != len(masks):
        return list(masks)
    return [mask if mask.any() else _box_mask(box, image_hw) for mask, box in zip(masks, boxes, strict=True)]


def unletterboxed(mask: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """Return a mask of the network's square as one of the image: without the margin, enlarged, bool.

    Args:
        mask: height x width of the network's input, from 0 to 1; or of the image's size already (`retina_masks`).
        image_hw: the image's height and width, pixels.

    >>> square = np.array([[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    >>> unletterboxed(square, (1, 2)).tolist()  # The first and last rows are margin.
    [[False, True]]
    """
    values = np.asarray(mask)
    if values.shape == tuple(image_hw):
        return values > 0.5
    # The image was scaled to fit and lies in the middle.
    gain = min(values.shape[0] / image_hw[0], values.shape[1] / image_hw[1])
    sides = []
    for length, side in zip(values.shape, image_hw, strict=True):
        margin = (length - side * gain) / 2
        sides.append(slice(round(margin - 0.1), length - round(margin + 0.1)))
    inner = np.ascontiguousarray(values[sides[0], sides[1]], dtype=np.float32)
    return cv2.resize(inner, image_hw[::-1], interpolation=cv2.INTER_LINEAR) > 0.5


def _box_mask(xyxy: Sequence[float], image_hw: tuple[int, int]) -> Mask:
    x0, y0, x1, y1 = xyxy
    return Mask.from_box((x0, y0, x1 - x0, y1 - y0), image_hw)
