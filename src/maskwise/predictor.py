"""The predictor: arrays in, names out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from maskwise.errors import InputError, MaskError, naming_mask
from maskwise.images import Pixels, check_pixels
from maskwise.masks import Mask, check_size
from maskwise.modelfile import feed
from maskwise.runner import Batch, Runner
from maskwise.sharing import SharedView, own_views, shared_views
from maskwise.sums import Sums

if TYPE_CHECKING:
    import supervision


CPU_BATCH = 4
"""On a processor larger batches are slower: DINOv2 ViT-S/14 took 133 ms a region on one core by fours and 136 by
eights, 70 and 74 on two, 151 and 79 by sixteens (views of 224 pixels, float32, AMD EPYC, 2026-11-24)."""

MODES = ("auto", "exact", "shared")
AUTO_MASKS = 8
"""From so many masks of an image on, `auto` lets them share views."""
MOST_VIEWS = 8
"""As many views of an image `shared` takes at most, however many masks it has."""
MOST_PIXELS = 4_000_000
"""Masks of one view are given to the network in parts of so many pixels, 141 of 168 x 168: memory stays bounded."""


@dataclass(frozen=True)
class Name:
    """A class that a region may have, and how probable it is (0 to 1)."""

    name: str
    category_id: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a region is: the classes from the most probable down."""

    names: tuple[Name, ...]

    @property
    def name(self) -> str:
        """The most probable class."""
        return self.names[0].name

    @property
    def category_id(self) -> int:
        """Its number in the model's list of classes."""
        return self.names[0].category_id

    @property
    def probability(self) -> float:
        """Its probability, 0 to 1."""
        return self.names[0].probability


class Predictor:
    """Names regions of images with one model file.

    Opening takes a moment; keep it and call it often. One predictor may be used by several threads.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        mode: str = "auto",
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        """Open a model.

        Args:
            model: a model file; the embedded one where left out.
            mode: `exact`: a view for each mask. `shared`: masks of an image share a few views, each of which goes
                through the network once; many masks then take little longer than a few, and small ones are named
                less well. `auto`: from eight masks on, those that lie close together and are of like size share a
                view. A mask's answer then depends a little on which others there are. Models whose masks act inside
                the trunk (`info.shares` is false) are always exact.
            device: `cpu` or `cuda`.
            threads: processor threads; all cores that this process may use where left out.

        Raises:
            InputError: another mode, or fewer threads than one.
            ModelError: the file or the device cannot be used.
        """
        if mode not in MODES:
            raise InputError(f"mode {mode!r}; accepted are {', '.join(MODES)}")
        if threads is not None and threads < 1:
            raise InputError(f"{threads} threads; at least 1 is needed")
        self.mode = mode
        self._runner = Runner(model, threads=threads, device=device)
        self.info = self._runner.info
        self._batch_size = min(self.info.batch_size, CPU_BATCH) if device == "cpu" else self.info.batch_size

    @property
    def classes(self) -> tuple[str, ...]:
        """The names it knows, in the order of `probabilities`' columns."""
        return tuple(category.name for category in self.info.categories)

    def predict(
        self,
        image: np.ndarray,
        masks: np.ndarray | Sequence[np.ndarray | Mask] | supervision.Detections,
        *,
        top: int = 5,
    ) -> list[Prediction]:
        """Name regions of an image.

        Args:
            image: height x width x 3, uint8, RGB.
            masks: N x height x width, nonzero where the region is; or a sequence of such arrays or `Mask`s; or
                `supervision.Detections` with masks, or with boxes alone.
            top: how many of the most probable classes each prediction holds, at least 1.

        Returns:
            One prediction per mask, in order.

        Raises:
            ImageError: the image has another shape or type.
            MaskError: a mask has another size than the image or no pixel set; the message has its index.
            InputError: top is below 1.

        Source:
            S. Eppel, Classifying a specific image region using convolutional nets with an ROI mask as input,
            arXiv:1812.00291. There the whole image is read for every region; here the view is the model's choice.
        """
        check_top(top)
        return [self._prediction(row, top) for row in self.probabilities(image, masks)]

    def probabilities(
        self, image: np.ndarray, masks: np.ndarray | Sequence[np.ndarray | Mask] | supervision.Detections
    ) -> Float32[np.ndarray, "regions classes"]:
        """Probabilities of every class for every region; arguments and errors as in `predict`.

        They are calibrated in exact mode.
        """
        logits = self._run(image, masks, "logits") / self.info.temperature
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def embed(
        self, image: np.ndarray, masks: np.ndarray | Sequence[np.ndarray | Mask] | supervision.Detections
    ) -> Float32[np.ndarray, "regions features"]:
        """The features that the last layer classifies, per region; arguments and errors as in `predict`."""
        return self._run(image, masks, "embeddings")

    def label_detections(self, image: np.ndarray, detections: supervision.Detections) -> supervision.Detections:
        """The same detections with `class_id`, `confidence` and `data["class_name"]` filled in.

        Args:
            image: height x width x 3, uint8, RGB.
            detections: with masks, or with boxes alone.

        Raises:
            ImageError, MaskError: as in `predict`.
        """
        from dataclasses import replace

        predictions = self.predict(image, detections, top=1)
        return replace(
            detections,
            class_id=np.array([p.category_id for p in predictions], dtype=int),
            confidence=np.array([p.probability for p in predictions], dtype=np.float32),
            data={**detections.data, "class_name": np.array([p.name for p in predictions], dtype=str)},
        )

    def _prediction(self, probabilities: np.ndarray, top: int) -> Prediction:
        order = np.argsort(-probabilities, kind="stable")[:top]
        categories = self.info.categories
        return Prediction(tuple(Name(categories[i].name, categories[i].id, float(probabilities[i])) for i in order))

    def _run(self, image: np.ndarray, masks: object, output: str) -> np.ndarray:
        image = check_pixels(image)
        regions = as_masks(masks, image.shape[:2])
        plan = [part for shared in self.plan(regions) for part in _parts(shared)]
        groups = [plan[start : start + self._batch_size] for start in range(0, len(plan), self._batch_size)]
        sums = Sums(image)
        batches = (_batch(image, sums, regions, views) for views in groups)
        rows = np.zeros((len(regions), self._runner.width(output)), dtype=np.float32)
        for views, found in zip(groups, self._runner.run(output, batches, len(groups)), strict=True):
            rows[[number for shared in views for number in shared.masks]] = found
        return rows

    def plan(self, masks: Sequence[Mask]) -> list[SharedView]:
        """The views in which masks of an image are looked at; in exact mode one for each."""
        if not self.info.shares or self.mode == "exact" or (self.mode == "auto" and len(masks) < AUTO_MASKS):
            return own_views(masks, self.info.view)
        return shared_views(masks, self.info.view, MOST_VIEWS if self.mode == "shared" else None)


