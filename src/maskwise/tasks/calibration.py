"""Calibrate probabilities: fit one temperature for all logits."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Real

TEMPERATURES = (0.05, 20.0)
"""Lowest and highest temperature that is tried."""


def log_likelihoods(
    logits: Float[np.ndarray, "regions classes"], targets: Int[np.ndarray, " regions"]
) -> Float[np.ndarray, " regions"]:
    """Return the logarithm of the probability of each region's true class.

    Args:
        logits: of every class; minus infinity for an impossible class.
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
    """Return the temperature that makes the targets most likely, 0.05 to 20; 1 if no region counts.

    Args:
        logits: of every class, for regions that the network was not trained on.
        targets: class index of each region's true name.
        weights: weight of each region, 0 or more.
        doubt: penalty for a temperature e times too high or too low, in regions. If a few regions are all named right,
            the most likely temperature is 0, and all probabilities would be 1.

    Source:
        C. Guo et al., On calibration of modern neural networks, arXiv:1706.04599.
    """
    from scipy.optimize import minimize_scalar

    if not weights.any():
        return 1.0
    logits = logits.astype(float)

    def loss(log_temperature: float) -> float:
        likelihood = float(np.average(log_likelihoods(logits / np.exp(log_temperature), targets), weights=weights))
        return doubt * log_temperature**2 / len(targets) - likelihood

    best = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))
