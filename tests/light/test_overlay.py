"""Pictures of named regions, by pixels worked out by hand."""

import numpy as np
import pytest

from maskwise import Mask, Name, Prediction, draw_overlay
from maskwise.errors import InputError
from maskwise.reports.drawing import BLACK, GREY, WHITE, class_colour, text_colour
from maskwise.reports.label_placement import LabelPlacer
from maskwise.reports.overlay import OPACITY, write_overlay


def named(name, probability=0.9):
    return Prediction((Name(name, 1, probability),))


def box(x, y, w, h, image_hw=(1000, 1000)):
    return Mask.from_box((x, y, w, h), image_hw)


def test_a_region_is_tinted_in_the_colour_of_its_class_and_nothing_else_changes():
    image = np.zeros((1000, 1000, 3), dtype=np.uint8)
    image[...] = (200, 100, 0)
    picture = draw_overlay(image, [box(100, 100, 800, 800)], [named("boat")])
    expected = (1 - OPACITY) * np.array([200, 100, 0]) + OPACITY * np.array(class_colour("boat"))
    np.testing.assert_allclose(picture[150, 150], expected, atol=1)
    assert picture[50, 50].tolist() == [200, 100, 0]
    assert picture[100, 500].tolist() == list(class_colour("boat"))


def test_red_and_blue_are_not_swapped():
    """A class whose colour has far more red than blue."""
    name = next(name for name in map(str, range(100)) if class_colour(name)[0] > class_colour(name)[2] + 100)
    picture = draw_overlay(np.zeros((1000, 1000, 3), dtype=np.uint8), [box(100, 100, 800, 800)], [named(name)])
    red, _, blue = picture[150, 150].astype(int)
    assert red > blue + 30


def test_a_region_without_a_prediction_has_a_grey_outline_alone():
    image = np.full((1000, 1000, 3), 60, dtype=np.uint8)
    picture = draw_overlay(image, [box(100, 100, 800, 800)], [None])
    assert picture.shape == image.shape
    assert picture[500, 500].tolist() == [60, 60, 60]
    assert picture[100, 500].tolist() == list(GREY)


def test_a_class_has_one_colour_and_classes_differ():
    names = ("person", "boat", "cup", "chair", "dog", "cat")
    assert len({class_colour(name) for name in names}) == len(names)
    assert class_colour("boat") == class_colour("boat")


def test_text_is_black_on_light_colours_and_white_on_dark_ones():
    assert text_colour(WHITE) == text_colour((255, 255, 0)) == BLACK
    assert text_colour(BLACK) == text_colour((0, 0, 255)) == WHITE


def test_small_pictures_are_enlarged_and_large_ones_are_not():
    masks, predictions = [Mask.from_box((10, 5, 20, 20), (60, 80))], [named("cup")]
    assert draw_overlay(np.zeros((60, 80, 3), dtype=np.uint8), masks, predictions).shape[0] == 675
    image = np.zeros((1000, 1300, 3), dtype=np.uint8)
    assert draw_overlay(image, [box(10, 10, 900, 900, (1000, 1300))], predictions).shape == (1000, 1300, 3)


def test_names_without_room_become_dots_and_a_legend():
    image = np.zeros((1000, 1000, 3), dtype=np.uint8)
    small = draw_overlay(image, [box(500, 500, 12, 12)], [named("cup")])
    large = draw_overlay(image, [box(100, 100, 700, 700)], [named("cup")])
    assert large.shape[1] == 1000
    assert small.shape[1] > 1100
    assert small[-1, -1].tolist() == list(WHITE)


def test_a_label_hides_neither_a_smaller_region_nor_another_label():
    masks = [box(100, 100, 800, 800), box(450, 450, 100, 100), box(150, 700, 60, 60)]
    placer = LabelPlacer(masks, (1000, 1000))
    boxes = []
    for number in (0, 1, 2):
        place = placer.place(number, (120, 30), dot=30)
        width, height = (120, 30) if place.written else (30, 30)
        x, y = place.centre_xy
        boxes.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    assert not overlap(boxes[0], (450, 450, 550, 550))
    assert not overlap(boxes[0], (150, 700, 210, 760))
    assert not any(overlap(boxes[i], boxes[j]) for i in range(3) for j in range(i))


def overlap(one, other, slack=4):
    """Whether two boxes overlap by more than the grain of the map."""
    return (
        min(one[2], other[2]) - max(one[0], other[0]) > slack and min(one[3], other[3]) - max(one[1], other[1]) > slack
    )


def test_a_label_stands_in_a_ring_and_not_in_its_hole():
    ring = np.ones((400, 600), dtype=bool)
    ring[50:350, 50:500] = False
    place = LabelPlacer([Mask.from_array(ring)], (400, 600)).place(0, (40, 20), dot=20)
    x, y = place.centre_xy
    assert ring[y, x]
    assert place.target_xy is None


def test_a_tiny_region_gets_a_dot_beside_it_and_a_line():
    masks = [box(500, 500, 8, 8)]
    place = LabelPlacer(masks, (1000, 1000)).place(0, (120, 30), dot=30)
    assert not place.written
    assert place.target_xy == pytest.approx((504, 504), abs=3)
    assert np.hypot(*np.subtract(place.centre_xy, (504, 504))) < 60


def test_a_region_that_smaller_ones_cover_still_gets_a_label():
    masks = [box(100, 100, 100, 100), box(100, 100, 50, 100), box(150, 100, 50, 100)]
    placer = LabelPlacer(masks, (1000, 1000))
    place = placer.place(0, (300, 30), dot=30)
    assert 0 < place.centre_xy[0] < 400


def test_refuses_a_picture_of_an_unknown_kind(tmp_path):
    with pytest.raises(InputError, match=r"o\.xyz: accepted suffixes of pictures are \.png"):
        write_overlay(tmp_path / "o.xyz", np.zeros((9, 9, 3), dtype=np.uint8), [], [])
