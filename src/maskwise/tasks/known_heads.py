"""The head that says whether a region is one of the classes at all: fitted, and judged by cross-validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from maskwise.errors import AnnotationError
from maskwise.tasks.linear_heads import FOLDS, logistic_regression
from maskwise.tasks.metrics import auroc, named_share

KEPT = 0.97
"""Share of true objects that the default `min_known` keeps."""
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Strengths to try: C, the inverse of the penalty."""


@dataclass(frozen=True)
class KnownHead:
    """A linear layer whose logit says whether a region is one of the classes, and how good it is on unseen images.

    Attributes:
        weight: logit = embedding @ weight + bias.
        bias: see weight.
        strength: C, the inverse of the penalty.
        min_known: the probability that `KEPT` of the objects reach, 0 to 1.
        auroc: area under the ROC curve, objects against segments of nothing, 0.5 to 1.
        named_at_95: share of segments of nothing that pass where 95 % of the objects pass.
        objects: number of objects it was judged on.
        nothing: number of segments of nothing.
    """

    weight: Float[np.ndarray, " features"]
    bias: float
    strength: float
    min_known: float
    auroc: float
    named_at_95: float
    objects: int
    nothing: int


def fit_known(
    objects: Float[np.ndarray, "n features"], nothing: Float[np.ndarray, "m features"], strength: float
) -> tuple[Float[np.ndarray, " features"], float]:
    """Fit the logit that a region is one of the classes at all: logistic regression, both sides of equal total weight.

    Args:
        objects: embeddings of regions of the classes, scaled.
        nothing: embeddings of regions of no class.
        strength: C, the inverse of the penalty.

    Returns:
        Weight and bias: logit = embedding @ weight + bias.
    """
    embeddings, sides = np.concatenate([nothing, objects]), np.repeat([0, 1], [len(nothing), len(objects)])
    weight, bias = logistic_regression(strength, embeddings, sides, power=0.0)
    return weight[1] - weight[0], float(bias[1] - bias[0])


def choose_known(
    objects: Float[np.ndarray, "n features"],
    object_images: Int[np.ndarray, " n"],
    nothing: Float[np.ndarray, "m features"],
    nothing_images: Int[np.ndarray, " m"],
) -> KnownHead:
    """Fit the head; choose its strength and its limit by cross-validation over images.

    Args:
        objects: embeddings of regions of the classes.
        object_images: number of the image of each.
        nothing: embeddings of regions of no class.
        nothing_images: number of the image of each, in the same numbering.

    Raises:
        AnnotationError: objects or segments of nothing are in one image only.
    """
    for what, images in (("objects", object_images), ("segments of nothing", nothing_images)):
        if len(np.unique(images)) < 2:
            raise AnnotationError(f'"none of these" cannot be learned: the {what} are in fewer than two images')
    centre = objects.mean(axis=0, dtype=float)
    scale = float(np.std(objects, dtype=float)) or 1.0
    scaled_objects, scaled_nothing = (objects - centre) / scale, (nothing - centre) / scale
    best: tuple[float, float, np.ndarray, np.ndarray] | None = None
    for strength in STRENGTHS:
        known = _known_unseen(scaled_objects, object_images, scaled_nothing, nothing_images, strength)
        score = auroc(*known)
        if best is None or score > best[0]:
            best = (score, strength, *known)
    assert best is not None
    score, strength, of_objects, of_nothing = best
    weight, bias = fit_known(scaled_objects, scaled_nothing, strength)
    limit = float(np.quantile(1 / (1 + np.exp(-of_objects)), 1 - KEPT))
    return KnownHead(
        weight / scale,
        float(bias - weight @ centre / scale),
        strength,
        round(limit, 4),
        score,
        named_share(of_objects, of_nothing, kept=0.95),
        len(of_objects),
        len(of_nothing),
    )


def _known_unseen(
    objects: np.ndarray, object_images: np.ndarray, nothing: np.ndarray, nothing_images: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of objects and of segments of nothing, each by a head fitted to other images."""
    from sklearn.model_selection import GroupKFold

    logits = np.full(len(objects) + len(nothing), np.nan)
    is_object = np.arange(len(logits)) < len(objects)
    embeddings, images = np.concatenate([objects, nothing]), np.concatenate([object_images, nothing_images])
    folds = min(FOLDS, len(np.unique(images)))
    for learned, asked in GroupKFold(folds, shuffle=True, random_state=0).split(embeddings, groups=images):
        own = is_object[learned]
        if own.any() and not own.all():
            weight, bias = fit_known(embeddings[learned[own]], embeddings[learned[~own]], strength)
            logits[asked] = embeddings[asked] @ weight + bias
    judged = np.isfinite(logits)
    return logits[is_object & judged], logits[~is_object & judged]
