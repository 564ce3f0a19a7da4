"""Pixels of drawn regions and labels, compared with the same drawn another way."""

import numpy as np
import pytest

from maskwise import Mask, Name, Prediction
from maskwise.reports.drawing import BLACK, GREY, WHITE, class_colour, draw_outline, font, text_colour
from maskwise.reports.label_placement import Place
from maskwise.reports.overlay import OPACITY, _draw_labels, _draw_region, _Label, _labels, _legend


@pytest.mark.parametrize("box", [(0, 0, 30, 20), (0, 40, 9, 20), (50, 0, 30, 9), (100, 60, 20, 20), (40, 30, 11, 17)])
@pytest.mark.parametrize("thickness", [1, 3, 4])
def test_a_region_drawn_in_its_box_is_that_drawn_on_the_whole_picture(box, thickness, rng):
    scene = rng.integers(0, 256, (80, 120, 3), dtype=np.uint8)
    mask = Mask.from_box(box, (80, 120))
    colour = class_colour("boat")
    expected = scene.copy()
    inside = mask.to_array()
    tint = expected[inside] * (1 - OPACITY) + np.array(colour) * OPACITY
    expected[inside] = np.rint(tint)
    draw_outline(expected, inside, colour, thickness)
    _draw_region(scene, mask, colour, thickness)
    np.testing.assert_array_equal(scene, expected)


def test_a_grey_outline_is_half_as_thick():
    scene = np.zeros((80, 120, 3), dtype=np.uint8)
    expected = scene.copy()
    mask = Mask.from_box((40, 30, 20, 20), (80, 120))
    draw_outline(expected, mask.to_array(), GREY, 2)
    _draw_region(scene, mask, None, 5)
    np.testing.assert_array_equal(scene, expected)


def test_a_region_on_an_enlarged_picture_is_cut_at_half():
    """Twice the size: a pixel of the mask becomes 2 x 2 pixels, and nothing outside them is tinted."""
    bits = np.zeros((40, 60), dtype=bool)
    bits[10:15, 20:27] = True
    scene = np.full((80, 120, 3), 200, dtype=np.uint8)
    _draw_region(scene, Mask.from_array(bits), (0, 0, 0), 1)
    expected = np.full((80, 120, 3), 200, dtype=np.uint8)
    expected[20:30, 40:54] = 120
    draw_outline(expected, bits.repeat(2, 0).repeat(2, 1), (0, 0, 0), 1)
    np.testing.assert_array_equal(scene, expected)


@pytest.mark.parametrize(
    ("colour", "ink"),
    [
        ((117, 117, 117), WHITE),  # Luminance 0.178: 4.61 against white, 4.56 against black.
        ((118, 118, 118), BLACK),  # 0.181: 4.54 against white, 4.62 against black.
        ((10, 0, 255), WHITE),
        ((255, 0, 0), BLACK),  # 4.00 against white, 5.25 against black.
        ((200, 0, 0), WHITE),  # 5.89 against white, 3.57 against black.
        ((0, 135, 10), WHITE),  # 4.62 against white, 4.54 against black.
        ((0, 140, 10), BLACK),
    ],
)
def test_text_has_the_higher_contrast(colour, ink):
    assert text_colour(colour) == ink


def label(number, centre_xy, *, written=False, target_xy=None, text="boat", colour=(0, 200, 0)):
    return _Label(number, text, colour, Place(centre_xy, written, target_xy))


@pytest.mark.parametrize(("size", "core", "edge"), [(16, 2, 4), (48, 6, 12), (6, 1, 3)])
def test_a_line_leads_from_a_dot_to_its_region_with_a_black_edge(size, core, edge):
    """The line is an eighth of the text's size thick, its edge a quarter; at least 1 and 3 pixels."""
    picture = np.full((200, 400, 3), 255, dtype=np.uint8)
    _draw_labels(picture, [label(1, (60, 100), target_xy=(380, 100))], size)
    column = np.array(picture)[:, 300]
    assert (column == (0, 200, 0)).all(axis=1).sum() == pytest.approx(core, abs=1)
    dark = (column != 255).any(axis=1).sum()
    assert dark == pytest.approx(edge, abs=1)
    assert dark > (column == (0, 200, 0)).all(axis=1).sum()
    assert (np.array(picture)[:, 395] == 255).all()


