"""What a mask is: each row of the table in docs/guides/masks.md, with hand-made pixels."""

import cv2
import numpy as np
import pytest
from PIL import Image

from maskwise import Mask
from maskwise.data.mask_pixels import region_pixels
from maskwise.data.masks import read_mask_file
from maskwise.errors import MaskError

DISC = np.hypot(*np.mgrid[-30:30, -45:45]) < 20


def soft(sigma=1.5, low=0, high=255):
    """A disc with a soft edge between two values."""
    blurred = cv2.GaussianBlur(DISC.astype(np.float32), (0, 0), sigma)
    return np.round(low + blurred * (high - low)).astype(np.uint8)


def area_close(bits):
    return abs(int(bits.sum()) - int(DISC.sum())) < 0.05 * DISC.sum() and (bits & DISC).sum() > 0.95 * DISC.sum()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (1, 255), (1, 2), (0, 7)])
def test_of_two_whole_numbers_the_larger_is_the_region(low, high):
    np.testing.assert_array_equal(region_pixels(np.where(DISC, high, low)), DISC)


def test_a_bool_array_may_hold_any_byte():
    bits = np.where(DISC, 255, 0).astype(np.uint8).view(bool)
    got = region_pixels(bits)
    np.testing.assert_array_equal(got.view(np.uint8), DISC.view(np.uint8))


def test_soft_masks_are_cut_at_half():
    assert area_close(region_pixels(soft()))
    assert area_close(region_pixels(soft().astype(np.uint16) * 257))
    noisy = np.clip(soft().astype(int) + np.random.default_rng(0).integers(1, 3, DISC.shape), 0, 255)
    assert area_close(region_pixels(noisy.astype(np.uint8)))


def test_a_mask_saved_as_jpeg_is_cut_at_half(tmp_path):
    Image.fromarray(np.where(DISC, 255, 0).astype(np.uint8)).save(tmp_path / "m.jpg", quality=60)
    assert area_close(Mask.from_file(tmp_path / "m.jpg").to_array())


@pytest.mark.parametrize("ids", [(1, 2, 3), (0, 127, 254), (24_001, 24_002, 24_003), (50, 150, 250), (1, 15, 255)])
def test_id_maps_are_refused_with_the_remedy(ids):
    array = np.zeros((60, 90), dtype=np.uint16)
    for place, value in enumerate(ids):
        array[10:50, 5 + 28 * place : 25 + 28 * place] = value
    with pytest.raises(MaskError, match=r"like an id map; give it with --instances"):
        region_pixels(array if max(ids) > 255 else array.astype(np.uint8))


def test_an_id_map_of_two_hundred_objects_is_refused():
    tiles = np.arange(200).reshape(10, 20).repeat(6, 0).repeat(6, 1).astype(np.uint8)
    with pytest.raises(MaskError, match="200 values"):
        region_pixels(tiles)


def test_floats_from_0_to_1_are_cut_at_half_and_others_refused():
    np.testing.assert_array_equal(region_pixels(np.array([[0.0, 0.5, 0.51, 1.0]])), [[False, False, True, True]])
    with pytest.raises(MaskError, match=r"floats from -3 to 5; .*for logits give `logits > 0`"):
        region_pixels(np.array([[-3.0, 5.0]]))
    with pytest.raises(MaskError, match="NaN"):
        region_pixels(np.array([[0.0, np.nan]]))
    with pytest.raises(MaskError, match="type object"):
        region_pixels(np.array([[None, 1]]))


PICTURES = {
    "1": Image.fromarray(DISC),
    "L": Image.fromarray(np.where(DISC, 255, 0).astype(np.uint8)),
    "L of 1": Image.fromarray(DISC.astype(np.uint8)),
    "16 bits": Image.fromarray(np.where(DISC, 65535, 0).astype(np.uint16)),
    "32 bits": Image.fromarray(DISC.astype(np.int32)),
    "floats": Image.fromarray(DISC.astype(np.float32)),
    "RGB white": Image.fromarray(np.where(DISC[..., None], 255, 0).repeat(3, 2).astype(np.uint8)),
    "RGB 255 on 1": Image.fromarray(np.where(DISC[..., None], 255, 1).repeat(3, 2).astype(np.uint8)),
    "RGB red": Image.fromarray(np.where(DISC[..., None], (220, 20, 60), 0).astype(np.uint8)),
    "RGB soft red": Image.fromarray((soft()[..., None] / 255 * (220, 20, 60)).round().astype(np.uint8)),
}


