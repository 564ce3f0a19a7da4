"""Places of labels, compared with a slow search over every pixel."""

import numpy as np
import pytest

from maskwise import Mask
from maskwise.reports.label_placement import LabelPlacer, _free_centres, _inside, _middle, _paint, by_size


def covered_by(centre_xy, size):
    """Rows and columns of a box around a centre: an even side reaches one pixel further left or up."""
    left, top = centre_xy[0] - size[0] // 2, centre_xy[1] - size[1] // 2
    return top, top + size[1], left, left + size[0]


def is_free(blocked, centre_xy, size):
    top, bottom, left, right = covered_by(centre_xy, size)
    inside = top >= 0 and left >= 0 and bottom <= blocked.shape[0] and right <= blocked.shape[1]
    return inside and not blocked[top:bottom, left:right].any()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 2), (4, 4), (5, 1), (14, 3)])
def test_free_centres_are_those_whose_box_lies_inside_and_touches_nothing(size, rng):
    blocked = rng.random((9, 13)) < 0.1
    expected = [[is_free(blocked, (x, y), size) for x in range(13)] for y in range(9)]
    np.testing.assert_array_equal(_free_centres(blocked, size), expected)


def test_nothing_is_free_where_the_box_is_larger_than_the_map():
    for size in ((13, 10), (14, 9)):
        assert not _free_centres(np.zeros((9, 13), dtype=bool), size).any()
    assert _free_centres(np.zeros((9, 13), dtype=bool), (13, 9)).sum() == 1


def depth(own, x, y):
    """Distance of a pixel of a region to the nearest pixel outside, the map's border included."""
    ys, xs = np.nonzero(~np.pad(own, 1))
    return np.hypot(ys - 1 - y, xs - 1 - x).min()


@pytest.mark.parametrize("size", [(3, 3), (5, 2), (2, 6)])
def test_a_label_lies_on_its_region_as_deep_as_it_can(size, rng):
    own = np.zeros((20, 30), dtype=bool)
    own[3:17, 6:25] = True
    own[8:12, 10:20] = False
    blocked = rng.random(own.shape) < 0.02
    free = [(x, y) for y in range(20) for x in range(30) if own[y, x] and is_free(blocked, (x, y), size)]
    deepest = max(depth(own, *centre) for centre in free)
    centre = _inside(own, blocked, size)
    assert centre in free
    # OpenCV's 3 x 3 distance transform is up to 8 % off.
    assert depth(own, *centre) >= 0.9 * deepest


def test_a_region_without_a_free_place_has_none():
    own = np.zeros((20, 30), dtype=bool)
    own[3:8, 6:12] = True
    assert _inside(own, own, (3, 3)) is None
    assert _inside(own, np.ones_like(own), (1, 1)) is None
    free_elsewhere = np.zeros_like(own)
    free_elsewhere[:, :12] = True
    assert _inside(own, free_elsewhere, (1, 1)) is None


def test_a_label_may_reach_over_the_edge_of_its_region():
    """A region one pixel thin, a label three high: its surroundings must be looked at too."""
    own = np.zeros((9, 30), dtype=bool)
    own[4, 5:25] = True
    assert _inside(own, np.zeros_like(own), (7, 3)) is not None
    blocked = np.zeros_like(own)
    blocked[5] = True
    assert _inside(own, blocked, (7, 3)) is None


def test_the_middle_is_the_point_farthest_from_the_edge():
    own = np.zeros((20, 31), dtype=bool)
    own[2:9, 20:29] = True
    assert _middle(own) in {(23, 5), (24, 5), (25, 5)}
    own[:] = False
    own[0, 0] = True
    assert _middle(own) == (0, 0)


def test_a_region_is_painted_at_the_scale_of_the_map():
    """A map of half the size: pixels that are at least half covered."""
    owner = np.zeros((10, 20), dtype=np.int32)
    bits = np.zeros((20, 40), dtype=bool)
    bits[4:8, 10:16] = True
    bits[8, 10:16] = True
    _paint(owner, Mask.from_array(bits), 7)
    rows, columns = np.nonzero(owner == 7)
    assert (rows.min(), columns.min(), columns.max()) == (2, 5, 7)
    assert (owner[2:4, 5:8] == 7).all()
    assert rows.max() <= 4  # The last row of the mask covers half a row of the map.


def test_a_region_with_a_hole_keeps_the_hole():
    owner = np.zeros((10, 20), dtype=np.int32)
    bits = np.ones((20, 40), dtype=bool)
    bits[8:12, 16:32] = False
    _paint(owner, Mask.from_array(bits), 7)
    assert (owner[4:6, 8:16] == 0).all()
    assert (owner == 7).sum() == 200 - 16


def test_a_region_smaller_than_a_pixel_of_the_map_still_has_one():
    owner = np.zeros((10, 20), dtype=np.int32)
    bits = np.zeros((100, 200), dtype=bool)
    bits[99, 199] = True
    bits[98, 198] = True
    _paint(owner, Mask.from_array(bits), 3)
    assert np.argwhere(owner == 3).tolist() == [[9, 19]]


