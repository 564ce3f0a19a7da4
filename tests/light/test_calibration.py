import numpy as np
import pytest

from maskwise.tasks.calibration import fit_temperature, log_likelihoods


def drawn(logits, rng):
    """A class index per row, drawn by the logits' probabilities: the greatest under Gumbel noise."""
    return (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def test_log_likelihood_is_that_of_the_softmax(rng):
    logits, targets = rng.normal(size=(5, 3)), np.array([0, 1, 2, 0, 1])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(log_likelihoods(logits, targets), np.log(probabilities[np.arange(5), targets]))


def test_class_out_of_the_question_takes_no_probability():
    np.testing.assert_allclose(log_likelihoods(np.array([[0.0, -np.inf, 0.0]]), np.array([2])), np.log(0.5))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_known_temperature_is_found(temperature, rng):
    logits = 2 * rng.normal(size=(20_000, 4))
    targets = drawn(logits, rng)
    assert fit_temperature(logits * temperature, targets, np.ones(len(targets))) == pytest.approx(temperature, rel=0.05)


def test_temperature_is_bounded():
    sure = np.eye(3) * 5
    assert 0.05 <= fit_temperature(sure, np.arange(3), np.ones(3)) < 1
    assert fit_temperature(sure, np.array([1, 2, 0]), np.ones(3)) == pytest.approx(20, rel=1e-3)


def test_temperature_heeds_the_regions_that_count():
    sure, targets = 10 * np.tile(np.eye(4), (8, 1)), np.tile(np.arange(4), 8)
    targets[:4] = [1, 2, 3, 0]  # Four of 32 are wrong, and surely so.
    right = np.ones(32)
    right[:4] = 0
    assert fit_temperature(sure, targets, right) < 1 < fit_temperature(sure, targets, np.ones(32))
    assert fit_temperature(sure, targets, np.zeros(32)) == 1


def test_doubt_weighs_on_few_regions_and_not_on_many():
    right, few, many = np.eye(4) * 3, np.arange(4), np.tile(np.arange(4), 500)
    assert fit_temperature(right, few, np.ones(4)) < 0.1
    assert fit_temperature(right, few, np.ones(4), doubt=1.0) > 0.4
    assert fit_temperature(np.tile(right, (500, 1)), many, np.ones(2000), doubt=1.0) < 0.4