def extent(picture, colour):
    """Left, top, right and bottom of the pixels of a colour, the last two outside."""
    ys, xs = np.nonzero((np.array(picture) == colour).all(axis=2))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def test_a_written_label_is_as_wide_as_its_text_and_stands_around_its_centre():
    size = 20
    picture = np.full((200, 400, 3), 255, dtype=np.uint8)
    _draw_labels(picture, [label(1, (200, 100), written=True)], size)
    width, height = round(font(size).getlength("boat")) + 20, 32
    assert extent(picture, (0, 200, 0)) == (200 - width // 2, 84, 200 - width // 2 + width, 84 + height)


def test_a_dot_is_round_and_has_the_regions_number():
    picture = np.full((200, 400, 3), 255, dtype=np.uint8)
    _draw_labels(picture, [label(7, (200, 100))], 20)
    left, top, right, bottom = extent(picture, (0, 200, 0))
    assert (left, top, right, bottom) == (184, 84, 216, 116)  # 1.7 times 20 pixels, within its black edge.
    assert np.array(picture)[83, 183].tolist() == [255, 255, 255]
    other = np.full((200, 400, 3), 255, dtype=np.uint8)
    _draw_labels(other, [label(8, (200, 100))], 20)
    assert np.array(other).tolist() != np.array(picture).tolist()


def test_the_legend_lists_dots_by_number_in_columns():
    """Two rows fit: five names take three columns, each as wide as its longest name and three sizes more."""
    size = 20
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
    numbers = [5, 1, 4, 2, 3]
    labels = [label(n, (9, 9), text=f"{n} boat", colour=c) for n, c in zip(numbers, colours, strict=True)]
    page = _legend(labels, 2 * size + 2 * 38, size)
    column = round(max(font(size).getlength(f"{n} boat") for n in range(1, 6))) + 60
    assert page.shape == (116, 3 * column + 20, 3)
    by_number = dict(zip(numbers, colours, strict=True))
    for place, number in enumerate([1, 2, 3, 4, 5]):
        left, top, right, bottom = extent(page, by_number[number])
        assert left == pytest.approx(20 + place // 2 * column, abs=1)
        assert (top + bottom) / 2 == pytest.approx(20 + place % 2 * 38 + 19, abs=1)
        assert (right - left, bottom - top) == (pytest.approx(18, abs=1), pytest.approx(18, abs=1))
    assert (page[:10] == 255).all()


def test_a_picture_too_low_for_a_row_has_a_legend_of_one_row():
    page = _legend([label(n, (9, 9)) for n in (1, 2)], 30, 20)
    assert page.shape == (30, 2 * (round(font(20).getlength("boat")) + 60) + 20, 3)
    assert _legend([], 30, 20).shape == (30, 0, 3)


def test_labels_have_number_name_and_per_cent_and_the_colour_of_the_class():
    hw = (300, 400)
    masks = [Mask.from_box(box, hw) for box in ((10, 10, 50, 40), (100, 20, 280, 250), (20, 100, 60, 150))]
    predictions = [Prediction((Name("boat", 9, 0.876),)), Prediction((Name("dog", 18, 0.994),)), None]
    got = _labels(masks, predictions, hw, 14)
    assert [(one.number, one.text, one.colour) for one in got] == [
        (2, "2 dog 99%", class_colour("dog")),
        (1, "1 boat 88%", class_colour("boat")),
    ]
    assert [one.place.written for one in got] == [True, False]
    assert _labels([], [], hw, 14) == []