def _batch(image: Pixels, sums: Sums, regions: Sequence[Mask], views: Sequence[SharedView]) -> Batch:
    """What the graph takes for the masks of some views."""
    pixels = np.stack([shared.view.show(image, sums) for shared in views])
    coverage = np.stack([shared.view.cover(regions[number]) for shared in views for number in shared.masks])
    return feed(pixels, coverage, np.repeat(np.arange(len(views)), [len(shared.masks) for shared in views]))


def _parts(shared: SharedView) -> Iterator[SharedView]:
    """The same view, with as many of its masks at a time as `MOST_PIXELS` lets."""
    height, width = shared.view.size_hw
    count = max(MOST_PIXELS // (height * width), 1)
    for start in range(0, len(shared.masks), count):
        yield SharedView(shared.view, shared.masks[start : start + count])


def check_top(top: int) -> None:
    """Refuse to give no class at all.

    Raises:
        InputError: top is below 1.
    """
    if top < 1:
        raise InputError(f"top is {top}; at least 1 class can be given per region")


def as_masks(masks: object, image_hw: tuple[int, int]) -> list[Mask]:
    """Masks in any accepted form as `Mask`s of one image.

    Args:
        masks: see `Predictor.predict`.
        image_hw: the image's height and width, pixels.

    Raises:
        MaskError: no masks at all, or one has another size or no pixel set; the message has its index, from 0.
    """
    if hasattr(masks, "xyxy"):
        if masks.mask is None:
            return [Mask.from_box((x0, y0, x1 - x0, y1 - y0), image_hw) for x0, y0, x1, y1 in masks.xyxy.tolist()]
        masks = masks.mask
    if isinstance(masks, np.ndarray) and masks.ndim != 3:
        raise MaskError(f"masks have shape {masks.shape}; accepted is N x height x width (for one mask: mask[None])")
    if not isinstance(masks, Iterable):
        raise MaskError(f"masks are {masks!r}; accepted are arrays, a sequence of them or of `Mask`s, or Detections")
    out = []
    for index, mask in enumerate(masks):
        with naming_mask(f"mask {index}"):
            region = mask if isinstance(mask, Mask) else Mask.from_array(np.asarray(mask))
            check_size(region, image_hw)
        out.append(region)
    return out
