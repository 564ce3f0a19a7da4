"""The predictor: images and masks in, names out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from jaxtyping import Float32, UInt8

from maskwise.data.images import ImageSource, Pixels, as_pixels
from maskwise.data.masks import Mask
from maskwise.errors import InputError, ModelError
from maskwise.model.mask_inputs import DetectionsLike, Masks, as_masks
from maskwise.model.model_file import KNOWN, OUTPUTS, ModelInfo, graph_inputs
from maskwise.model.model_folder import find_model
from maskwise.model.prediction import ImageOutputs, Limits, Prediction, check_top, chosen_classes
from maskwise.model.runner import Device, GraphInputs, Runner
from maskwise.views.integral_image import IntegralImage
from maskwise.views.sharing import SharedView, own_views, shared_views
from maskwise.views.view import ViewSettings

Mode = Literal["auto", "exact", "shared"]
MODES: tuple[Mode, ...] = get_args(Mode)
CPU_BATCH = 4
"""Maximum number of crops per batch on a CPU. DINOv2 ViT-S/14 took 133, 136 and 151 ms a region on one core with
batches of 4, 8 and 16; 70, 74 and 79 on two cores (224 pixels, float32, AMD EPYC, 2026-11-24)."""
AUTO_MIN_MASKS = 8
"""Number of masks in an image from which on `auto` shares crops."""
MAX_SHARED_CROPS = 8
"""Maximum number of crops per image in `shared` mode."""
MAX_THREADS = 1024
"""Maximum number of CPU threads: more would exhaust the system before they helped."""
MAX_MASK_PIXELS = 4_000_000
"""Maximum number of mask pixels per call of the network, 141 masks of 168 x 168: this bounds memory."""

DetectionsT = TypeVar("DetectionsT", bound=DetectionsLike)


@dataclass(eq=False)
class _PlannedImage:
    """An image, the crops planned for its masks, and the outputs that the network fills in."""

    image: Pixels
    regions: Sequence[Mask]
    crops: list[tuple[int, SharedView]]
    """With each its kind: 0, or 1 for the second, wide crop of a model of two crops."""
    outputs: ImageOutputs
    waiting: int
    """Number of crops that the network has not seen yet."""


@dataclass(frozen=True, eq=False)
class _Crop:
    """A rendered crop, and the rows of its image's outputs that its masks fill."""

    planned: _PlannedImage
    kind: int
    rows: tuple[int, ...]
    pixels: UInt8[np.ndarray, "h w 3"]
    coverage: UInt8[np.ndarray, "masks h w"]


