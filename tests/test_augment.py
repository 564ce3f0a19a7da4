import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskwise import Mask
from maskwise.training.augment import (
    SLOPPY_KINDS,
    jitter_colours,
    jitter_crop,
    jitter_flip,
    make_sloppy,
    sloppy_mask,
    window_batch,
    window_view,
)
from maskwise.training.settings import AugmentSettings, WindowSettings
from maskwise.views import ViewSettings

seeds = st.integers(0, 2**32 - 1)


def random_mask(seed):
    """A few blots at a random place of a small image."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 70, 2)
    bits = np.zeros((height, width), bool)
    for _ in range(rng.integers(1, 4)):
        y, x = rng.integers(0, height - 1), rng.integers(0, width - 1)
        bits[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = True
    return Mask.from_array(bits), rng


def picture_of(mask):
    """An image that is its mask."""
    return np.repeat(mask.to_array()[..., None], 3, axis=2).astype(np.uint8) * 255


def assert_together(view, mask):
    pixels, coverage = view.render(picture_of(mask), mask)
    blank = Mask.from_box((0, 0, *mask.image_hw[::-1]), mask.image_hw)
    _, within = view.render(picture_of(mask), blank)
    inside = within == 255  # Elsewhere the mean colour of the padding is mixed in.
    np.testing.assert_allclose(pixels[inside].astype(int), coverage[inside, None].repeat(3, 1), atol=1)


@given(seeds)
def test_mask_and_image_move_together_in_jittered_crops(seed):
    mask, rng = random_mask(seed)
    settings = AugmentSettings(flip=0.5, scale=(0.5, 2.0), shift=0.3)
    view = jitter_crop(ViewSettings(size=32).view(mask), settings, rng)
    assert_together(jitter_flip(view, settings, rng), mask)


@given(seeds)
def test_mask_and_image_move_together_in_windows(seed):
    mask, rng = random_mask(seed)
    size_hw = tuple(int(side) for side in rng.integers(10, 120, 2))
    view = jitter_flip(window_view(mask, size_hw, rng), AugmentSettings(), rng)
    assert_together(view, mask)


@given(seeds)
def test_window_holds_the_box_or_lies_inside_it_and_never_leaves_the_image(seed):
    mask, rng = random_mask(seed)
    size_hw = tuple(int(side) for side in rng.integers(10, 120, 2))
    x0, y0, x1, y1 = window_view(mask, size_hw, rng).box_xyxy
    x, y, w, h = mask.box_xywh
    height, width = mask.image_hw
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    for start, end, low, high in ((x0, x1, x, x + w), (y0, y1, y, y + h)):
        assert (start <= low and high <= end) or (low <= start and end <= high)


def test_window_lies_anywhere_it_may(rng):
    mask = Mask.from_box((50, 0, 10, 10), (30, 100))
    starts = {window_view(mask, (20, 20), rng).box_xyxy[0] for _ in range(300)}
    assert starts == set(range(40, 51))


def test_window_enlarges_only_what_is_too_small(rng):
    mask = Mask.from_box((5, 5, 10, 10), (40, 60))
    kept, enlarged = window_view(mask, (30, 50), rng), window_view(mask, (80, 60), rng)
    assert kept.box_xyxy[2] - kept.box_xyxy[0] == 50
    assert enlarged.box_xyxy[3] - enlarged.box_xyxy[1] == 40
    assert enlarged.box_xyxy[2] - enlarged.box_xyxy[0] == 30


def test_batches_of_windows_keep_to_their_bounds(rng):
    settings = WindowSettings(enabled=True, min_side=20, max_side=60, max_pixels=9000)
    drawn = [window_batch(settings, 6, rng) for _ in range(500)]
    sides = np.array([size for size, _ in drawn])
    assert (sides.min(), sides.max()) == (20, 60)
    for (height, width), count in drawn:
        assert count == max(min(6, 9000 // (height * width)), 1)


def test_crops_are_scaled_and_moved_as_told(rng):
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
def test_flips_come_as_often_as_told(rng, probability):
    view, settings = ViewSettings().view(Mask.from_box((0, 0, 5, 5), (9, 9))), AugmentSettings(flip=probability)
    assert np.mean([jitter_flip(view, settings, rng).flip for _ in range(1000)]) == pytest.approx(probability, abs=0.05)


@given(seeds, st.sampled_from(SLOPPY_KINDS), st.floats(0, 1), st.floats(0, 7))
def test_sloppy_mask_is_never_empty_and_stays_in_its_image(seed, kind, strength, angle):
    mask, _ = random_mask(seed)
    sloppy = make_sloppy(mask, kind, strength, angle=angle)
    x, y, w, h = sloppy.box_xywh
    assert sloppy.area > 0
    assert sloppy.image_hw == mask.image_hw
    assert min(x, y) >= 0
    assert x + w <= mask.image_hw[1]
    assert y + h <= mask.image_hw[0]


@given(seeds, st.floats(0, 1))
def test_dilated_mask_contains_and_eroded_mask_is_contained(seed, strength):
    mask, _ = random_mask(seed)
    bits = mask.to_array()
    assert make_sloppy(mask, "dilate", strength).to_array()[bits].all()
    assert not make_sloppy(mask, "erode", strength).to_array()[~bits].any()


@given(seeds, st.floats(0, 0.5))
def test_stronger_means_further(seed, strength):
    mask, _ = random_mask(seed)
    assert make_sloppy(mask, "dilate", strength).area <= make_sloppy(mask, "dilate", 2 * strength).area
    eroded, more = make_sloppy(mask, "erode", strength), make_sloppy(mask, "erode", 2 * strength)
    assert more.area <= eroded.area or more is mask


@pytest.mark.parametrize("kind", ["dilate", "erode", "shift", "polygon"])
def test_no_strength_changes_nothing(kind):
    for seed in range(20):
        mask, _ = random_mask(seed)
        np.testing.assert_array_equal(make_sloppy(mask, kind, 0.0).to_array(), mask.to_array())


def test_dilation_reaches_as_far_as_strength_times_the_regions_size():
    mask = Mask.from_box((40, 40, 20, 20), (100, 100))
    assert make_sloppy(mask, "dilate", 0.25).box_xywh == (35, 35, 30, 30)
    assert make_sloppy(mask, "erode", 0.25).box_xywh == (45, 45, 10, 10)


def test_shift_is_two_thirds_of_strength():
    mask = Mask.from_box((40, 40, 30, 30), (100, 100))
    assert make_sloppy(mask, "shift", 0.5, angle=0.0).box_xywh == (50, 40, 30, 30)
    assert make_sloppy(mask, "shift", 0.5, angle=np.pi / 2).box_xywh == (40, 50, 30, 30)


def test_box_is_the_masks_box():
    for seed in range(20):
        mask, _ = random_mask(seed)
        sloppy = make_sloppy(mask, "box", 0.3)
        assert sloppy.box_xywh == mask.box_xywh
        assert sloppy.bits.all()


def test_polygon_of_a_disc_has_fewer_bends_and_about_its_place():
    rows, columns = np.mgrid[:100, :100]
    disc = Mask.from_array((rows - 50) ** 2 + (columns - 50) ** 2 < 900)
    coarse = make_sloppy(disc, "polygon", 0.3)
    both = (coarse.to_array() & disc.to_array()).sum()
    assert coarse.area != disc.area
    assert both / (coarse.area + disc.area - both) > 0.7


def test_nothing_left_leaves_the_mask_as_it_was():
    mask = Mask.from_box((3, 3, 1, 1), (9, 9))
    assert make_sloppy(mask, "erode", 1.0) is mask


def test_refuses_another_kind_of_sloppiness():
    with pytest.raises(ValueError, match="kind 'melt'; accepted are dilate, erode"):
        make_sloppy(Mask.from_box((3, 3, 1, 1), (9, 9)), "melt", 1.0)


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_masks_are_sloppy_as_often_as_told(rng, probability):
    mask, settings = random_mask(3)[0], AugmentSettings(mask_jitter=probability, mask_strength=0.5)
    assert np.mean([sloppy_mask(mask, settings, rng) is not mask for _ in range(500)]) == pytest.approx(
        probability, abs=0.08
    )


def test_colours_stay_where_nothing_is_to_vary(rng):
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
