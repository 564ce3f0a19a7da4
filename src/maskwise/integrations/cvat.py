"""Name the shapes of CVAT's tasks, or find and name things, by the functions of its SDK (cvat_sdk.auto_annotation)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from maskwise.data.images import Pixels
from maskwise.data.masks import Mask
from maskwise.data.outlines import mask_polygons
from maskwise.errors import MaskError
from maskwise.extras import needs_extra
from maskwise.model.predictor import Predictor
from maskwise.model.segmenter import Segmenter
from maskwise.tasks.naming import MIN_SCORE, name_things

READ = ("rectangle", "polygon", "mask", "ellipse")
"""Types of shapes that are regions."""
ELLIPSE_CORNERS = 64
"""Corners of the polygon that stands for an ellipse."""


class NamingFunction:
    """A detection function: names the shapes that are there, or finds and names things.

    Give it to `cvat_sdk.auto_annotation.annotate_task`, or name this module to `cvat-cli task auto-annotate`.
    """

    def __init__(
        self,
        predictor: Predictor | None = None,
        *,
        shapes: Mapping[str, Sequence[Any]] | None = None,
        segmenter: Segmenter | None = None,
        points_per_side: int = 24,
    ) -> None:
        """Open the models.

        Args:
            predictor: names regions (default: the built-in model).
            shapes: the shapes of each frame by the frame's name, as `shapes_of` returns them; None to find things.
            segmenter: outlines things (default: the built-in one); not needed with shapes.
            points_per_side: points of the segmenter's grid in each direction.
        """
        with needs_extra("cvat"):
            from cvat_sdk import auto_annotation
        self._cvat = auto_annotation
        self.predictor = predictor or Predictor()
        self._shapes, self._points_per_side = shapes, points_per_side
        self._segmenter = segmenter or (Segmenter() if shapes is None else None)
        labels = [auto_annotation.label_spec(name, number) for number, name in enumerate(self.predictor.classes)]
        self._spec = auto_annotation.DetectionFunctionSpec(labels=labels)

    @property
    def spec(self) -> Any:
        """The model's classes as labels."""
        return self._spec

    def detect(self, context: Any, image: Any) -> list[Any]:
        """Return named shapes of one image: those that are there and get a name, or things.

        Args:
            context: its `conf_threshold` is the minimum probability of a shape's name, or score of a thing;
                `conv_mask_to_poly` asks for polygons.
            image: a Pillow image.
        """
        pixels = np.array(image.convert("RGB"))
        least = context.conf_threshold or 0.0
        if self._shapes is None:
            least = MIN_SCORE if context.conf_threshold is None else least
            return self._found(pixels, least, polygons=context.conv_mask_to_poly)
        shapes = self._shapes.get(context.frame_name, ())
        named = []
        for shape, label in zip(shapes, names_of_shapes(self.predictor, pixels, shapes, least), strict=True):
            if label is None:
                continue
            kind, points = _type_of(shape), list(shape.points)
            if kind == "mask" and context.conv_mask_to_poly:
                height, width = pixels.shape[:2]
                named += self._outlines(label, mask_of_shape(shape, (height, width)), polygons=True)
            else:
                named.append(self._cvat.shape(label, type=kind, points=points, rotation=shape.rotation or 0.0))
        return named

    def _found(self, pixels: Pixels, least: float, *, polygons: bool) -> list[Any]:
        assert self._segmenter is not None, "made where there are no shapes"
        side = self._points_per_side
        things = name_things(pixels, self._segmenter, self.predictor, points_per_side=side, min_score=least)
        classes = self.predictor.classes
        return [
            outline
            for thing in things
            for outline in self._outlines(classes.index(thing.prediction.name), thing.segment.mask, polygons=polygons)
        ]

    def _outlines(self, label: int, mask: Mask, *, polygons: bool) -> list[Any]:
        if polygons:
            return [self._cvat.polygon(label, part.ravel().tolist()) for part in mask_polygons(mask)]
        return [self._cvat.mask(label, mask_points(mask))]


def create(model: str | None = None, min_probability: float = 0.0) -> NamingFunction:
    """Return the function that finds and names things, for `cvat-cli task auto-annotate --function-module`.

    Args:
        model: model file (default: the built-in model).
        min_probability: a region is "none of these" if its most probable class is less probable, 0 to 1.
    """
    return NamingFunction(Predictor(model, min_probability=min_probability))


def shapes_of(client: Any, task_id: int) -> dict[str, list[Any]]:
    """Return the shapes of each frame of a task that are regions, by the frame's name.

    Args:
        client: of `cvat_sdk.make_client`.
        task_id: the task.
    """
    return {sample.frame_name: regions(sample.annotations.shapes) for sample in _dataset(client, task_id).samples}


def name_task(client: Any, task_id: int, predictor: Predictor | None = None, *, min_probability: float = 0.0) -> int:
    """Give the shapes of a task their names, in place; tags, tracks and shapes without a name stay as they are.

    Attributes of a shape that gets another label are dropped: they belong to the label.

    Args:
        client: of `cvat_sdk.make_client`.
        task_id: the task.
        predictor: names regions (default: the built-in model).
        min_probability: a shape keeps its label if its name is less probable, 0 to 1.

    Returns:
        How many shapes have another label now.
    """
    with needs_extra("cvat"):
        from cvat_sdk import models

    predictor = predictor or Predictor()
    dataset = _dataset(client, task_id)
    label_ids = {label.name: label.id for label in dataset.labels}
    of_class = [label_ids.get(name) for name in predictor.classes]
    changed: list[Any] = []
    for sample in dataset.samples:
        shapes = regions(sample.annotations.shapes)
        if not shapes:
            continue
        pixels = np.array(sample.media.load_image().convert("RGB"))
        for shape, index in zip(shapes, names_of_shapes(predictor, pixels, shapes, min_probability), strict=True):
            label = None if index is None else of_class[index]
            if label is not None and label != shape.label_id:
                changed.append(_relabelled(models, shape, label))
    if changed:
        request = models.PatchedLabeledDataRequest(shapes=changed)
        client.tasks.api.partial_update_annotations("update", task_id, patched_labeled_data_request=request)
    return len(changed)


