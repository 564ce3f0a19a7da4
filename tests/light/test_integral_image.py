import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskwise.views import integral_image
from maskwise.views.integral_image import IntegralImage
from random_masks import seeds


def spread(edges, length):
    """How much of each pixel lies in each cell: cells x pixels."""
    pixels = np.arange(length)
    low, high = np.maximum(edges[:-1, None], pixels), np.minimum(edges[1:, None], pixels + 1)
    return np.maximum(high - low, 0)


def random_grid(rng, length):
    return np.sort(rng.uniform(-5, length + 5, rng.integers(2, 9)))


@given(seeds, st.sampled_from([(), (3,)]))
def test_sums_are_those_of_pixels_and_parts_of_pixels(seed, channels):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2).tolist()
    array = rng.integers(0, 256, (height, width, *channels), dtype=np.uint8)
    ys, xs = random_grid(rng, height), random_grid(rng, width)
    expected = np.einsum("ih,hw...,jw->ij...", spread(ys, height), array.astype(float), spread(xs, width))
    np.testing.assert_allclose(IntegralImage(array).over(ys, xs), expected, atol=1e-6)


def test_sums_beyond_31_bits_do_not_wrap_around():
    array = np.full((3000, 4000), 255, dtype=np.uint8)
    got = IntegralImage(array).over(np.array([0.0, 3000.0]), np.array([0.0, 3999.5, 4000.0]))
    np.testing.assert_allclose(got, [[255 * 3000 * 3999.5, 255 * 1500]], rtol=1e-12)


@pytest.mark.parametrize(("most", "block"), [(1000, 2), (300, 4)])
def test_a_table_of_too_many_cells_is_of_blocks(monkeypatch, rng, most, block):
    """Whole blocks are right but for the rounding of their means, and nothing lies beyond the array's edge."""
    monkeypatch.setattr(integral_image, "MAX_CELLS", most)
    array = rng.integers(0, 256, (63, 50), dtype=np.uint8)
    coarse = IntegralImage(array)
    assert coarse.block == block
    ys, xs = np.array([0.0, 16, 40]), np.array([8.0, 12, 48])
    expected = spread(ys, 63) @ array @ spread(xs, 50).T
    pixels = np.diff(ys)[:, None] * np.diff(xs)
    assert (np.abs(coarse.over(ys, xs) - expected) <= 0.5 * block / 2 * pixels).all()
    even = IntegralImage(np.full((63, 50), 200, np.uint8))
    sums = even.over(np.array([-9.0, 61.5, 63, 99]), np.array([-9.0, 50, 99]))
    np.testing.assert_allclose(sums, [[200 * 61.5 * 50, 0], [200 * 1.5 * 50, 0], [0, 0]], atol=1e-6)


def test_nothing_is_computed_before_it_is_asked_for(rng):
    lazy = IntegralImage(rng.integers(0, 256, (8, 8), dtype=np.uint8))
    assert "_table" not in vars(lazy)
    lazy.over(np.array([0.0, 8.0]), np.array([0.0, 8.0]))
    assert "_table" in vars(lazy)
