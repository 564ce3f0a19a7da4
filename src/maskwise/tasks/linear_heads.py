"""Linear heads on embeddings: fitted, compared by cross-validation and calibrated. Arrays only."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from maskwise.tasks.calibration import fit_temperature, log_likelihoods
from maskwise.tasks.metrics import macro_accuracy, micro_accuracy

Kind = Literal["linear", "mean", "auto"]
STRENGTHS = {"linear": (1.0, 0.1), "mean": (1.0, 0.5, 0.2)}
"""Strengths to try. Linear: C, the inverse of the penalty. Mean: the share of the covariance that is taken as round."""
UNTRIED = {"auto": ("linear", 1.0), "linear": ("linear", 1.0), "mean": ("mean", 1.0)}
"""The head if there are too few regions to try any. The linear one is best with one region per class, and its
probabilities are nearly calibrated without a temperature."""
FOLDS = 5
DOUBT = 1.0
"""See `fit_temperature`: few regions say little about the temperature."""
CLASS_POWER = 0.5
"""A class of n regions has weight n to this power, as in training: rare classes count, but less than frequent ones."""


@dataclass(frozen=True)
class Head:
    """A last layer: logits = embeddings @ weight.T + bias.

    Attributes:
        weight: a row per class.
        bias: of each class.
    """

    weight: Float[np.ndarray, "classes features"]
    bias: Float[np.ndarray, " classes"]

    def logits(self, embeddings: Float[np.ndarray, "regions features"]) -> Float[np.ndarray, "regions classes"]:
        """Return the logits of every class."""
        return embeddings @ self.weight.T + self.bias


@dataclass(frozen=True)
class Part:
    """A head of one kind, and the factor of its logits in a sum."""

    kind: str
    strength: float
    share: float = 1.0


@dataclass(frozen=True)
class Trial:
    """A way of fitting a head, and its results on regions of images that it had not seen.

    Attributes:
        parts: heads whose logits are added; a sum of last layers is a last layer.
        temperature: calibrates its probabilities.
        micro: micro accuracy, 0 to 1; None if nothing could be tried.
        macro: macro accuracy.
        likelihood: mean logarithm of the probability of the true class, less the penalty of `DOUBT`.
        regions: number of regions it was judged on.
        classes: number of their classes.
    """

    parts: tuple[Part, ...]
    temperature: float = 1.0
    micro: float | None = None
    macro: float | None = None
    likelihood: float | None = None
    regions: int = 0
    classes: int = 0

    @property
    def name(self) -> str:
        """Kind and strength of the parts."""
        return " + ".join(f"{part.kind} {part.strength:g}" for part in self.parts)

    def fit(self, embeddings: Float[np.ndarray, "regions features"], targets: Int[np.ndarray, " regions"]) -> Head:
        """Fit the head; arguments as in `fit_head`."""
        heads = [(part.share, fit_head(part.kind, part.strength, embeddings, targets)) for part in self.parts]
        return Head(
            np.sum([share * head.weight for share, head in heads], axis=0),
            np.sum([share * head.bias for share, head in heads], axis=0),
        )


def fit_head(
    kind: str, strength: float, embeddings: Float[np.ndarray, "regions features"], targets: Int[np.ndarray, " regions"]
) -> Head:
    """Fit a last layer.

    `linear` is multinomial logistic regression with a quadratic penalty. `mean` chooses the class whose mean is
    nearest: by plain distance at strength 1; below, directions in which regions of one class differ count less (linear
    discriminant analysis with a shrunk covariance).

    Args:
        kind: linear or mean.
        strength: see `STRENGTHS`.
        embeddings: of the regions.
        targets: class index of each, every one from 0 up present, at least two.

    Source:
        J. H. Friedman, Regularized discriminant analysis, JASA 84 (1989).
    """
    # One scale for all features: with a few regions, the spread of each feature is mostly chance.
    centre, scale = embeddings.mean(axis=0, dtype=float), float(embeddings.std(dtype=float)) or 1.0
    scaled = (embeddings - centre) / scale
    weight, bias = (logistic_regression if kind == "linear" else _nearest_mean)(strength, scaled, targets)
    return Head(weight / scale, bias - weight @ centre / scale)


def logistic_regression(
    strength: float,
    embeddings: Float[np.ndarray, "regions features"],
    targets: Int[np.ndarray, " regions"],
    *,
    power: float = CLASS_POWER,
) -> tuple[Float[np.ndarray, "classes features"], Float[np.ndarray, " classes"]]:
    """Return weight and bias of multinomial logistic regression with a quadratic penalty.

    Args:
        strength: C, the inverse of the penalty.
        embeddings: of the regions, scaled.
        targets: class index of each, every one from 0 up present, at least two.
        power: see `class_weights`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(C=strength, max_iter=300)
    # On one thread: such small products gain nothing by more threads, and lose much where the cores are busy
    # (1,200 regions of 384 features: 0.7 s on one thread, 42 s on two busy cores).
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # A head that nearly converged is judged like any other.
        warnings.filterwarnings("ignore", "The number of unique classes is greater")  # One or two regions per class.
        model.fit(embeddings, targets, sample_weight=class_weights(targets, power))
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # For two classes scikit-learn gives one row: the second against the first.
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return weight, bias


