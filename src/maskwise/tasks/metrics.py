"""Metrics of classification: functions of arrays. Accuracies and probabilities are 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Real

NORMAL_95 = 1.959963984540054
"""Half the width of the central 95 % of a standard normal distribution."""
DRAWS_AT_ONCE = 100
"""Limits the memory of the bootstrap: 100 draws of val2017's 5000 images take 4 MB; 1000 of train2017's took 950 MB."""


def micro_accuracy(predicted: Int[np.ndarray, " regions"], targets: Int[np.ndarray, " regions"]) -> float:
    """Return the share of regions whose class is predicted right.

    Args:
        predicted: class index predicted for each region; at least one region.
        targets: class index of its true class.

    >>> micro_accuracy(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]))
    0.75
    """
    return float((predicted == targets).mean())


def macro_accuracy(predicted: Int[np.ndarray, " regions"], targets: Int[np.ndarray, " regions"]) -> float:
    """Return the mean of the accuracies of the classes that are present; arguments as in `micro_accuracy`.

    >>> macro_accuracy(np.array([0, 0, 2, 1]), np.array([0, 0, 0, 1])).__round__(3)
    0.833
    """
    totals = np.bincount(targets)
    right = np.bincount(targets, weights=predicted == targets)
    return float((right[totals > 0] / totals[totals > 0]).mean())


def confusion_matrix(
    predicted: Int[np.ndarray, " regions"], targets: Int[np.ndarray, " regions"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Count regions by true class (row) and predicted class (column).

    Args:
        predicted: class index predicted for each region.
        targets: class index of its true class.
        classes: number of classes.

    >>> confusion_matrix(np.array([1, 1, 2]), np.array([0, 0, 2]), 3).tolist()
    [[0, 2, 0], [0, 0, 0], [0, 0, 1]]
    """
    return np.bincount(targets * classes + predicted, minlength=classes**2).reshape(classes, classes)


def top_k_accuracy(
    probabilities: Float32[np.ndarray, "regions classes"], targets: Int[np.ndarray, " regions"], k: int = 5
) -> float:
    """Return the share of regions whose true class is among the k most probable; ties go to the first class.

    Args:
        probabilities: of every class, for at least one region.
        targets: class index of each region's true class.
        k: how many classes; all of them if there are fewer.

    >>> top_k_accuracy(np.float32([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]), np.array([1, 0]), k=2)
    0.5
    """
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((best == targets[:, None]).any(axis=1).mean())


def log_loss(probabilities: Float32[np.ndarray, "regions classes"], targets: Int[np.ndarray, " regions"]) -> float:
    """Return the mean of -log(probability of the true class), nats; a probability of 0 counts as 1e-12.

    Args:
        probabilities: of every class, for at least one region.
        targets: class index of each region's true class.

    >>> log_loss(np.float32([[0.5, 0.5], [0.75, 0.25]]), np.array([0, 1])).__round__(3)
    1.04
    """
    right = probabilities[np.arange(len(targets)), targets].astype(float)
    return float(-np.log(np.maximum(right, 1e-12)).mean())


