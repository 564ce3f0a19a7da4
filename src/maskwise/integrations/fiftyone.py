"""Name the detections of FiftyOne samples, in place."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from maskwise.data.images import Pixels, load_image
from maskwise.data.masks import Mask
from maskwise.data.problems import Problem
from maskwise.data.relative_boxes import mask_of_shares
from maskwise.errors import ImageError, InputError, MaskError
from maskwise.model.prediction import Prediction
from maskwise.model.predictor import Predictor


def apply_to_detections(
    samples: Any, field: str, predictor: Predictor | None = None, *, none_label: str | None = None
) -> list[Problem]:
    """Give every detection of a field its name: `label`, `confidence`, and further attributes.

    `top` and `top_scores` have the five most probable classes, `is_none` says whether a detection is "none of these";
    `known` has the probability of being one of the classes at all, if the model can tell. Samples of a dataset are
    saved.

    Args:
        samples: a `fiftyone.Sample`, or a dataset, a view or any sequence of samples.
        field: of `Detections` with masks (in the box, or in a file), or with boxes alone.
        predictor: names regions (default: the built-in model).
        none_label: label of "none of these" (default: none).

    Returns:
        Samples and detections that were left as they are: their image or mask cannot be read.

    Raises:
        InputError: a sample has no such field, or the field has something else.

    Example:
        problems = apply_to_detections(dataset, "segments")
    """
    predictor = predictor or Predictor()
    problems: list[Problem] = []
    waiting: deque[tuple[Any, list[Any]]] = deque()
    for predictions in predictor.predict_many(_readable(_each(samples), field, waiting, problems)):
        sample, detections = waiting.popleft()
        for detection, prediction in zip(detections, predictions, strict=True):
            _name(detection, prediction, none_label)
        if getattr(sample, "in_dataset", False):
            sample.save()
    return problems


def mask_of_detection(detection: Any, image_hw: tuple[int, int]) -> Mask:
    """Return the mask of a FiftyOne detection; its box if it has none.

    Args:
        detection: `bounding_box` is left, top, width and height, 0 to 1; `mask` covers the box in any size.
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: the box lies outside the image, or no pixel is set.
    """
    height, width = image_hw
    x, y, w, h = (float(value) for value in detection.bounding_box)
    mask = detection.get_mask() if hasattr(detection, "get_mask") else detection.mask
    if mask is None:
        return mask_of_shares((x, y, w, h), image_hw)
    left, top = round(x * width), round(y * height)
    size = max(round(w * width), 1), max(round(h * height), 1)
    bits: np.ndarray = (np.asarray(mask) > 0).astype(np.uint8)
    if bits.shape != size[::-1]:
        bits = cv2.resize(bits, size, interpolation=cv2.INTER_NEAREST)
    cut_x, cut_y = max(-left, 0), max(-top, 0)
    inside = bits[cut_y : max(height - top, 0), cut_x : max(width - left, 0)] != 0
    if not inside.size:
        raise MaskError(f"the box {x:g}, {y:g}, {w:g}, {h:g} lies outside the image; give shares of it, 0 to 1")
    return Mask.from_array(inside, origin_xy=(left + cut_x, top + cut_y), image_hw=image_hw)


def _each(samples: Any) -> Iterable[Any]:
    if hasattr(samples, "iter_samples"):  # A dataset or a view.
        return samples.iter_samples()
    return [samples] if hasattr(samples, "filepath") else samples


def _readable(
    samples: Iterable[Any], field: str, waiting: deque[tuple[Any, list[Any]]], problems: list[Problem]
) -> Iterator[tuple[Pixels, list[Mask]]]:
    """Yield the image and the masks of each sample that has any; `waiting` gets the sample and its detections."""
    for sample in samples:
        if not sample.has_field(field):
            raise InputError(f"{sample.filepath}: has no field {field!r}; give the field that has the detections")
        label = sample[field]
        if label is None:
            continue
        if not hasattr(label, "detections"):
            raise InputError(f"{sample.filepath}: {field!r} has {type(label).__name__}; accepted are Detections")
        try:
            image = load_image(sample.filepath)
        except ImageError as error:
            problems.append(Problem(str(error)))
            continue
        height, width = image.shape[:2]
        masks, detections = [], []
        for number, detection in enumerate(label.detections):
            try:
                masks.append(mask_of_detection(detection, (height, width)))
            except (MaskError, OSError) as error:
                problems.append(Problem(f"{sample.filepath}: detection {number}: {error}"))
            else:
                detections.append(detection)
        if masks:
            waiting.append((sample, detections))
            yield image, masks


def _name(detection: Any, prediction: Prediction, none_label: str | None) -> None:
    detection.label = none_label if prediction.is_none else prediction.name
    detection.confidence = prediction.probability
    detection["top"] = [name.name for name in prediction.names]
    detection["top_scores"] = [name.probability for name in prediction.names]
    detection["is_none"] = prediction.is_none
    if prediction.known is not None:
        detection["known"] = prediction.known
