import numpy as np
import pytest
from hypothesis import given

from maskwise import Mask
from maskwise.training.augment import (
    blank_pixels,
    jitter_colours,
    jitter_crop,
    jitter_flip,
    jitter_mask,
    widen_crop,
    window_batch,
    window_view,
)
from maskwise.training.settings import AugmentSettings, WindowSettings
from maskwise.views.view import ViewSettings
from random_masks import random_mask, seeds


def picture_of(mask):
    """An image that is its mask."""
    return np.repeat(mask.to_array()[..., None], 3, axis=2).astype(np.uint8) * 255


def assert_together(view, mask):
    pixels, coverage = view.render(picture_of(mask), mask)
    blank = Mask.from_box((0, 0, *mask.image_hw[::-1]), mask.image_hw)
    _, within = view.render(picture_of(mask), blank)
    inside = within == 255  # Elsewhere the padding's colour is mixed in.
    np.testing.assert_allclose(pixels[inside].astype(int), coverage[inside, None].repeat(3, 1), atol=1)


@given(seeds)
def test_mask_and_image_move_together_in_jittered_crops(seed):
    mask, rng = random_mask(seed)
    settings = AugmentSettings(flip=0.5, scale=(0.5, 2.0), shift=0.3)
    view = jitter_crop(ViewSettings(size=32).view(mask), settings, rng)
    assert_together(jitter_flip(view, settings, rng), mask)


@given(seeds)
def test_mask_and_image_move_together_in_widened_crops(seed):
    mask, rng = random_mask(seed)
    view = widen_crop(ViewSettings(size=32).view(mask), mask.image_hw, AugmentSettings(widen=3.0), rng)
    assert_together(view, mask)


@given(seeds)
def test_widened_crop_contains_the_crop_and_stays_in_the_image_if_it_fits(seed):
    mask, rng = random_mask(seed)
    settings = AugmentSettings(scale=(0.5, 1.5), shift=0.2, widen=4.0)
    crop = jitter_crop(ViewSettings(size=32, context=1.5).view(mask), settings, rng)
    view = widen_crop(crop, mask.image_hw, settings, rng)
    side, wide = (v.box_xyxy[2] - v.box_xyxy[0] for v in (crop, view))
    assert side <= wide <= max(4 * side, side)
    assert wide <= max(*mask.image_hw, side)
    for axis, limit in ((0, mask.image_hw[1]), (1, mask.image_hw[0])):
        start, end = view.box_xyxy[axis], view.box_xyxy[axis + 2]
        assert start <= crop.box_xyxy[axis]
        assert end >= crop.box_xyxy[axis + 2]
        if crop.box_xyxy[axis] >= 0 and crop.box_xyxy[axis + 2] <= limit and wide <= limit:
            assert start >= 0
            assert end <= limit


def test_widening_stays_between_its_bounds_and_places_the_crop_anywhere(rng):
    crop = ViewSettings(size=32, context=2.0).view(Mask.from_box((450, 450, 100, 100), (1000, 1000)))
    settings = AugmentSettings(widen=3.0)
    boxes = np.array([widen_crop(crop, (1000, 1000), settings, rng).box_xyxy for _ in range(500)])
    sides = boxes[:, 2] - boxes[:, 0]
    assert 200 <= sides.min() < 205
    assert 590 < sides.max() <= 600
    assert np.median(sides) == pytest.approx(200 * 3**0.5, rel=0.1)
    place = (400 - boxes[:, 0]) / np.maximum(sides - 200, 1)
    assert place.mean() == pytest.approx(0.5, abs=0.05)
    assert place.std() == pytest.approx(12**-0.5, abs=0.05)


@given(seeds)
def test_mask_and_image_move_together_in_windows(seed):
    mask, rng = random_mask(seed)
    size_hw = tuple(int(side) for side in rng.integers(10, 120, 2))
    view = jitter_flip(window_view(mask, size_hw, rng), AugmentSettings(), rng)
    assert_together(view, mask)


@given(seeds)
def test_window_contains_the_box_or_lies_inside_it_and_never_leaves_the_image(seed):
    mask, rng = random_mask(seed)
    size_hw = tuple(int(side) for side in rng.integers(10, 120, 2))
    x0, y0, x1, y1 = window_view(mask, size_hw, rng).box_xyxy
    x, y, w, h = mask.box_xywh
    height, width = mask.image_hw
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    for start, end, low, high in ((x0, x1, x, x + w), (y0, y1, y, y + h)):
        assert (start <= low and high <= end) or (low <= start and end <= high)


def test_window_takes_every_allowed_place(rng):
    mask = Mask.from_box((50, 0, 10, 10), (30, 100))
    starts = {window_view(mask, (20, 20), rng).box_xyxy[0] for _ in range(300)}
    assert starts == set(range(40, 51))


