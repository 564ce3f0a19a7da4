"""Evaluate a model on labelled regions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from maskwise.data.images import Pixels
from maskwise.data.mask_noise import NoiseKind, perturb_mask
from maskwise.data.masks import Mask
from maskwise.data.problems import SKIPPED, OnError, Problem
from maskwise.data.regions import Regions, RegionSet, read_by_image
from maskwise.errors import AnnotationError, InputError
from maskwise.model.predictor import Predictor
from maskwise.progress import Progress
from maskwise.tasks.evaluation_report import (
    Accuracies,
    BackgroundResult,
    BySize,
    ClassResult,
    Confusion,
    Protocol,
    ProtocolBin,
    Report,
    SizeBin,
)
from maskwise.tasks.metrics import (
    auroc,
    bootstrap_intervals,
    calibration_error,
    confusion_matrix,
    log_loss,
    macro_accuracy,
    micro_accuracy,
    named_share,
    size_bins,
    top_k_accuracy,
    wilson_interval,
)

PUBLISHED_BOUNDS = (1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 500_000, 1_000_000)
"""Upper bounds of the published size bins, pixels of the mask."""
PUBLISHED_BINS = (*map(str, PUBLISHED_BOUNDS), "above")
COCO_BOUNDS = (32**2, 96**2)
"""Upper bounds of COCO's small and medium, pixels of the area that the annotations state."""
COCO_SIZES = ("small", "medium", "large")
PROTOCOLS = {"eppel_n2": 2, "eppel_n10": 10}
"""Images per class of the published protocols."""
EVALUATED_NOISE: tuple[NoiseKind, ...] = ("dilate", "erode", "shift", "box")
NOISE_STRENGTH = 0.15
"""Masks are dilated or eroded by this share of the region's size (square root of its area), shifted by 2/3 of it."""
MAX_CONFUSIONS = 30
PREDICTION_COLUMNS = ("image_id", "region_id", "true", "predicted", "probability", "area", "crowd")


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        report: the numbers.
        predictions: a row per region, crowds included; see `PREDICTION_COLUMNS`.
        classes: the model's classes, in its order.
        confusion: number of regions by true class (row) and predicted class (column), without crowds.
        named: the regions with all probabilities, in the order of the predictions.
        problems: faults in the data whose regions were left out.
    """

    report: Report
    predictions: list[list[Any]]
    classes: tuple[str, ...]
    confusion: Int[np.ndarray, "classes classes"]
    named: NamedRegions
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class NamedRegions:
    """Labelled regions with the model's probabilities, a row per region, in the set's order.

    Attributes:
        regions: the regions.
        probabilities: of every class of the model.
        targets: class index of the true class.
        images: number of the region's image, by first mention.
        pixels: pixels of the mask.
        known: probability of being one of the classes at all; if the model cannot tell, that of the best class.
    """

    regions: Regions
    probabilities: Float32[np.ndarray, "regions classes"]
    targets: Int[np.ndarray, " regions"]
    images: Int[np.ndarray, " regions"]
    pixels: Int[np.ndarray, " regions"]
    known: Float64[np.ndarray, " regions"]

    @property
    def predicted(self) -> Int[np.ndarray, " regions"]:
        """Class index of the most probable class."""
        return self.probabilities.argmax(axis=1)

    @property
    def areas(self) -> Float64[np.ndarray, " regions"]:
        """Area that the annotations state, else that of the mask; pixels."""
        return np.where(np.isnan(self.regions.stated_area), self.pixels, self.regions.stated_area)

    @property
    def crowds(self) -> Bool[np.ndarray, " regions"]:
        """Which regions mark many objects at once."""
        return self.regions.crowd

    def only(self, chosen: Bool[np.ndarray, " regions"]) -> NamedRegions:
        """Return the chosen rows."""
        return NamedRegions(
            self.regions.only(chosen),
            self.probabilities[chosen],
            self.targets[chosen],
            self.images[chosen],
            self.pixels[chosen],
            self.known[chosen],
        )


def evaluate(
    predictor: Predictor,
    regions: RegionSet,
    *,
    data: str = "",
    mask_noise: bool = False,
    on_error: OnError = "stop",
    background: RegionSet | None = None,
) -> Evaluation:
    """Evaluate a model on labelled regions.

    Classes are matched by name. Regions of classes that the model does not know are counted and left out, and so are
    crowds, except in the published protocols, which include them.

    Args:
        predictor: the model.
        regions: the labelled regions; those of an image are named together.
        data: name of the regions in the report.
        mask_noise: also name them under noisy masks (dilated, eroded, shifted, replaced by their boxes); takes five
            times as long.
        on_error: what to do about images and masks that cannot be used: `stop` lists all of them, `skip` leaves them
            out; the report counts them.
        background: regions that are none of the classes, such as segments of the background; their own classes do not
            matter. The report then says how well they are told from the others.

    Returns:
        The numbers, the predictions and the confusion matrix; `write_report` makes a folder of them.

    Raises:
        AnnotationError: no region is left; or, with `stop`, several images or masks cannot be used.
        ImageError, MaskError: with `stop`, one image or mask cannot be used; the message names it.

    Example:
        regions = regions_from_coco("instances_val2017.json", "val2017")
        evaluation = evaluate(Predictor(mode="exact"), regions)
        print(evaluation.report.micro)
    """
    start = time.perf_counter()
    known, unknown = _known_regions(predictor.classes, regions)
    problems: list[Problem] = list(regions.problems)
    named = _name_all(predictor, known, skip=SKIPPED[on_error], problems=problems)
    known = RegionSet(known.categories, named.regions)
    counted = named.only(~named.crowds)
    predicted, targets, classes = counted.predicted, counted.targets, predictor.classes
    micro_ci95, macro_ci95 = bootstrap_intervals(predicted, targets, counted.images)
    confusion = confusion_matrix(predicted, targets, len(classes))
    report = Report(
        model=predictor.info.name,
        mode=predictor.mode,
        data=data,
        regions=len(targets),
        images=len(np.unique(counted.images)),
        micro=micro_accuracy(predicted, targets),
        micro_ci95=micro_ci95,
        macro=macro_accuracy(predicted, targets),
        macro_ci95=macro_ci95,
        top5=top_k_accuracy(counted.probabilities, targets),
        log_loss=log_loss(counted.probabilities, targets),
        ece=calibration_error(counted.probabilities, targets),
        by_size=_by_size(counted),
        per_class=_per_class(confusion, classes),
        confusions=_confusions(confusion, classes),
        protocols={name: _protocol(named, count) for name, count in PROTOCOLS.items()},
        mask_noise=_under_noise(predictor, known) if mask_noise else {},
        background=None if background is None else _background(predictor, counted, background, on_error),
        unknown_classes=unknown,
        crowds=int(named.crowds.sum()),
        faults=len(problems),
        seconds=round(time.perf_counter() - start, 2),
    )
    return Evaluation(report, _prediction_rows(named, classes), classes, confusion, named, tuple(problems))


def _known_regions(classes: Sequence[str], regions: RegionSet) -> tuple[RegionSet, dict[str, int]]:
    """Return the regions of classes that the model knows, and the number of others by class, without crowds."""
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


def _background(
    predictor: Predictor, objects: NamedRegions, background: RegionSet, on_error: OnError
) -> BackgroundResult:
    """Return how well objects are told from regions of no class."""
    nothing = _name_all(predictor, background, skip=SKIPPED[on_error])
    named = {
        name: ~predictor.limits.are_none(one.probabilities.max(axis=1).astype(np.float64), one.known)
        for name, one in (("objects", objects), ("nothing", nothing))
    }
    images = len(np.unique(nothing.images))
    return BackgroundResult(
        regions=len(nothing.known),
        images=images,
        auroc=auroc(objects.known, nothing.known),
        named_at_95=named_share(objects.known, nothing.known, kept=0.95),
        objects_kept=float(named["objects"].mean()),
        named=float(named["nothing"].mean()),
        false_names_per_image=float(named["nothing"].sum() / images),
        curve=tuple(
            (kept, named_share(objects.known, nothing.known, kept=kept)) for kept in (0.5, 0.8, 0.9, 0.95, 0.97, 0.99)
        ),
    )


def _under_noise(predictor: Predictor, regions: RegionSet) -> dict[str, Accuracies]:
    """Return accuracies under each kind of mask noise, without crowds."""
    counted = regions.only(~regions.regions.crowd)
    return {kind: _accuracies(_name_all(predictor, counted, kind)) for kind in EVALUATED_NOISE}


def _name_all(
    predictor: Predictor,
    regions: RegionSet,
    noise: NoiseKind | None = None,
    *,
    skip: tuple[type[InputError], ...] = (),
    problems: list[Problem] | None = None,
) -> NamedRegions:
    """Name all regions, under their masks or with one kind of noise; regions with skipped faults are left out.

    Raises:
        AnnotationError: all have faults.
    """
    index = {name: i for i, name in reversed(list(enumerate(predictor.classes)))}
    order: list[int] = []
    images: list[int] = []
    pixels: list[int] = []
    random = np.random.default_rng(0)

    def shown() -> Iterator[tuple[Pixels, list[Mask]]]:
        images_read = read_by_image(regions.regions, skip=skip, problems=problems)
        for number, (numbers, image, masks) in enumerate(images_read):
            order.extend(numbers)
            images.extend([number] * len(numbers))
            seen = masks if noise is None else _with_noise(masks, noise, random)
            pixels.extend(mask.area for mask in seen)
            yield image, seen

    rows, known = [], []
    with Progress(len(regions.regions), noise or "evaluate", "regions") as progress:
        for outputs in predictor.run_many(shown()):
            rows.append(outputs.probabilities)
            known.append(np.where(np.isnan(outputs.known), rows[-1].max(axis=1), outputs.known))
            progress.update(len(rows[-1]))
    if not rows:
        raise AnnotationError(f"no region can be evaluated; the first fault: {problems[0].message if problems else ''}")
    back = np.argsort(order)  # Images were read in order of first mention; the rows go back to the set's order.
    usable = regions.regions.only(np.sort(order))
    return NamedRegions(
        usable,
        np.concatenate(rows)[back],
        usable.numbered(index),
        np.array(images)[back],
        np.array(pixels)[back],
        np.concatenate(known)[back].astype(np.float64),
    )


def _with_noise(masks: Sequence[Mask], kind: NoiseKind, random: np.random.Generator) -> list[Mask]:
    angles = random.uniform(0, 2 * np.pi, len(masks)).tolist()
    return [perturb_mask(mask, kind, NOISE_STRENGTH, angle=angle) for mask, angle in zip(masks, angles, strict=True)]


def _by_size(named: NamedRegions) -> BySize:
    coco = size_bins(named.areas, COCO_BOUNDS)
    published = size_bins(named.pixels, PUBLISHED_BOUNDS)
    return BySize(
        coco={name: _size_bin(named.only(coco == i)) for i, name in enumerate(COCO_SIZES)},
        published={name: _size_bin(named.only(published == i)) for i, name in enumerate(PUBLISHED_BINS)},
    )


def _size_bin(named: NamedRegions) -> SizeBin:
    both = _accuracies(named)
    right, total = int((named.predicted == named.targets).sum()), len(named.targets)
    return SizeBin(total, both.micro, wilson_interval(right, total), both.macro)


def _accuracies(named: NamedRegions) -> Accuracies:
    if not len(named.targets):
        return Accuracies(None, None)
    return Accuracies(micro_accuracy(named.predicted, named.targets), macro_accuracy(named.predicted, named.targets))


def _per_class(confusion: Int[np.ndarray, "classes classes"], classes: Sequence[str]) -> dict[str, ClassResult]:
    results = {}
    for index, row in enumerate(confusion):
        total, right = int(row.sum()), int(row[index])
        if total:
            wrong = np.where(np.arange(len(row)) == index, 0, row)
            most = classes[int(wrong.argmax())] if wrong.any() else None
            results[classes[index]] = ClassResult(total, right / total, wilson_interval(right, total), most)
    return results


def _confusions(confusion: Int[np.ndarray, "classes classes"], classes: Sequence[str]) -> tuple[Confusion, ...]:
    """Return the most frequent pairs of a true and a wrong class, the most frequent first."""
    wrong = confusion * ~np.eye(len(classes), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = np.transpose(np.unravel_index(order, wrong.shape)).tolist()
    return tuple(
        Confusion(classes[true], classes[predicted], int(wrong[true, predicted]))
        for true, predicted in pairs
        if wrong[true, predicted]
    )


def _protocol(named: NamedRegions, images_per_class: int) -> Protocol:
    """Apply a published protocol: the first images of each class, and every annotation of it there, with crowds.

    Source:
        S. Eppel, Classifying a specific image region using convolutional nets with an ROI mask as input,
        arXiv:1812.00291, and the evaluation scripts published with it. Those go through files of their own order; here
        the order is the annotations'.
    """
    chosen = named.only(_first_images(named.targets, named.images, images_per_class))
    bins = size_bins(chosen.pixels, PUBLISHED_BOUNDS)
    whole = _protocol_bin(chosen)
    return Protocol(
        images_per_class,
        len(np.unique(chosen.targets)),
        whole.regions,
        whole.mean_of_class,
        whole.overall,
        {name: _protocol_bin(chosen.only(bins == i)) for i, name in enumerate(PUBLISHED_BINS)},
    )


def _protocol_bin(named: NamedRegions) -> ProtocolBin:
    both = _accuracies(named)
    return ProtocolBin(len(named.targets), mean_of_class=both.macro, overall=both.micro)


def _first_images(
    targets: Int[np.ndarray, " regions"], images: Int[np.ndarray, " regions"], images_per_class: int
) -> Bool[np.ndarray, " regions"]:
    """Return which regions lie in one of the first images of their class; image numbers rise with the set's order."""
    chosen = np.zeros(len(targets), dtype=bool)
    for target in np.unique(targets):
        of_class = targets == target
        chosen |= of_class & np.isin(images, np.unique(images[of_class])[:images_per_class])
    return chosen


def _prediction_rows(named: NamedRegions, classes: Sequence[str]) -> list[list[Any]]:
    confidence = named.probabilities.max(axis=1).astype(float).round(6).tolist()
    return [
        [region.image_id, region.region_id, region.name, classes[best], probability, area, region.crowd]
        for region, best, probability, area in zip(
            named.regions, named.predicted, confidence, named.areas.tolist(), strict=True
        )
    ]
