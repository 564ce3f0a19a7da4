"""Each metric: perfect, degenerate, and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskwise.tasks.metrics import (
    bootstrap_intervals,
    calibration_error,
    macro_accuracy,
    micro_accuracy,
    size_bins,
    top_k_accuracy,
    wilson_interval,
)

PREDICTED, TARGETS = np.array([0, 0, 2, 1, 3]), np.array([0, 0, 0, 0, 1])


def probabilities(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_accuracies_of_right_names_are_one_and_of_wrong_ones_zero():
    assert micro_accuracy(TARGETS, TARGETS) == macro_accuracy(TARGETS, TARGETS) == 1
    assert micro_accuracy(TARGETS + 1, TARGETS) == macro_accuracy(TARGETS + 1, TARGETS) == 0


def test_micro_counts_regions_and_macro_classes_that_are_present():
    assert micro_accuracy(PREDICTED, TARGETS) == pytest.approx(2 / 5)
    assert macro_accuracy(PREDICTED, TARGETS) == pytest.approx((2 / 4 + 0 / 1) / 2)


def test_top_k_finds_the_true_name_among_the_k_most_probable():
    rows = probabilities([0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2])
    targets = np.array([0, 1, 2])
    assert [top_k_accuracy(rows, targets, k) for k in (1, 2, 3, 5)] == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_equal_probabilities_do_not_all_count_as_best():
    assert top_k_accuracy(np.full((10, 10), 0.1, np.float32), np.arange(10)) == pytest.approx(0.5)


def test_calibration_error_by_hand():
    # Bin (0.4667, 0.5333]: 0.5 and 0.52, one of two right, off by 0.51 - 0.5. Bin (0.8667, 0.9333]: 0.9 and wrong.
    rows = probabilities([0.5, 0.3, 0.2], [0.2, 0.52, 0.28], [0.9, 0.1, 0.0])
    assert calibration_error(rows, np.array([0, 0, 1])) == pytest.approx((2 * 0.01 + 1 * 0.9) / 3, abs=1e-6)


def test_a_sure_model_that_is_right_is_calibrated_and_one_that_is_wrong_is_not():
    rows = probabilities([1, 0], [1, 0])
    assert calibration_error(rows, np.array([0, 0])) == 0
    assert calibration_error(rows, np.array([1, 1])) == 1


def test_wilson_interval_by_hand_and_at_its_ends():
    # Centre (0.3 + 0.038415) / 1.07683, half 1.96 x sqrt(0.21 / 50 + 3.8415 / 10000) / 1.07683.
    assert wilson_interval(15, 50) == pytest.approx((0.1910, 0.4375), abs=5e-5)
    assert wilson_interval(0, 0) == (0, 1)
    assert wilson_interval(0, 3)[0] == pytest.approx(0)
    assert wilson_interval(3, 3)[1] == pytest.approx(1)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_wilson_interval_holds_its_proportion_and_mirrors(total: int, share: float):
    right = round(share * total)
    low, high = wilson_interval(right, total)
    assert 0 <= low <= right / total + 1e-12
    assert right / total - 1e-12 <= high <= 1
    assert wilson_interval(total - right, total) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_bootstrap_agrees_with_theory_where_each_image_has_one_region(rng: np.random.Generator):
    targets = np.zeros(400, dtype=int)
    predicted = (rng.random(400) < 0.3).astype(int)
    micro, macro = bootstrap_intervals(predicted, targets, np.arange(400))
    assert micro == macro
    assert micro == pytest.approx(wilson_interval(int((predicted == 0).sum()), 400), abs=0.01)


def test_bootstrap_draws_images_not_regions(rng: np.random.Generator):
    right_images = rng.random(40) < 0.5
    images = np.repeat(np.arange(40), 25)
    predicted, targets = (~right_images).astype(int)[images], np.zeros(1000, dtype=int)
    low, high = bootstrap_intervals(predicted, targets, images)[0]
    assert high - low > 4 * np.subtract(*wilson_interval(500, 1000)[::-1])


def test_bootstrap_averages_only_classes_that_a_draw_has():
    # Two images, each with a class of its own, one right: a draw has macro 0, 1/2 or 1.
    micro, macro = bootstrap_intervals(np.array([0, 0]), np.array([0, 1]), np.array([5, 9]))
    assert micro == macro == (0, 1)


def test_bootstrap_is_the_same_every_time_and_whatever_images_are_called():
    first = bootstrap_intervals(PREDICTED, TARGETS, np.array([0, 0, 1, 2, 2]))
    assert first == bootstrap_intervals(PREDICTED, TARGETS, np.array([3, 3, 40, 500, 500]))
    assert first != bootstrap_intervals(PREDICTED, TARGETS, np.array([0, 0, 1, 2, 2]), draws=30, seed=1)


def test_bootstrap_of_one_image_has_no_width():
    assert bootstrap_intervals(PREDICTED, TARGETS, np.zeros(5, int)) == ((0.4, 0.4), (0.25, 0.25))


def test_a_size_bin_does_not_hold_its_bound():
    assert size_bins(np.array([0, 999, 1000, 1999, 2000]), (1000, 2000)).tolist() == [0, 0, 1, 1, 2]