def test_window_enlarges_only_what_is_too_small(rng):
    mask = Mask.from_box((5, 5, 10, 10), (40, 60))
    kept, enlarged = window_view(mask, (30, 50), rng), window_view(mask, (80, 60), rng)
    assert kept.box_xyxy[2] - kept.box_xyxy[0] == 50
    assert enlarged.box_xyxy[3] - enlarged.box_xyxy[1] == 40
    assert enlarged.box_xyxy[2] - enlarged.box_xyxy[0] == 30


def test_batches_of_windows_stay_within_their_bounds(rng):
    settings = WindowSettings(enabled=True, min_side=20, max_side=60, max_pixels=9000)
    drawn = [window_batch(settings, 6, rng) for _ in range(500)]
    sides = np.array([size for size, _ in drawn])
    assert (sides.min(), sides.max()) == (20, 60)
    for (height, width), count in drawn:
        assert count == max(min(6, 9000 // (height * width)), 1)


def test_crops_are_scaled_and_moved_within_the_settings(rng):
    view = ViewSettings(size=32, context=2.0).view(Mask.from_box((450, 450, 100, 100), (1000, 1000)))
    still = AugmentSettings(scale=(1.0, 1.0), shift=0.0)
    assert jitter_crop(view, still, rng) == view
    settings = AugmentSettings(scale=(0.5, 2.0), shift=0.1)
    boxes = np.array([jitter_crop(view, settings, rng).box_xyxy for _ in range(400)])
    sides, centres = boxes[:, 2] - boxes[:, 0], (boxes[:, 0] + boxes[:, 2]) / 2
    assert (boxes[:, 3] - boxes[:, 1] == sides).all()
    assert 100 <= sides.min() < 110
    assert 360 < sides.max() <= 400
    assert np.median(sides) == pytest.approx(200, rel=0.1)
    assert np.abs(centres - 500).max() == pytest.approx(20, abs=1.5)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flips_have_the_probability_of_the_setting(rng, probability):
    view, settings = ViewSettings().view(Mask.from_box((0, 0, 5, 5), (9, 9))), AugmentSettings(flip=probability)
    assert np.mean([jitter_flip(view, settings, rng).flip for _ in range(1000)]) == pytest.approx(probability, abs=0.05)


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_mask_noise_has_the_probability_of_the_setting(rng, probability):
    mask, settings = random_mask(3)[0], AugmentSettings(mask_jitter=probability, mask_strength=0.5)
    assert np.mean([jitter_mask(mask, settings, rng) is not mask for _ in range(500)]) == pytest.approx(
        probability, abs=0.08
    )


def test_blank_pixels_are_one_colour_or_noise_often_black_or_white(rng):
    drawn = [blank_pixels((12, 9, 3), rng) for _ in range(300)]
    assert all(pixels.shape == (12, 9, 3) and pixels.dtype == np.uint8 for pixels in drawn)
    plain = [pixels for pixels in drawn if (pixels == pixels[0, 0]).all()]
    assert len(plain) / 300 == pytest.approx(0.5, abs=0.1)
    for value in (0, 255):
        assert np.mean([(pixels == value).all() for pixels in plain]) == pytest.approx(1 / 3, abs=0.12)
    rest = [pixels for pixels in plain if 0 < pixels.mean() < 255]
    assert len({tuple(pixels[0, 0]) for pixels in rest}) == len(rest)
    spreads = sorted(pixels.std() for pixels in drawn if (pixels != pixels[0, 0]).any())
    assert spreads[0] < 10 < 60 < spreads[-1]


def test_colours_stay_when_the_settings_are_zero(rng):
    pixels = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    plain = AugmentSettings(brightness=0.0, contrast=0.0, saturation=0.0)
    np.testing.assert_array_equal(jitter_colours(pixels, plain, rng), pixels)


@pytest.mark.parametrize("which", ["brightness", "contrast", "saturation"])
def test_every_setting_of_colours_reaches_the_pixels(rng, which):
    pixels = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    settings = AugmentSettings(**{"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, which: 0.5})
    changed = jitter_colours(pixels, settings, rng)
    assert changed.dtype == np.uint8
    assert (changed != pixels).any()


def test_brightness_is_a_factor_between_its_bounds(rng):
    grey = np.full((2, 2, 3), 100, np.uint8)
    settings = AugmentSettings(brightness=0.3, contrast=0.0, saturation=0.0)
    drawn = [int(jitter_colours(grey, settings, rng)[0, 0, 0]) for _ in range(300)]
    assert 69 <= min(drawn) < 75
    assert 125 < max(drawn) <= 130
