"""Evaluate a model on labelled regions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int
from sklearn.metrics import confusion_matrix
from tqdm import tqdm

from maskwise.data.images import Pixels
from maskwise.data.mask_noise import perturb_mask
from maskwise.data.masks import Mask
from maskwise.data.regions import Regions, RegionSet, read_by_image
from maskwise.errors import AnnotationError
from maskwise.model.predictor import Predictor
from maskwise.tasks.metrics import (
    bootstrap_intervals,
    calibration_error,
    macro_accuracy,
    micro_accuracy,
    size_bins,
    top_k_accuracy,
    wilson_interval,
)

PUBLISHED_BOUNDS = (1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 500_000, 1_000_000)
"""Upper bounds of the published size bins, pixels of the mask."""
PUBLISHED_BINS = (*map(str, PUBLISHED_BOUNDS), "above")
COCO_BOUNDS = (32**2, 96**2)
"""COCO's sizes go by the area that the annotations state, pixels."""
COCO_SIZES = ("small", "medium", "large")
PROTOCOLS = {"eppel_n2": 2, "eppel_n10": 10}
"""Images per class of the published protocols."""
JUDGED_SLOPPY = ("dilate", "erode", "shift", "box")
SLOPPY_STRENGTH = 0.15
"""Dilated or eroded by this over the region's size (square root of its area), shifted by two thirds of it."""
LISTED_CONFUSIONS = 30
PREDICTION_COLUMNS = ("image_id", "region_id", "true", "predicted", "probability", "area", "crowd")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        report: the numbers, ready for JSON; accuracies are 0 to 1, None where there is no region.
        predictions: a row per region, crowds included; see `PREDICTION_COLUMNS`.
        classes: the model's names, in its order.
        confusion: how many regions of the class of a row got the name of a column; crowds left out.
    """

    report: dict[str, Any]
    predictions: list[list[Any]]
    classes: tuple[str, ...]
    confusion: Int[np.ndarray, "classes classes"]


@dataclass(frozen=True)
class Answers:
    """What the model said of regions whose classes it knows, one row a region, in the set's order.

    Attributes:
        regions: the regions.
        probabilities: of every class of the model.
        targets: class index of the true name.
        images: number of the region's image, by first mention.
        pixels: pixels of the mask.
    """

    regions: Regions
    probabilities: Float32[np.ndarray, "regions classes"]
    targets: Int[np.ndarray, " regions"]
    images: Int[np.ndarray, " regions"]
    pixels: Int[np.ndarray, " regions"]

    @property
    def predicted(self) -> Int[np.ndarray, " regions"]:
        """Class index of the most probable name."""
        return self.probabilities.argmax(axis=1)

    @property
    def areas(self) -> np.ndarray:
        """Pixels, as the annotations state them, else those of the mask."""
        return np.where(np.isnan(self.regions.stated_area), self.pixels, self.regions.stated_area)

    @property
    def crowds(self) -> Bool[np.ndarray, " regions"]:
        """Which regions mark many objects at once."""
        return self.regions.crowd

    def only(self, chosen: Bool[np.ndarray, " regions"]) -> Answers:
        """The chosen rows."""
        return Answers(
            self.regions.only(chosen),
            self.probabilities[chosen],
            self.targets[chosen],
            self.images[chosen],
            self.pixels[chosen],
        )


def evaluate(predictor: Predictor, regions: RegionSet, *, data: str = "", sloppy: bool = False) -> Evaluation:
    """Measure a model on labelled regions.

    Classes are matched by name; regions of classes that the model does not know are counted and left out. Crowds are
    left out too, except in the published protocols, which have them.

    Args:
        predictor: the model.
        regions: what to measure on; those of an image are named together.
        data: what the report calls the regions.
        sloppy: name them under worse masks too (dilated, eroded, shifted, their boxes); takes five times as long.

    Raises:
        AnnotationError: no region is left.
        ImageError, MaskError: an image or a mask that cannot be used; the message names it.
    """
    start = time.perf_counter()
    known, unknown = _known_regions(predictor.classes, regions)
    answers = _ask(predictor, known)
    counted = answers.only(~answers.crowds)
    classes = predictor.classes
    confusion = confusion_matrix(counted.targets, counted.predicted, labels=np.arange(len(classes)))
    report = {
        "model": predictor.info.name,
        "mode": predictor.mode,
        "data": data,
        **_headline(counted),
        "by_size": _by_size(counted),
        "per_class": _per_class(confusion, classes),
        "confusions": _confusions(confusion, classes),
        "protocols": {name: _protocol(answers, count) for name, count in PROTOCOLS.items()},
        "unknown_classes": unknown,
        "crowds": int(answers.crowds.sum()),
        "seconds": round(time.perf_counter() - start, 2),
        "sloppy": _sloppy(predictor, known) if sloppy else {},
    }
    return Evaluation(report, _prediction_rows(answers, classes), classes, confusion)


def _known_regions(classes: Sequence[str], regions: RegionSet) -> tuple[RegionSet, dict[str, int]]:
    """The regions of classes that the model knows, and how many others (crowds not counted) there are by class."""
    if not len(regions.regions):
        raise AnnotationError("no region is left to be evaluated; look at --ignore, --min-area and the annotations")
    has_class = regions.regions.called(classes)
    known = regions.only(has_class)
    if known.regions.crowd.all():
        raise AnnotationError(
            f"none of the {len(regions.regions)} regions can be evaluated: without crowds, none has a class that the"
            f" model knows; the regions' classes are {', '.join(c.name for c in regions.categories) or 'none'};"
            f" the model's are {', '.join(classes)}; rename classes to the model's names"
        )
    return known, regions.regions.only(~has_class & ~regions.regions.crowd).counts()


def _sloppy(predictor: Predictor, regions: RegionSet) -> dict[str, dict[str, float]]:
    """Accuracies under each kind of worse mask; crowds left out."""
    counted = regions.only(~regions.regions.crowd)
    found = {}
    for kind in JUDGED_SLOPPY:
        micro, macro = _accuracies(_ask(predictor, counted, kind))
        found[kind] = {"micro": micro, "macro": macro}
    return found


def _ask(predictor: Predictor, regions: RegionSet, noise: str | None = None) -> Answers:
    """Let the model name all regions; their masks made worse in one way, or as they are."""
    index = {name: i for i, name in reversed(list(enumerate(predictor.classes)))}
    order: list[int] = []
    images: list[int] = []
    pixels: list[int] = []
    angles = np.random.default_rng(0)

    def shown() -> Iterator[tuple[Pixels, list[Mask]]]:
        for number, (numbers, image, masks) in enumerate(read_by_image(regions.regions)):
            order.extend(numbers)
            images.extend([number] * len(numbers))
            noisy = masks if noise is None else _with_noise(masks, noise, angles)
            pixels.extend(mask.area for mask in noisy)
            yield image, noisy

    rows = []
    with tqdm(total=len(regions.regions), unit=" regions", desc=noise or "evaluate", disable=None) as progress:
        for outputs in predictor.run_many(shown()):
            rows.append(outputs.probabilities)
            progress.update(len(rows[-1]))
    back = np.argsort(order)
    return Answers(
        regions.regions,
        np.concatenate(rows)[back],
        regions.regions.numbered(index),
        np.array(images)[back],
        np.array(pixels)[back],
    )


def _with_noise(masks: Sequence[Mask], kind: str, random: np.random.Generator) -> list[Mask]:
    angles = random.uniform(0, 2 * np.pi, len(masks)).tolist()
    return [perturb_mask(mask, kind, SLOPPY_STRENGTH, angle=angle) for mask, angle in zip(masks, angles, strict=True)]


def _headline(answers: Answers) -> dict[str, Any]:
    predicted, targets = answers.predicted, answers.targets
    micro_ci95, macro_ci95 = bootstrap_intervals(predicted, targets, answers.images)
    return {
        "regions": len(targets),
        "images": len(np.unique(answers.images)),
        "micro": micro_accuracy(predicted, targets),
        "micro_ci95": list(micro_ci95),
        "macro": macro_accuracy(predicted, targets),
        "macro_ci95": list(macro_ci95),
        "top5": top_k_accuracy(answers.probabilities, targets),
        "ece": calibration_error(answers.probabilities, targets),
    }


def _by_size(answers: Answers) -> dict[str, Any]:
    coco = size_bins(answers.areas, COCO_BOUNDS)
    published = size_bins(answers.pixels, PUBLISHED_BOUNDS)
    return {
        "coco": {name: _bin(answers.only(coco == i)) for i, name in enumerate(COCO_SIZES)},
        "published": {name: _bin(answers.only(published == i)) for i, name in enumerate(PUBLISHED_BINS)},
    }


def _bin(answers: Answers) -> dict[str, Any]:
    micro, macro = _accuracies(answers)
    right = int((answers.predicted == answers.targets).sum())
    total = len(answers.targets)
    return {"regions": total, "micro": micro, "micro_ci95": list(wilson_interval(right, total)), "macro": macro}


def _accuracies(answers: Answers) -> tuple[float, float] | tuple[None, None]:
    """Micro and macro accuracy; None for both where there is no region."""
    if not len(answers.targets):
        return None, None
    return micro_accuracy(answers.predicted, answers.targets), macro_accuracy(answers.predicted, answers.targets)


def _per_class(confusion: Int[np.ndarray, "classes classes"], classes: Sequence[str]) -> dict[str, Any]:
    """Of each class that has regions: how many, how many named rightly, and the wrong name that it gets most."""
    found = {}
    for index, row in enumerate(confusion):
        total, right = int(row.sum()), int(row[index])
        if not total:
            continue
        wrong = np.where(np.arange(len(row)) == index, 0, row)
        found[classes[index]] = {
            "regions": total,
            "accuracy": right / total,
            "ci95": list(wilson_interval(right, total)),
            "most_confused_with": classes[wrong.argmax()] if wrong.any() else None,
        }
    return found


def _confusions(confusion: Int[np.ndarray, "classes classes"], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The most frequent pairs of a true and a wrong name, the most frequent first."""
    wrong = confusion * ~np.eye(len(classes), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED_CONFUSIONS]
    pairs = np.transpose(np.unravel_index(order, wrong.shape)).tolist()
    return [
        {"true": classes[true], "predicted": classes[predicted], "count": int(wrong[true, predicted])}
        for true, predicted in pairs
        if wrong[true, predicted]
    ]


