"""Calibrate probabilities: fit one temperature for all logits."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Real

TEMPERATURES = (0.05, 20.0)
"""Lowest and highest temperature that is looked at."""


def log_likelihoods(
    logits: Float[np.ndarray, "regions classes"], targets: Int[np.ndarray, " regions"]
) -> Float[np.ndarray, " regions"]:
    """Logarithm of the probability that the logits give to each region's class.

    Args:
        logits: of every class; minus infinity for a class that is out of the question.
        targets: class index of each region's true name.

    >>> log_likelihoods(np.zeros((1, 4)), np.array([2])).round(3).tolist()
    [-1.386]
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted[np.arange(len(targets)), targets] - np.log(np.exp(shifted).sum(axis=1))


def fit_temperature(
    logits: Float[np.ndarray, "regions classes"],
    targets: Int[np.ndarray, " regions"],
    weights: Real[np.ndarray, " regions"],
    *,
    doubt: float = 0.0,
) -> float:
    """The temperature under which targets are most likely, 0.05 to 20; 1 where no region counts.

    Args:
        logits: of every class, of regions that the network has not learned from.
        targets: class index of each region's true name.
        weights: what each region counts for, 0 or more.
        doubt: how many regions' worth of likelihood stand against a temperature that is e times too high or too low.
            Where few regions are all named right the likeliest temperature is 0, and probabilities would be 1.

    Source:
        C. Guo et al., On calibration of modern neural networks, arXiv:1706.04599.
    """
    from scipy.optimize import minimize_scalar

    if not weights.any():
        return 1.0
    logits = logits.astype(float)

    def loss(log_temperature: float) -> float:
        found = float(np.average(log_likelihoods(logits / np.exp(log_temperature), targets), weights=weights))
        return doubt * log_temperature**2 / len(targets) - found

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