def _nearest_mean(strength: float, embeddings: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    classes = int(targets.max()) + 1
    means = np.stack([embeddings[targets == index].mean(axis=0) for index in range(classes)])
    inside = embeddings - means[targets]
    freedom = max(len(targets) - classes, 1)
    features = embeddings.shape[1]
    spread = (inside**2).sum() / freedom / features or 1.0  # One region per class has no spread.
    # Distances add up over features: divided, so that temperatures are near 1.
    weight = _divided(means, inside, (1 - strength) / freedom, strength * spread) / np.sqrt(features)
    return weight, -(weight * means).sum(axis=1) / 2


def _divided(rows: np.ndarray, inside: np.ndarray, scale: float, ridge: float) -> np.ndarray:
    """Return rows @ inverse(scale * inside.T @ inside + ridge * identity), the rows of a linear discriminant.

    With fewer regions than features, the Woodbury identity asks for a matrix of regions instead of features: 0.01 s in
    place of 1.6 s for 12 regions of 3,072 features.
    """
    regions, features = inside.shape
    if scale == 0:
        return rows / ridge
    if regions < features:
        gram = inside @ inside.T + ridge / scale * np.eye(regions)
        return (rows - np.linalg.solve(gram, inside @ rows.T).T @ inside) / ridge
    return np.linalg.solve(scale * inside.T @ inside + ridge * np.eye(features), rows.T).T


def choose_head(
    kind: Kind,
    embeddings: Float[np.ndarray, "regions features"],
    targets: Int[np.ndarray, " regions"],
    images: Int[np.ndarray, " regions"],
) -> tuple[Trial, ...]:
    """Try heads by cross-validation over images: each names regions of images that it was not fitted to.

    A region counts if its class has regions in other images.

    Args:
        kind: what to try; auto: both kinds, and the mean of the calibrated logits of the best of each.
        embeddings: of the regions.
        targets: class index of each, every one from 0 up present, at least two.
        images: number of its image; any numbers that tell images apart.

    Returns:
        The trials, the best first: by the likelihood of the true classes at the trial's temperature, regions weighted
        by `class_weights`. If fewer than two classes count, one trial without figures.
    """
    # By likelihood, not accuracy: with few regions accuracy ties and jumps. What was tried: docs/decisions/0009-fit.md.
    unseen = {
        Part(name, strength): _logits_unseen(name, strength, embeddings, targets, images)
        for name in STRENGTHS
        if kind in (name, "auto")
        for strength in STRENGTHS[name]
    }
    counted = np.isfinite(next(iter(unseen.values()))[np.arange(len(targets)), targets])
    if len(np.unique(targets[counted])) < 2:  # With one class every name is right.
        return (Trial((Part(*UNTRIED[kind]),)),)
    trials = _ranked(_judge((part,), logits[counted], targets[counted]) for part, logits in unseen.items())
    if kind == "auto":
        best = [next(trial for trial in trials if trial.parts[0].kind == name) for name in STRENGTHS]
        together = sum(unseen[trial.parts[0]][counted] / (len(best) * trial.temperature) for trial in best)
        parts = (replace(trial.parts[0], share=1 / (len(best) * trial.temperature)) for trial in best)
        trials = _ranked([*trials, _judge(tuple(parts), together, targets[counted])])
    return trials


def out_of_sample_logits(
    trial: Trial,
    embeddings: Float[np.ndarray, "regions features"],
    targets: Int[np.ndarray, " regions"],
    images: Int[np.ndarray, " regions"],
) -> Float[np.ndarray, "regions classes"]:
    """Return the calibrated logits of every region by a head fitted to other images.

    Classes that other images lack are minus infinity; where none is left, all logits are 0.

    Args:
        trial: of `choose_head`.
        embeddings: see `choose_head`.
        targets: see `choose_head`.
        images: see `choose_head`.
    """
    with np.errstate(invalid="ignore"):
        logits = sum(
            part.share * _logits_unseen(part.kind, part.strength, embeddings, targets, images) for part in trial.parts
        )
    assert isinstance(logits, np.ndarray), "a trial has parts"
    logits[~np.isfinite(logits).any(axis=1)] = 0
    return logits / trial.temperature


def _ranked(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    def rank(trial: Trial) -> float:
        return -math.inf if trial.likelihood is None else trial.likelihood

    return tuple(sorted(trials, key=rank, reverse=True))


def _judge(parts: tuple[Part, ...], logits: np.ndarray, targets: np.ndarray) -> Trial:
    """Return a trial from its logits of regions that it was not fitted to."""
    weights = class_weights(targets)
    temperature = fit_temperature(logits, targets, weights, doubt=DOUBT)
    likelihood = float(np.average(log_likelihoods(logits / temperature, targets), weights=weights))
    predicted = logits.argmax(axis=1)
    return Trial(
        parts,
        temperature,
        micro=micro_accuracy(predicted, targets),
        macro=macro_accuracy(predicted, targets),
        likelihood=likelihood - DOUBT * math.log(temperature) ** 2 / len(targets),
        regions=len(targets),
        classes=len(np.unique(targets)),
    )


def class_weights(targets: Int[np.ndarray, " regions"], power: float = CLASS_POWER) -> Float[np.ndarray, " regions"]:
    """Return the weight of each region, 1 on average: a class of n regions has a total weight of n to a power.

    Args:
        targets: class index of each region.
        power: 0: all classes weigh the same; 1: all regions.

    >>> class_weights(np.array([0, 0, 0, 0, 1])).round(3).tolist()
    [0.833, 0.833, 0.833, 0.833, 1.667]
    """
    counts = np.bincount(targets)
    weights = counts[targets] ** (power - 1.0)
    return weights / weights.mean()


def _logits_unseen(
    kind: str, strength: float, embeddings: np.ndarray, targets: np.ndarray, images: np.ndarray
) -> np.ndarray:
    """Return logits of every region by a head fitted to other images; minus infinity for classes missing there."""
    from sklearn.model_selection import GroupKFold

    logits = np.full((len(targets), int(targets.max()) + 1), -np.inf)
    folds = min(FOLDS, len(np.unique(images)))
    if folds > 1:
        for learned, asked in GroupKFold(folds, shuffle=True, random_state=0).split(embeddings, groups=images):
            present, dense = np.unique(targets[learned], return_inverse=True)
            if len(present) > 1:
                head = fit_head(kind, strength, embeddings[learned], dense)
                logits[np.ix_(asked, present)] = head.logits(embeddings[asked])
    return logits