def _protocol(answers: Answers, images_per_class: int) -> dict[str, Any]:
    """A published protocol: of each class the first images that have it, every annotation of it there, crowds included.

    Source:
        S. Eppel, Classifying a specific image region using convolutional nets with an ROI mask as input,
        arXiv:1812.00291, and the evaluation scripts published with it. Those go through files of their own order; here
        the order is the annotations'.
    """
    chosen = answers.only(_first_images(answers.targets, answers.images, images_per_class))
    bins = size_bins(chosen.pixels, PUBLISHED_BOUNDS)
    return {
        "images_per_class": images_per_class,
        "classes": len(np.unique(chosen.targets)),
        **_protocol_bin(chosen),
        "by_size": {name: _protocol_bin(chosen.only(bins == i)) for i, name in enumerate(PUBLISHED_BINS)},
    }


def _protocol_bin(answers: Answers) -> dict[str, Any]:
    overall, mean_of_class = _accuracies(answers)
    return {"regions": len(answers.targets), "mean_of_class": mean_of_class, "overall": overall}


def _first_images(
    targets: Int[np.ndarray, " regions"], images: Int[np.ndarray, " regions"], images_per_class: int
) -> Bool[np.ndarray, " regions"]:
    """Which regions lie in one of the first images that have their class; image numbers rise with the set's order."""
    chosen = np.zeros(len(targets), dtype=bool)
    for target in np.unique(targets):
        of_class = targets == target
        chosen |= of_class & np.isin(images, np.unique(images[of_class])[:images_per_class])
    return chosen


def _prediction_rows(answers: Answers, classes: Sequence[str]) -> list[list[Any]]:
    confidence = answers.probabilities.max(axis=1).astype(float).round(4).tolist()
    return [
        [region.image_id, region.region_id, region.name, classes[best], probability, area, region.crowd]
        for region, best, probability, area in zip(
            answers.regions, answers.predicted, confidence, answers.areas.tolist(), strict=True
        )
    ]