class Predictor:
    """Names regions of images with one model file.

    Opening takes a moment; keep it and call it often. Several threads may use one predictor. A copy, by `pickle` or
    `copy`, opens the same model file again.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        mode: Mode = "exact",
        device: Device = "cpu",
        threads: int | None = None,
        min_known: float | None = None,
        min_probability: float = 0.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Open a model.

        Args:
            model: model file, or the name of a model, see `find_model` (default: the built-in model).
            mode: `exact` crops around every mask, so that no answer depends on the other masks. `auto` shares crops
                between nearby masks of similar size once an image has eight or more: faster, and some names change.
                `shared` uses at most eight crops of a kind per image: many masks then take little longer than a few,
                and small regions are named less well. A model whose masks act inside the trunk (`info.shares` is
                false) is always exact.
            device: `cpu` or `cuda`.
            threads: CPU threads (default: all cores that this process may use).
            min_known: a region is "none of these" if its probability of being one of the classes at all is lower, 0 to
                1 (default: the model's own, at which 97 % of true objects stay; 0 names everything).
            min_probability: a region is "none of these" if its most probable class is less probable, 0 to 1.
            classes: names of the classes that a region may have (default: all). Their probabilities then add up to 1;
                "none of these" and `known` stay as they are: they are about all of the model's classes.

        Raises:
            InputError: an unknown mode or class, threads outside 1 to 1,024, or a minimum outside 0 to 1.
            ModelError: the file or the device cannot be used, or min_known is given for a model that cannot tell.
        """
        if mode not in MODES:
            raise InputError(f"mode {mode!r}; accepted are {', '.join(MODES)}")
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise InputError(f"{threads} threads; give 1 to {MAX_THREADS}")
        for name, value in (("min_known", min_known or 0), ("min_probability", min_probability)):
            if not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; give 0 to 1")
        path = None if model is None else find_model(model).absolute()
        self._arguments: dict[str, Any] = {"model": path, "mode": mode, "device": device, "threads": threads}
        self._arguments |= {"min_known": min_known, "min_probability": min_probability}
        self._arguments["classes"] = None if classes is None else tuple(classes)
        self.mode: Mode = mode
        self._runner = Runner(path, threads=threads, device=device)
        self.info: ModelInfo = self._runner.info
        if min_known and self.info.min_known is None:
            raise ModelError(
                f'{self.model_path}: cannot say "none of these", so min_known does nothing; fit it with segments of'
                " nothing (maskwise fit --nothing), or use min_probability"
            )
        self._chosen = None if classes is None else chosen_classes(classes, self.info.categories)
        known = self.info.min_known or 0.0 if min_known is None else min_known
        self.limits = Limits(known=known, probability=min_probability)
        self._batch_size = min(self.info.batch_size, CPU_BATCH) if device == "cpu" else self.info.batch_size

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def model_path(self) -> Path:
        """The model file."""
        return self._runner.path

    @property
    def threads(self) -> int | None:
        """CPU threads as given; None for all cores."""
        return self._arguments["threads"]

    @property
    def device(self) -> Device:
        """Where the model runs."""
        return self._arguments["device"]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that the model knows, in the order of the logits."""
        return tuple(category.name for category in self.info.categories)

    @property
    def features(self) -> int:
        """Numbers in an embedding."""
        return self._runner.width(OUTPUTS[1]) * len(self.info.view.crops)

    @property
    def chosen(self) -> tuple[int, ...]:
        """The class indices that a region may have, ascending: those of `classes`, else all."""
        return tuple(range(len(self.info.categories))) if self._chosen is None else self._chosen

    def predict(
        self,
        image: ImageSource,
        masks: Masks,
        *,
        top: int = 5,
        embeddings: bool = False,
        classes: Sequence[str] | None = None,
    ) -> list[Prediction]:
        """Name regions of an image.

        Args:
            image: height x width x 3, uint8, RGB; or what `load_image` takes, such as a path.
            masks: N x height x width, nonzero where the region is; or a sequence of such arrays or of `Mask`; or
                detections as in the library supervision, with masks or with boxes alone.
            top: how many classes each prediction holds, the most probable first; at least 1.
            embeddings: keep each region's embedding too, from the same pass of the network.
            classes: names of the classes that a region may have (default: those that the predictor was opened with).

        Returns:
            One prediction per mask, in order.

        Raises:
            ImageError: the image has another shape or type, or cannot be read.
            MaskError: a mask has another size than the image or no pixel set; the message has its index.
            InputError: top is below 1, or the model does not know a class.

        Source:
            S. Eppel, Classifying a specific image region using convolutional nets with an ROI mask as input,
            arXiv:1812.00291. There the network reads the whole image for every region; here it reads a crop.
        """
        check_top(top)
        chosen = self._chosen if classes is None else chosen_classes(classes, self.info.categories)
        outputs = self.run(image, masks, embeddings=embeddings)
        return replace(outputs, chosen=chosen).predictions(top)

    def predict_many(
        self, images: Iterable[tuple[ImageSource, Masks]], *, top: int = 5, embeddings: bool = False
    ) -> Iterator[list[Prediction]]:
        """Name regions of many images; batches cross images, so that few masks per image still use all cores.

        Args:
            images: pairs of image and masks, as `predict` takes them; read one after the other.
            top: as in `predict`.
            embeddings: as in `predict`.

        Returns:
            The predictions of each image, in order. An error is raised where its image's predictions would have come.

        Raises:
            ImageError, MaskError, InputError: as in `predict`.
        """
        check_top(top)
        return (outputs.predictions(top) for outputs in self.run_many(images, embeddings=embeddings))

    def probabilities(self, image: ImageSource, masks: Masks) -> Float32[np.ndarray, "regions classes"]:
        """Return the probability of every class for every region; arguments and errors as in `predict`.

        They are calibrated in exact mode.
        """
        return self.run(image, masks).probabilities

    def embed(self, image: ImageSource, masks: Masks) -> Float32[np.ndarray, "regions features"]:
        """Return the features that the last layer classifies, per region; arguments and errors as in `predict`."""
        outputs = self.run(image, masks, logits=False, embeddings=True)
        assert outputs.embeddings is not None
        return outputs.embeddings

    def label_detections(self, image: ImageSource, detections: DetectionsT) -> DetectionsT:
        """Return the same detections with `class_id`, `confidence` and `data["class_name"]` filled in.

        `data["is_none"]` says which are "none of these"; if the model can tell, `data["known"]` has the probability of
        being one of the classes at all. `class_id` is the category id where all of the model's are whole numbers, else
        the class index.

        Args:
            image: height x width x 3, uint8, RGB; or what `load_image` takes, such as a path.
            detections: `supervision.Detections`, with masks or with boxes alone.

        Raises:
            ImageError, MaskError: as in `predict`.
        """
        categories = self.info.categories
        ids = [category.id for category in categories]
        if not all(isinstance(value, int) for value in ids):
            ids = list(range(len(categories)))
        outputs = self.run(image, detections)
        best = outputs.top_classes(1)
        classes = best.indices[:, 0].tolist()
        data = {**detections.data, "class_name": np.array([categories[i].name for i in classes], dtype=str)}
        data["is_none"] = self.limits.are_none(best.probabilities[:, 0], best.known)
        if outputs.known_logits is not None:
            data["known"] = best.known
        filled: Any = replace(
            detections,  # type: ignore[type-var]
            class_id=np.array([ids[i] for i in classes], dtype=int),
            confidence=best.probabilities[:, 0].astype(np.float32),
            data=data,
        )
        return filled

    def run(self, image: ImageSource, masks: Masks, *, logits: bool = True, embeddings: bool = False) -> ImageOutputs:
        """Return what the network makes of regions, as arrays.

        Args:
            image: as in `predict`.
            masks: as in `predict`.
            logits: whether to compute them.
            embeddings: whether to keep them.

        Raises:
            ImageError, MaskError: as in `predict`.
        """
        planned = self._planned(image, masks, logits=logits, embeddings=embeddings)
        batches = -(-len(planned.crops) // self._batch_size)
        (outputs,) = self._run_planned([planned], count=batches)
        return outputs

    def run_many(
        self, images: Iterable[tuple[ImageSource, Masks]], *, logits: bool = True, embeddings: bool = False
    ) -> Iterator[ImageOutputs]:
        """Yield what the network makes of the regions of each image, in order; batches cross images.

        Args:
            images: pairs of image and masks, as `predict` takes them; read one after the other.
            logits: whether to compute them.
            embeddings: whether to keep them.

        Raises:
            ImageError, MaskError: as in `predict`, where the image's outputs would have come.
        """
        planned = (self._planned(image, masks, logits=logits, embeddings=embeddings) for image, masks in images)
        return self._run_planned(planned)

    def _planned(self, image: ImageSource, masks: Masks, *, logits: bool, embeddings: bool) -> _PlannedImage:
        pixels = as_pixels(image)
        regions = as_masks(masks, pixels.shape[:2])
        kinds = self.info.view.crops
        plan = [(kind, shared) for kind, one in enumerate(kinds) for shared in self._plan(regions, one)]
        crops = [(kind, part) for kind, shared in plan for part in _parts(shared)]
        logit_rows, embedding_rows = (
            np.zeros((len(regions), count * self._runner.width(name)), dtype=np.float32) if asked else None
            for name, count, asked in zip(OUTPUTS, (1, len(kinds)), (logits, embeddings), strict=True)
        )
        info, shared = self.info, len(plan) < len(kinds) * len(regions)
        known_rows = np.zeros(len(regions), dtype=np.float32) if logits and info.min_known is not None else None
        outputs = ImageOutputs(
            info.categories,
            info.temperature,
            len(plan),
            shared,
            logit_rows,
            embedding_rows,
            known_logits=known_rows,
            limits=self.limits,
            chosen=self._chosen,
        )
        return _PlannedImage(pixels, regions, crops, outputs, len(crops))

    def _plan(self, masks: Sequence[Mask], view: ViewSettings) -> list[SharedView]:
        """Choose the crops of one kind in which the network sees the masks of an image; in exact mode one for each."""
        if not self.info.shares or self.mode == "exact" or (self.mode == "auto" and len(masks) < AUTO_MIN_MASKS):
            return own_views(masks, view)
        return shared_views(masks, view, MAX_SHARED_CROPS if self.mode == "shared" else None)

    def _run_planned(self, images: Iterable[_PlannedImage], *, count: int | None = None) -> Iterator[ImageOutputs]:
        """Run the network on planned images; yields the outputs of each as soon as they are complete, in order."""
        started: deque[_PlannedImage] = deque()
        names = OUTPUTS if self.info.min_known is None else (*OUTPUTS, KNOWN)
        batches = self._batches(images, started)
        for batch, arrays in self._runner.run(names, batches, self._inputs_of, count=count):
            if not all(np.isfinite(array).all() for array in arrays):
                raise ModelError(f"{self.model_path}: gives numbers that are not finite; export it again")
            _fill(batch, arrays)
            while started and not started[0].waiting:
                yield started.popleft().outputs
        while started:  # Images without masks, after the last crop.
            yield started.popleft().outputs

    def _inputs_of(self, batch: Sequence[_Crop]) -> GraphInputs:
        counts = [len(crop.rows) for crop in batch]
        pixels = np.stack([crop.pixels for crop in batch])
        masks = np.concatenate([crop.coverage for crop in batch])
        image_of = np.repeat(np.arange(len(batch)), counts)
        crop_of = np.repeat([crop.kind for crop in batch], counts)
        return graph_inputs(pixels, masks, image_of, crop_of if len(self.info.view.crops) > 1 else None)

    def _batches(self, images: Iterable[_PlannedImage], started: deque[_PlannedImage]) -> Iterator[list[_Crop]]:
        """Yield rendered crops in batches of one crop size; each image is noted in `started` before its first crop."""
        batch: list[_Crop] = []
        try:
            for planned in images:
                started.append(planned)
                for crop in _rendered(planned):
                    if batch and batch[0].pixels.shape != crop.pixels.shape:
                        yield batch
                        batch = []
                    batch.append(crop)
                    if len(batch) == self._batch_size:
                        yield batch
                        batch = []
        except Exception:
            if batch:  # An unusable image must not cost the images before it.
                yield batch
            raise
        if batch:
            yield batch


def _rendered(planned: _PlannedImage) -> Iterator[_Crop]:
    integral = IntegralImage(planned.image)
    for kind, shared in planned.crops:
        coverage = np.stack([shared.view.cover(planned.regions[number]) for number in shared.masks])
        yield _Crop(planned, kind, shared.masks, shared.view.show(planned.image, integral), coverage)


def _fill(batch: Sequence[_Crop], arrays: Sequence[np.ndarray]) -> None:
    """Add a batch's logits to the rows of their images, and put embeddings into the columns of their kind of crop."""
    logits, embeddings, *known = arrays
    start = 0
    for crop in batch:
        part, rows, outputs = slice(start, start + len(crop.rows)), list(crop.rows), crop.planned.outputs
        if outputs.logits is not None:
            outputs.logits[rows] += logits[part]
        if outputs.embeddings is not None:
            first = crop.kind * embeddings.shape[1]
            outputs.embeddings[rows, first : first + embeddings.shape[1]] = embeddings[part]
        if outputs.known_logits is not None:
            outputs.known_logits[rows] += known[0][part]
        crop.planned.waiting -= 1
        start = part.stop


def _parts(shared: SharedView) -> Iterator[SharedView]:
    """Split a crop's masks so that no call of the network gets more than `MAX_MASK_PIXELS`."""
    height, width = shared.view.size_hw
    count = max(MAX_MASK_PIXELS // (height * width), 1)
    for start in range(0, len(shared.masks), count):
        yield SharedView(shared.view, shared.masks[start : start + count])
