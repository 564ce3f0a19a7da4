import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskwise import Mask
from maskwise.data.mask_noise import NOISE_KINDS, perturb_mask
from random_masks import random_mask, seeds


@given(seeds, st.sampled_from(NOISE_KINDS), st.floats(0, 1), st.floats(0, 7))
def test_sloppy_mask_is_never_empty_and_stays_in_its_image(seed, kind, strength, angle):
    mask, _ = random_mask(seed)
    sloppy = perturb_mask(mask, kind, strength, angle=angle)
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
    assert perturb_mask(mask, "dilate", strength).to_array()[bits].all()
    assert not perturb_mask(mask, "erode", strength).to_array()[~bits].any()


@given(seeds, st.floats(0, 0.5))
def test_stronger_means_further(seed, strength):
    mask, _ = random_mask(seed)
    assert perturb_mask(mask, "dilate", strength).area <= perturb_mask(mask, "dilate", 2 * strength).area
    eroded, more = perturb_mask(mask, "erode", strength), perturb_mask(mask, "erode", 2 * strength)
    assert more.area <= eroded.area or more is mask


@pytest.mark.parametrize("kind", ["dilate", "erode", "shift", "polygon"])
def test_no_strength_changes_nothing(kind):
    for seed in range(20):
        mask, _ = random_mask(seed)
        np.testing.assert_array_equal(perturb_mask(mask, kind, 0.0).to_array(), mask.to_array())


def test_dilation_reaches_as_far_as_strength_times_the_regions_size():
    mask = Mask.from_box((40, 40, 20, 20), (100, 100))
    assert perturb_mask(mask, "dilate", 0.25).box_xywh == (35, 35, 30, 30)
    assert perturb_mask(mask, "erode", 0.25).box_xywh == (45, 45, 10, 10)


def test_shift_is_two_thirds_of_strength():
    mask = Mask.from_box((40, 40, 30, 30), (100, 100))
    assert perturb_mask(mask, "shift", 0.5, angle=0.0).box_xywh == (50, 40, 30, 30)
    assert perturb_mask(mask, "shift", 0.5, angle=np.pi / 2).box_xywh == (40, 50, 30, 30)


def test_box_is_the_masks_box():
    for seed in range(20):
        mask, _ = random_mask(seed)
        sloppy = perturb_mask(mask, "box", 0.3)
        assert sloppy.box_xywh == mask.box_xywh
        assert sloppy.bits.all()


def test_polygon_of_a_disc_has_fewer_bends_and_about_its_place():
    rows, columns = np.mgrid[:100, :100]
    disc = Mask.from_array((rows - 50) ** 2 + (columns - 50) ** 2 < 900)
    coarse = perturb_mask(disc, "polygon", 0.3)
    both = (coarse.to_array() & disc.to_array()).sum()
    assert coarse.area != disc.area
    assert both / (coarse.area + disc.area - both) > 0.7


def test_nothing_left_leaves_the_mask_as_it_was():
    mask = Mask.from_box((3, 3, 1, 1), (9, 9))
    assert perturb_mask(mask, "erode", 1.0) is mask