def calibration_error(
    probabilities: Float32[np.ndarray, "regions classes"], targets: Int[np.ndarray, " regions"], bins: int = 15
) -> float:
    """Return the expected calibration error: the mean gap between the predicted probability and the accuracy.

    Args:
        probabilities: of every class, for at least one region.
        targets: class index of each region's true class.
        bins: number of bins of equal width over 0 to 1, each without its lower edge; gaps are taken per bin.

    Source:
        C. Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599.
    """
    table = reliability(probabilities.max(axis=1).astype(float), probabilities.argmax(axis=1) == targets, bins)
    return float((table.counts * np.abs(table.accuracy - table.confidence)).sum() / len(targets))


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often names are right, by their predicted probability; only bins that hold a region.

    Attributes:
        confidence: mean predicted probability of each bin, 0 to 1.
        accuracy: share of right names.
        counts: number of regions.
    """

    confidence: Float64[np.ndarray, " bins"]
    accuracy: Float64[np.ndarray, " bins"]
    counts: Int[np.ndarray, " bins"]


def reliability(
    confidence: Float64[np.ndarray, " regions"], right: Bool[np.ndarray, " regions"], bins: int = 15
) -> Reliability:
    """Return how often names are right, in bins of equal width over 0 to 1, each without its lower edge.

    Args:
        confidence: probability of each region's name.
        right: whether the name is right.
        bins: number of bins.

    >>> table = reliability(np.array([0.95, 0.91, 0.3]), np.array([True, False, False]), bins=10)
    >>> table.confidence.round(2).tolist(), table.accuracy.tolist(), table.counts.tolist()
    ([0.3, 0.93], [0.0, 0.5], [1, 2])
    """
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(number, minlength=bins)
    held = counts > 0
    sums = [np.bincount(number, weights=weights, minlength=bins)[held] for weights in (confidence, right)]
    return Reliability(sums[0] / counts[held], sums[1] / counts[held], counts[held])


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion; 0 to 1 if nothing was counted.

    Args:
        right: number of right ones.
        total: number of all.

    Source:
        E. B. Wilson, Probable inference, the law of succession, and statistical inference (1927).

    >>> [round(end, 3) for end in wilson_interval(8, 10)]
    [0.49, 0.943]
    """
    if total == 0:
        return 0.0, 1.0
    z2 = NORMAL_95**2
    share = right / total
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = NORMAL_95 * np.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def bootstrap_intervals(
    predicted: Int[np.ndarray, " regions"],
    targets: Int[np.ndarray, " regions"],
    images: Int[np.ndarray, " regions"],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return 95 % intervals of micro and macro accuracy by a bootstrap over images.

    Whole images are drawn because regions of one image are similar: drawing regions would give too narrow intervals.
    A single image gives an interval of no width.

    Args:
        predicted: class index of each region's name; at least one region.
        targets: class index of its true name.
        images: number of its image; any numbers that tell images apart.
        draws: number of bootstrap samples, each of as many images as there are.
        seed: of the draws.

    Returns:
        Lower and upper end for micro, then for macro accuracy.

    Source:
        B. Efron, Bootstrap methods: another look at the jackknife (1979); the percentile interval.
    """
    totals, rights = _image_counts(predicted, targets, images)
    count = len(totals)
    random = np.random.default_rng(seed)
    micro, macro = [], []
    for start in range(0, draws, DRAWS_AT_ONCE):
        drawn = random.multinomial(count, np.full(count, 1 / count), size=min(DRAWS_AT_ONCE, draws - start))
        # As floats: NumPy multiplies matrices of integers without BLAS, many times slower.
        total, right = drawn.astype(float) @ totals, drawn.astype(float) @ rights
        present = total > 0
        micro.append(right.sum(axis=1) / total.sum(axis=1))
        macro.append((right / np.where(present, total, 1)).sum(axis=1) / present.sum(axis=1))
    return _central_95(np.concatenate(micro)), _central_95(np.concatenate(macro))


def _image_counts(
    predicted: np.ndarray, targets: np.ndarray, images: np.ndarray
) -> tuple[Float[np.ndarray, "images classes"], Float[np.ndarray, "images classes"]]:
    """Count regions, and rightly named ones, per image and class."""
    image_ids, image = np.unique(images, return_inverse=True)
    class_ids, column = np.unique(targets, return_inverse=True)
    totals, rights = np.zeros((2, len(image_ids), len(class_ids)))
    np.add.at(totals, (image, column), 1)
    np.add.at(rights, (image, column), predicted == targets)
    return totals, rights


def _central_95(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def auroc(positive: Float64[np.ndarray, " n"], negative: Float64[np.ndarray, " m"]) -> float:
    """Return the area under the ROC curve: the probability that a positive scores higher than a negative, ties half.

    Args:
        positive: scores of the regions that should score high; at least one.
        negative: of the others; at least one.

    >>> auroc(np.array([0.9, 0.8, 0.3]), np.array([0.1, 0.3]))
    0.9166666666666666
    """
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    not_above = np.searchsorted(ordered, positive, side="right")
    return float((below + not_above).mean() / 2 / len(negative))


def named_share(positive: Float64[np.ndarray, " n"], negative: Float64[np.ndarray, " m"], *, kept: float) -> float:
    """Return the share of negatives that pass the highest limit at which a share of the positives passes.

    Args:
        positive: scores of the regions that should pass; at least one.
        negative: of the others; at least one.
        kept: share of the positives, above 0 to 1.

    >>> named_share(np.array([0.9, 0.8, 0.3, 0.2]), np.array([0.1, 0.3, 0.4]), kept=0.75)
    0.6666666666666666
    """
    limit = np.sort(positive)[::-1][int(np.ceil(kept * len(positive))) - 1]
    return float((negative >= limit).mean())


def size_bins(areas: Real[np.ndarray, " regions"], upper_bounds: Sequence[int]) -> Int[np.ndarray, " regions"]:
    """Return the bin of each area: the first whose upper bound is above it, else the number of bounds.

    Args:
        areas: pixels.
        upper_bounds: rising; a bin does not include its bound.

    >>> size_bins(np.array([10, 1023.5, 1024, 9216]), (1024, 9216)).tolist()
    [0, 0, 1, 2]
    """
    return np.searchsorted(np.asarray(upper_bounds), areas, side="right")
