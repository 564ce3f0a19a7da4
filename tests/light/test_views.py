from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskwise import Mask
from maskwise.errors import SettingsError
from maskwise.views.integral_image import IntegralImage
from maskwise.views.view import PADDING_RGB, View, ViewSettings
from random_masks import random_mask, seeds


@st.composite
def places(draw):
    """A box and the size of its image. No `Mask`: what checks annotations uses chance, which strategies must not."""
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    w, h = draw(st.integers(1, width - x)), draw(st.integers(1, height - y))
    return (x, y, w, h), (height, width)


crops = st.fixed_dictionaries({"size": st.integers(1, 64), "context": st.floats(1, 8), "min_side": st.integers(1, 100)})


@given(places(), crops)
def test_crop_holds_the_region_and_is_square(place, crop):
    mask, settings = Mask.from_box(*place), ViewSettings(**crop)
    x0, y0, x1, y1 = settings.view(mask).box_xyxy
    x, y, w, h = mask.box_xywh
    assert x1 - x0 == y1 - y0
    assert x0 <= x
    assert y0 <= y
    assert x + w <= x1
    assert y + h <= y1


@given(places(), crops)
def test_crop_leaves_the_image_only_where_it_does_not_fit(place, crop):
    mask, settings = Mask.from_box(*place), ViewSettings(**crop)
    height, width = mask.image_hw
    x0, y0, x1, y1 = settings.view(mask).box_xyxy
    assert (x0 >= 0 and x1 <= width) or x1 - x0 > width
    assert (y0 >= 0 and y1 <= height) or y1 - y0 > height
    assert x1 - x0 <= max(height, width)


@given(places(), crops, st.booleans())
def test_mask_and_image_move_together(place, crop, flip):
    """An image that is white where its mask is set: what is rendered of both agrees, outside the image apart."""
    mask, settings = Mask.from_box(*place), ViewSettings(**crop)
    shape = settings.view(mask)
    view = View(shape.box_xyxy, shape.size_hw, flip)
    image = np.repeat(mask.to_array()[..., None], 3, axis=2).astype(np.uint8) * 255
    pixels, coverage = view.render(image, mask)
    assert pixels.shape == (*view.size_hw, 3)
    inside = View(view.box_xyxy, view.size_hw, flip).render(np.zeros_like(image), mask)[0].max(axis=2) == 0
    np.testing.assert_allclose(pixels[inside].astype(int), coverage[inside, None].repeat(3, 1), atol=1)


@given(places(), crops)
def test_flip_mirrors_what_is_rendered(place, crop):
    mask, settings = Mask.from_box(*place), ViewSettings(**crop)
    image = np.random.default_rng(0).integers(0, 256, (*mask.image_hw, 3), dtype=np.uint8)
    view = settings.view(mask)
    flipped = View(view.box_xyxy, view.size_hw, flip=True).render(image, mask)
    for mirrored, straight in zip(flipped, view.render(image, mask), strict=True):
        np.testing.assert_array_equal(mirrored[:, ::-1], straight)


@given(places(), crops.map(lambda crop: crop | {"size": 1 + crop["size"] // 8}), st.booleans())
def test_views_of_shared_sums_are_the_same_to_a_grey_level(place, crop, flip):
    mask, settings = Mask.from_box(*place), ViewSettings(**crop)
    image = np.random.default_rng(0).integers(0, 256, (*mask.image_hw, 3), dtype=np.uint8)
    view = replace(settings.view(mask), flip=flip)
    for shared, alone in zip(view.render(image, mask, IntegralImage(image)), view.render(image, mask), strict=True):
        np.testing.assert_allclose(shared.astype(int), alone, atol=1)


@given(seeds, st.integers(1, 9))
def test_coverage_is_the_share_of_each_pixel_at_every_scale(seed, scale):
    """Against means over whole blocks, below and above the scale from which sums are used."""
    mask, rng = random_mask(seed)
    size_hw = tuple(rng.integers(2, 8, 2).tolist())
    x0, y0 = rng.integers(-20, 50, 2).tolist()
    view = View((x0, y0, x0 + scale * size_hw[1], y0 + scale * size_hw[0]), size_hw)
    _, coverage = view.render(np.zeros((*mask.image_hw, 3), np.uint8), mask)
    blocks = mask.crop(*view.box_xyxy).reshape(size_hw[0], scale, size_hw[1], scale)
    np.testing.assert_allclose(coverage, 255 * blocks.mean(axis=(1, 3)), atol=0.51)


def test_a_view_is_made_of_sums_from_a_scale_on(monkeypatch, rng):
    """Below it a view is made as it always was; whoever gives no sums gets none of the image."""
    image, asked = rng.integers(0, 256, (90, 90, 3), dtype=np.uint8), []
    mask = Mask.from_box((0, 0, 90, 90), (90, 90))
    really = IntegralImage.over
    monkeypatch.setattr(IntegralImage, "over", lambda self, ys, xs: asked.append(self) or really(self, ys, xs))
    sums = IntegralImage(image)
    for size, given_sums, expected in ((22, sums, [sums]), (23, sums, []), (22, None, [])):
        asked.clear()
        View((0, 0, 90, 90), (size, size)).render(image, mask, given_sums)
        assert [one for one in asked if one is sums] == expected


def test_whole_image_is_not_touched(rng):
    image = rng.integers(0, 256, (31, 45, 3), dtype=np.uint8)
    mask = Mask.from_box((3, 4, 5, 6), (31, 45))
    pixels, coverage = ViewSettings(kind="whole").view(mask).render(image, mask)
    np.testing.assert_array_equal(pixels, image)
    np.testing.assert_array_equal(coverage, mask.to_array() * 255)


def test_outside_of_the_image_is_the_mean_colour():
    image, mask = np.zeros((10, 40, 3), np.uint8), Mask.from_box((0, 0, 40, 10), (10, 40))
    pixels, coverage = ViewSettings(size=40, context=1.0).view(mask).render(image, mask)
    assert (pixels[:15] == PADDING_RGB).all()
    assert (pixels[15:25] == 0).all()
    assert (pixels[25:] == PADDING_RGB).all()
    assert coverage[15:25].min() == 255
    assert coverage[:15].max() == coverage[25:].max() == 0


def test_coverage_of_a_shrunken_mask_is_its_share_of_each_pixel():
    mask = Mask.from_box((0, 0, 3, 1), (4, 4))
    _, coverage = View((0, 0, 4, 4), (2, 2)).render(np.zeros((4, 4, 3), np.uint8), mask)
    np.testing.assert_allclose(coverage, [[127.5, 63.75], [0, 0]], atol=1)


def test_context_and_least_side_reach_the_crop():
    mask = Mask.from_box((90, 95, 20, 10), (200, 200))
    for settings, side in ((ViewSettings(context=3.0), 60), (ViewSettings(context=1.0, min_side=50), 50)):
        x0, y0, x1, y1 = settings.view(mask).box_xyxy
        assert x1 - x0 == side
        assert (x0 + x1, y0 + y1) == (200, 200)
        assert settings.view(mask).size_hw == (224, 224)


def test_refuses_views_that_show_nothing():
    for odd in ({"size": 0}, {"min_side": 0}, {"context": 0.5}):
        with pytest.raises(SettingsError, match="each must be at least 1"):
            ViewSettings(**odd)