WRITABLE = [(kind, suffix) for kind in PICTURES for suffix in ("png", "tif")]
WRITABLE = [pair for pair in WRITABLE if pair not in (("floats", "png"), ("32 bits", "png"))]  # PNG has neither.


@pytest.mark.parametrize(("kind", "suffix"), WRITABLE)
def test_pictures_of_every_kind_show_the_same_region(tmp_path, kind, suffix):
    PICTURES[kind].save(tmp_path / f"m.{suffix}")
    assert area_close(Mask.from_file(tmp_path / f"m.{suffix}").to_array())


def test_transparency_is_the_mask_of_a_photograph_that_is_cut_out(tmp_path, rng):
    photo = rng.integers(0, 256, (*DISC.shape, 3), dtype=np.uint8)
    Image.fromarray(np.dstack([photo, soft()])).save(tmp_path / "m.png")
    assert area_close(Mask.from_file(tmp_path / "m.png").to_array())


def test_a_photograph_and_a_picture_of_several_colours_are_refused(tmp_path, rng):
    colours = np.zeros((60, 90, 3), dtype=np.uint8)
    colours[10:50, 5:25], colours[10:50, 35:55] = (220, 20, 60), (0, 128, 0)
    for array in (colours, rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)):
        Image.fromarray(array).save(tmp_path / "m.png")
        with pytest.raises(MaskError, match=r"m\.png: the mask has \d+ colours; accepted are black and one other"):
            Mask.from_file(tmp_path / "m.png")


def test_of_a_palette_of_two_colours_the_brighter_is_the_region(tmp_path):
    picture = Image.fromarray(np.where(DISC, 0, 1).astype(np.uint8)).convert("P")
    picture.putpalette([255, 255, 255, 0, 0, 0])  # Index 0 is white.
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(Mask.from_file(tmp_path / "m.png").to_array(), DISC)


def test_every_page_is_a_mask_and_one_mask_alone_has_one_page(tmp_path):
    first, second = Image.fromarray(DISC), Image.fromarray(~DISC)
    first.save(tmp_path / "m.tif", save_all=True, append_images=[second])
    masks = read_mask_file(tmp_path / "m.tif")
    assert [mask.area for mask in masks] == [DISC.sum(), (~DISC).sum()]
    with pytest.raises(MaskError, match=r"m\.tif: has 2 pages"):
        Mask.from_file(tmp_path / "m.tif")


def test_polygons_far_outside_are_cut_before_they_are_drawn():
    mask = Mask.from_polygons([[5, 5, 1e9, 5, 1e9, 1e9]], (48, 64))
    expected = Mask.from_polygons([[5, 5, 300, 5, 300, 300]], (48, 64))
    np.testing.assert_allclose(mask.area, expected.area, rtol=0.05)
    assert mask.to_array()[6, 60]
    assert not mask.to_array()[40, 10]


def test_points_may_be_pairs_and_stray_parts_are_ignored():
    square = [1, 1, 5, 1, 5, 5, 1, 5]
    flat = Mask.from_polygons([square], (8, 8))
    pairs = Mask.from_polygons([np.float32(square).reshape(-1, 2)], (8, 8))
    np.testing.assert_array_equal(pairs.to_array(), flat.to_array())
    stray = Mask.from_polygons([square, [2.5, 3.0, 4.0, 3.0], [7.0, 7.0]], (8, 8))
    np.testing.assert_array_equal(stray.to_array(), flat.to_array())


def test_a_thin_polygon_becomes_its_outline_and_not_its_box():
    diagonal = Mask.from_polygons([[1.1, 1.1, 8.2, 8.2, 1.15, 1.15]], (10, 10))
    np.testing.assert_array_equal(np.argwhere(diagonal.to_array()), [[i, i] for i in range(1, 9)])
