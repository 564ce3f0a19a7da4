import cv2
import numpy as np
import pytest
from hypothesis import given, settings

from maskwise.reports.contact_sheet import (
    GAP,
    LINE,
    LONGEST,
    NARROWEST,
    YELLOW_RGB,
    Tile,
    make_contact_sheet,
    outlined,
    shortened,
)
from maskwise.reports.drawing import write_picture
from random_masks import random_mask, seeds

GREY = 128


def grey(height, width):
    return np.full((height, width, 3), GREY, np.uint8)


def covered(inside):
    return inside.astype(np.uint8) * 255


def yellow(scene):
    return (scene == YELLOW_RGB).all(axis=2)


def edge(inside):
    """The pixels of a region that have one that is not beside them; what lies outside the image is not."""
    padded = np.pad(inside, 1)
    kept = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~kept


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_outline_is_the_edge_of_the_region_and_nothing_else_is_drawn(seed):
    mask, _ = random_mask(seed)
    scene = outlined(grey(*mask.image_hw), covered(mask.to_array()))
    factor = LONGEST // max(mask.image_hw)
    inside = mask.to_array().repeat(factor, axis=0).repeat(factor, axis=1)
    np.testing.assert_array_equal(yellow(scene), edge(inside))
    beside, near = (cv2.dilate(covered(edge(inside)), np.ones((side, side))) > 0 for side in (3, 5))
    assert (scene[beside & ~edge(inside)] == 0).all()
    assert (scene[~near] == GREY).all()


def test_region_that_fills_the_view_is_outlined_at_its_border():
    scene = outlined(grey(LONGEST, LONGEST), covered(np.ones((LONGEST, LONGEST), bool)))
    assert yellow(scene)[[0, -1]].all()
    assert not yellow(scene)[1:-1, 1:-1].any()


def test_region_of_faint_pixels_is_outlined_and_none_is_not():
    faint = np.zeros((LONGEST, LONGEST), np.uint8)
    faint[50:60, 70:90] = 30
    np.testing.assert_array_equal(yellow(outlined(grey(LONGEST, LONGEST), faint)), edge(faint > 0))
    assert (outlined(grey(LONGEST, LONGEST), np.zeros_like(faint)) == GREY).all()


@pytest.mark.parametrize(
    ("given", "drawn"),
    [((224, 224), (224, 224)), ((100, 40), (300, 120)), ((1, 1), (320, 320)), ((640, 480), (320, 240))],
)
def test_views_are_enlarged_by_whole_factors_or_shrunk(given, drawn, rng):
    pixels = rng.integers(0, 256, (*given, 3), dtype=np.uint8)
    scene = outlined(pixels, np.zeros(given, np.uint8))
    assert scene.shape == (*drawn, 3)
    if drawn[0] >= given[0]:
        factor = drawn[0] // given[0]
        np.testing.assert_array_equal(scene, np.kron(pixels, np.ones((factor, factor, 1), np.uint8)))


def tile(height, width, *lines):
    return Tile(grey(height, width), np.zeros((height, width), np.uint8), lines)


def test_sheet_has_a_cell_for_every_tile(rng):
    pixels = rng.integers(0, 200, (7, 224, 224, 3), dtype=np.uint8)
    nothing = np.zeros((224, 224), np.uint8)
    page = make_contact_sheet([Tile(one, nothing, ("a", "b", "c")) for one in pixels])
    step_y = 224 + 3 * LINE + LINE // 2 + GAP
    assert page.shape == (GAP + 2 * step_y, GAP + 5 * (224 + GAP), 3)
    for number, one in enumerate(pixels):
        x, y = GAP + number % 5 * (224 + GAP), GAP + number // 5 * step_y
        np.testing.assert_array_equal(page[y : y + 224, x : x + 224], one)
    assert (page[GAP + step_y :, GAP + 2 * (224 + GAP) :] == 255).all()


def test_small_views_stand_on_their_words():
    page = make_contact_sheet([tile(200, 300), tile(240, 280)])
    assert page.shape == (GAP + 240 + LINE // 2 + GAP, GAP + 2 * (300 + GAP), 3)
    painted = (page == GREY).all(axis=2)
    expected = np.zeros_like(painted)
    expected[GAP + 40 : GAP + 240, GAP : GAP + 300] = True
    expected[GAP : GAP + 240, GAP + 300 + GAP + 10 : GAP + 300 + GAP + 290] = True
    np.testing.assert_array_equal(painted, expected)


def test_narrow_views_leave_room_for_words():
    assert make_contact_sheet([tile(320, 40)]).shape[1] == GAP + NARROWEST + GAP


@pytest.mark.parametrize("lines", [("W" * 200,) * 3, ("gjpqy|", "gjpqy|", "ÅÉgjpqy|")])
def test_words_stand_apart_from_views_and_from_each_other(lines):
    page = make_contact_sheet([tile(224, 224, *lines)] * 4, columns=2)
    step_x, step_y = 224 + GAP, 224 + len(lines) * LINE + LINE // 2 + GAP
    for row in range(2):
        top = GAP + row * step_y + 224
        words = page[top : top + step_y - 224]
        assert (words[:2] == 255).all()
        assert (words[-GAP // 2 :] == 255).all()
        for column in range(2):
            left = GAP + column * step_x
            assert (words[:, left - GAP : left - 1] == 255).all()
            assert (words[:, left : left + 224] < 128).any()


@pytest.mark.parametrize("text", ["", "a", "sky", "000000177977.jpg"])
def test_words_that_fit_are_left_alone(text):
    assert shortened(text, 224) == text


def test_words_too_long_lose_their_middle():
    text = "a-very-long-name-of-a-file-from-a-camera-" * 3 + "0042.jpg"
    short = shortened(text, 224)
    start, end = short.split("…")
    assert text.startswith(start)
    assert text.endswith(end)
    assert end.endswith("0042.jpg")
    longer = f"{start}{text[len(start)]}…{end}"
    assert shortened(longer, 224) != longer  # No character more would have fitted.


def test_picture_is_written_as_it_is(tmp_path, rng):
    from maskwise import load_image

    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    write_picture(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), pixels)
