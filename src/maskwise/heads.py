"""Last layers fitted to embeddings: which kind, how strongly regularised, and how sure of itself. Arrays alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from maskwise.calibration import fit_temperature, log_likelihoods
from maskwise.metrics import macro_accuracy, micro_accuracy

Kind = Literal["linear", "mean", "auto"]
STRENGTHS = {"linear": (10.0, 1.0, 0.1), "mean": (1.0, 0.5, 0.2, 0.05)}
"""What is tried. Linear: C, the inverse of the penalty. Mean: the share of the covariance that is taken as round."""
UNTRIED = ("linear", 1.0)
"""The head where too few regions were given to try any: the best with one and two regions a class, and its
probabilities are nearly calibrated without a temperature (camvid/train and clothing/train, benchmarks/fit.py)."""
FOLDS = 5
CLASS_POWER = 0.5
"""A class of n regions counts as n to this power, as in training: rare classes matter, but not as much as frequent
ones."""


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
        """Logits of every class."""
        return embeddings @ self.weight.T + self.bias


@dataclass(frozen=True)
class Trial:
    """A kind of head, and how well it did on regions of images that it had not seen.

    Attributes:
        kind: linear or mean.
        strength: see `STRENGTHS`.
        micro: accuracy over regions, 0 to 1; None where nothing could be tried.
        macro: the mean over classes.
        likelihood: mean logarithm of the probability of the right class.
        temperature: under which its probabilities are calibrated.
    """

    kind: str
    strength: float
    micro: float | None = None
    macro: float | None = None
    likelihood: float | None = None
    temperature: float = 1.0


def fit_head(
    kind: str, strength: float, embeddings: Float[np.ndarray, "regions features"], targets: Int[np.ndarray, " regions"]
) -> Head:
    """Fit a last layer.

    `linear` is multinomial logistic regression with a quadratic penalty. `mean` names a region after the class whose
    mean is nearest: by plain distance at strength 1, and below it by a distance that counts less the directions in
    which regions of one class differ (linear discriminant analysis with a shrunk covariance).

    Args:
        kind: linear or mean.
        strength: see `STRENGTHS`.
        embeddings: of the regions.
        targets: class index of each, every one from 0 up present, at least two.

    Source:
        J. H. Friedman, Regularized discriminant analysis, JASA 84 (1989).
    """
    # One scale for all features: with a handful of regions each feature's own spread is mostly chance.
    centre, scale = embeddings.mean(axis=0, dtype=float), float(embeddings.std(dtype=float)) or 1.0
    scaled = (embeddings - centre) / scale
    weight, bias = (_linear if kind == "linear" else _nearest_mean)(strength, scaled, targets)
    return Head(weight / scale, bias - weight @ centre / scale)


def _linear(strength: float, embeddings: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # A head that is nearly there is judged like any other.
        warnings.filterwarnings("ignore", "The number of unique classes is greater")  # A region or two a class.
        model.fit(embeddings, targets, sample_weight=class_weights(targets))
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # Of two classes scikit-learn gives one row, the second against the first.
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return weight, bias


def _nearest_mean(strength: float, embeddings: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    classes = int(targets.max()) + 1
    means = np.stack([embeddings[targets == index].mean(axis=0) for index in range(classes)])
    inside = embeddings - means[targets]
    covariance = inside.T @ inside / max(len(targets) - classes, 1)
    features = len(covariance)
    spread = np.trace(covariance) / features or 1.0  # One region a class says nothing of spread.
    covariance = (1 - strength) * covariance + strength * spread * np.eye(features)
    # Divided, so that probabilities are calibrated at temperatures near 1: distances add up over features.
    weight = np.linalg.solve(covariance, means.T).T / np.sqrt(features)
    return weight, -(weight * means).sum(axis=1) / 2


def choose_head(
    kind: Kind,
    embeddings: Float[np.ndarray, "regions features"],
    targets: Int[np.ndarray, " regions"],
    images: Int[np.ndarray, " regions"],
) -> tuple[Trial, ...]:
    """Try heads by cross-validation: each names the regions of images that it was not fitted to.

    A region counts where its class has regions in other images.

    Args:
        kind: what to try; auto: both.
        embeddings: of the regions.
        targets: class index of each, every one from 0 up present, at least two.
        images: number of its image; any numbers that tell images apart.

    Returns:
        The trials, the best first: by the likelihood of the right classes at the trial's temperature, regions
        weighted by `class_weights`. Where no region could be counted, one trial without figures.
    """
    tried = [(name, strength) for name in STRENGTHS if kind in (name, "auto") for strength in STRENGTHS[name]]
    scored = [_try(name, strength, embeddings, targets, images) for name, strength in tried]
    # By likelihood, not accuracy: with few regions accuracy ties and jumps, and the head chosen by it was worse at
    # every number of examples (camvid/train, 2 to 50 a class, by up to 0.7 points).
    trials = sorted(filter(None, scored), key=lambda trial: trial.likelihood, reverse=True)
    return tuple(trials) or (Trial(*(UNTRIED if UNTRIED in tried else tried[0])),)


def class_weights(targets: Int[np.ndarray, " regions"]) -> Float[np.ndarray, " regions"]:
    """What each region counts for, 1 on average: together a class of n regions counts as n to the power of 0.5.

    Args:
        targets: class index of each region.

    >>> class_weights(np.array([0, 0, 0, 0, 1])).round(3).tolist()
    [0.833, 0.833, 0.833, 0.833, 1.667]
    """
    counts = np.bincount(targets)
    weights = counts[targets] ** (CLASS_POWER - 1.0)
    return weights / weights.mean()


def _try(kind: str, strength: float, embeddings: np.ndarray, targets: np.ndarray, images: np.ndarray) -> Trial | None:
    """What a head makes of regions of images that it was not fitted to; None where none could be counted."""
    logits = _logits_unseen(kind, strength, embeddings, targets, images)
    counted = np.isfinite(logits[np.arange(len(targets)), targets])
    if not counted.any():
        return None
    logits, targets = logits[counted], targets[counted]
    weights = class_weights(targets)
    temperature = fit_temperature(logits, targets, weights)
    predicted = logits.argmax(axis=1)
    return Trial(
        kind,
        strength,
        micro=round(micro_accuracy(predicted, targets), 4),
        macro=round(macro_accuracy(predicted, targets), 4),
        likelihood=round(float(np.average(log_likelihoods(logits / temperature, targets), weights=weights)), 4),
        temperature=round(temperature, 4),
    )


def _logits_unseen(
    kind: str, strength: float, embeddings: np.ndarray, targets: np.ndarray, images: np.ndarray
) -> np.ndarray:
    """Logits of every region under a head fitted to other images; minus infinity for classes that are not in those."""
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