def test_the_largest_comes_first_and_equals_keep_their_order():
    hw = (20, 30)
    masks = [Mask.from_box(box, hw) for box in ((0, 0, 2, 2), (5, 5, 9, 9), (3, 0, 2, 2), (0, 9, 5, 5))]
    assert by_size(masks) == [1, 3, 0, 2]


def test_text_needs_twice_its_area_of_region():
    """A label may hide at most half of its region."""
    mask = Mask.from_box((100, 100, 40, 20), (300, 400))
    assert LabelPlacer([mask], (300, 400)).place(0, (20, 20), dot=8).written
    assert not LabelPlacer([mask], (300, 400)).place(0, (21, 20), dot=8).written


def test_places_are_kept_free_for_good():
    """Four equal labels in one region of their size twice over: no two overlap, the last ones lie elsewhere."""
    hw = (200, 300)
    masks = [Mask.from_box((50, 60, 120, 40), hw)] * 4
    placer = LabelPlacer(masks, hw)
    boxes = []
    for number in range(4):
        place = placer.place(number, (60, 39), dot=20)
        size = (60, 39) if place.written else (20, 20)
        boxes.append(covered_by(place.centre_xy, size))
    for i in range(4):
        for j in range(i):
            one, other = boxes[i], boxes[j]
            rows = min(one[1], other[1]) - max(one[0], other[0])
            columns = min(one[3], other[3]) - max(one[2], other[2])
            assert rows <= 1 or columns <= 1, (boxes, i, j)


def test_a_dot_beside_its_region_takes_the_nearest_free_place(rng):
    """A region of 3 x 3 pixels beside a large one: the dot lies off the region, and nothing nearer is free."""
    hw = (200, 300)
    tiny = Mask.from_box((150, 100, 3, 3), hw)
    place = LabelPlacer([tiny], hw).place(0, (80, 20), dot=11)
    assert not place.written
    assert place.target_xy == (152, 102)
    own = np.zeros(hw, dtype=bool)
    own[100:103, 150:153] = True
    ys, xs = np.mgrid[:200, :300]
    free = np.array([[is_free(own, (x, y), (11, 11)) for x in range(300)] for y in range(200)])
    distance = np.where(free, np.hypot(xs - 151, ys - 101), np.inf)
    x, y = place.centre_xy
    # The place is given in the middle of its pixel, rounded: one pixel of tolerance.
    assert np.hypot(x - 151, y - 101) == pytest.approx(distance.min(), abs=1.5)
    top, bottom, left, right = covered_by((x, y), (9, 9))
    assert not own[top:bottom, left:right].any()


def test_a_dot_keeps_off_other_small_regions_if_it_can():
    """Left of the tiny region lies another small one, so the dot goes elsewhere."""
    hw = (200, 300)
    masks = [Mask.from_box((150, 100, 3, 3), hw), Mask.from_box((135, 85, 14, 33), hw)]
    place = LabelPlacer(masks, hw).place(0, (80, 20), dot=11)
    top, bottom, left, right = covered_by(place.centre_xy, (9, 9))
    other = np.zeros(hw, dtype=bool)
    other[85:118, 135:149] = True
    assert not other[top:bottom, left:right].any()


def test_a_dot_without_a_free_place_in_reach_lies_on_its_region():
    hw = (60, 60)
    masks = [Mask.from_box((25, 25, 3, 3), hw), *[Mask.from_box((0, 0, 60, 60), hw)] * 9]
    placer = LabelPlacer(masks, hw)
    placer._taken[:] = True
    place = placer.place(0, (40, 20), dot=11)
    assert np.hypot(place.centre_xy[0] - 26.5, place.centre_xy[1] - 26.5) <= 1.5


def test_places_are_given_in_pixels_of_a_large_picture():
    """1280 pixels wide: the map is half as large, and a place is the middle of a pixel of the map."""
    hw = (400, 1280)
    place = LabelPlacer([Mask.from_box((800, 100, 100, 60), hw)], hw).place(0, (40, 20), dot=10)
    assert place.written
    assert 826 <= place.centre_xy[0] <= 874
    assert 126 <= place.centre_xy[1] <= 134
    assert place.centre_xy[0] % 2 == 1


@pytest.mark.parametrize(("middle", "reached"), [(92, True), (93, False)])
def test_a_dot_lies_at_most_six_diameters_from_its_region(middle, reached):
    """Everything is taken but a square of a dot's size, whose middle is 66 or 67 pixels from the region's."""
    hw = (60, 200)
    placer = LabelPlacer([Mask.from_box((25, 25, 3, 3), hw)], hw)
    placer._taken[:] = True
    placer._taken[21:32, middle - 5 : middle + 6] = False
    place = placer.place(0, (40, 20), dot=11)
    assert (place.centre_xy[0] > 80) is reached


def test_a_label_is_at_most_as_large_as_the_map():
    placer = LabelPlacer([Mask.from_box((0, 0, 3, 3), (10, 40))], (10, 40))
    assert placer._on_map((30, 5)) == (30, 5)
    assert placer._on_map((50, 12)) == (40, 10)