def regions(shapes: Iterable[Any]) -> list[Any]:
    """Return those of CVAT's shapes that are regions."""
    return [shape for shape in shapes if _type_of(shape) in READ]


def names_of_shapes(predictor: Predictor, pixels: Pixels, shapes: Sequence[Any], least: float) -> list[int | None]:
    """Return the class index of each shape; None for "none of these", improbable names and shapes without a pixel.

    Args:
        predictor: names regions.
        pixels: the image.
        shapes: of CVAT.
        least: minimum probability, 0 to 1.
    """
    masks: list[Mask] = []
    rows: list[int] = []
    height, width = pixels.shape[:2]
    for row, shape in enumerate(shapes):
        try:
            masks.append(mask_of_shape(shape, (height, width)))
        except MaskError:  # Outside the image, or of no size: there is nothing to name.
            continue
        rows.append(row)
    labels: list[int | None] = [None] * len(shapes)
    for row, prediction in zip(rows, predictor.predict(pixels, masks, top=1), strict=True):
        if not prediction.is_none and prediction.probability >= least:
            labels[row] = predictor.classes.index(prediction.name)
    return labels


def mask_of_shape(shape: Any, image_hw: tuple[int, int]) -> Mask:
    """Return the mask of a rectangle, polygon, mask or ellipse of CVAT.

    Args:
        shape: `type`, `points` (pixels) and `rotation` (degrees, clockwise around the middle).
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: another type, malformed, empty or outside the image.
    """
    kind, points = _type_of(shape), np.asarray(shape.points, dtype=np.float64)
    if kind == "mask":
        return _mask_of_runs(points, image_hw)
    if kind == "polygon":
        return Mask.from_polygons([points], image_hw)
    if kind not in READ or len(points) != 4:
        raise MaskError(f"a shape of type {kind} with {len(points)} numbers; accepted are {', '.join(READ)}")
    rotation = np.deg2rad(getattr(shape, "rotation", 0) or 0)
    x0, y0, x1, y1 = points.tolist()
    if kind == "rectangle":
        if not rotation:
            return Mask.from_box((x0, y0, x1 - x0, y1 - y0), image_hw)
        middle = np.array([x0 + x1, y0 + y1]) / 2
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) - middle
    else:  # The middle, then the rightmost x and the topmost y.
        middle, angles = points[:2], np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)
        corners = np.stack([np.cos(angles) * (x1 - x0), np.sin(angles) * (y0 - y1)], axis=1)
    turn = np.array([[np.cos(rotation), np.sin(rotation)], [-np.sin(rotation), np.cos(rotation)]])
    return Mask.from_polygons([corners @ turn + middle], image_hw)


def mask_points(mask: Mask) -> list[float]:
    """Return a mask as CVAT's `points`: run lengths along the rows of its box, then left, top, right and bottom.

    >>> mask_points(Mask.from_box((1, 0, 2, 1), (2, 4)))
    [0.0, 2.0, 1.0, 0.0, 2.0, 0.0]
    """
    bits = mask.bits.ravel()
    changes = np.flatnonzero(bits[1:] != bits[:-1]) + 1
    ends = np.concatenate([[0] if bits[0] else [], changes, [len(bits)]])
    x, y, w, h = mask.box_xywh
    return [*np.diff(ends, prepend=0).astype(float).tolist(), float(x), float(y), float(x + w - 1), float(y + h - 1)]


def _mask_of_runs(points: np.ndarray, image_hw: tuple[int, int]) -> Mask:
    whole = points.astype(np.int64)
    if len(whole) < 5 or (whole != points).any() or (whole < 0).any():
        raise MaskError("a mask's 'points' are not run lengths and a box, whole numbers from 0")
    *_, x0, y0, x1, y1 = whole.tolist()
    height, width = image_hw
    runs, area = whole[:-4], (x1 + 1 - x0) * (y1 + 1 - y0)
    if not (x0 <= x1 < width and y0 <= y1 < height) or int(runs.sum()) != area:
        raise MaskError(f"a mask's runs do not fill its box, or that lies outside the image of {width} x {height}")
    bits = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(y1 + 1 - y0, x1 + 1 - x0)
    return Mask.from_array(bits, origin_xy=(x0, y0), image_hw=image_hw)


def _relabelled(models: Any, shape: Any, label_id: int) -> Any:
    kept = {key: getattr(shape, key) for key in ("occluded", "outside", "z_order", "rotation", "group", "source")
            if getattr(shape, key, None) is not None}  # fmt: skip
    return models.LabeledShapeRequest(
        id=shape.id, frame=shape.frame, label_id=label_id, type=_type_of(shape), points=list(shape.points), **kept
    )


def _type_of(shape: Any) -> str:
    """Return a shape's type; the SDK has it as an object with a `value`."""
    return str(getattr(shape.type, "value", shape.type))


def _dataset(client: Any, task_id: int) -> Any:
    with needs_extra("cvat"):
        from cvat_sdk.datasets import TaskDataset
    return TaskDataset(client, task_id, load_annotations=True)
