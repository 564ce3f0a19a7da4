import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise import Mask
from maskwise.views.sharing import MAX_WIDENING, _inside, own_views, shared_views
from maskwise.views.view import ViewSettings, slide
from random_masks import seeds

SETTINGS = ViewSettings(size=64, context=1.5, min_side=16)


def random_masks(seed, count):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(60, 400, 2))
    masks = []
    for _ in range(count):
        x, y = int(rng.integers(0, width - 1)), int(rng.integers(0, height - 1))
        masks.append(Mask.from_box((x, y, *np.exp(rng.uniform(0, 5, 2)).tolist()), (height, width)))
    return masks


def side(view):
    return view.box_xyxy[2] - view.box_xyxy[0]


@given(seeds, st.integers(1, 40))
def test_every_mask_is_looked_at_once(seed, count):
    groups = shared_views(random_masks(seed, count), SETTINGS)
    assert sorted(number for group in groups for number in group.masks) == list(range(count))


@given(seeds, st.integers(1, 40))
def test_shared_views_hold_what_each_mask_would_see_alone_and_are_not_too_wide(seed, count):
    masks = random_masks(seed, count)
    height, width = masks[0].image_hw
    for group in shared_views(masks, SETTINGS):
        x0, y0, x1, y1 = group.view.box_xyxy
        assert x1 - x0 == y1 - y0
        for number in group.masks:
            own = SETTINGS.view(masks[number])
            assert (x0 <= max(own.box_xyxy[0], 0)) & (y0 <= max(own.box_xyxy[1], 0))
            assert (x1 >= min(own.box_xyxy[2], width)) & (y1 >= min(own.box_xyxy[3], height))
            assert side(group.view) <= np.ceil(MAX_WIDENING * side(own))


@given(seeds, st.integers(1, 40), st.integers(1, 5))
@settings(deadline=None)
def test_no_more_views_than_are_allowed(seed, count, most):
    groups = shared_views(random_masks(seed, count), SETTINGS, most)
    assert len(groups) <= most
    assert sum(len(group.masks) for group in groups) == count


def test_masks_side_by_side_share_a_view_and_one_far_away_has_its_own():
    masks = [Mask.from_box((x, y, 20, 20), (400, 400)) for x, y in ((100, 100), (125, 100), (370, 370))]
    first, second = sorted(shared_views(masks, SETTINGS), key=lambda group: group.masks)
    assert (first.masks, second.masks) == ((0, 1), (2,))
    assert second.view == SETTINGS.view(masks[2])
    assert first.view.box_xyxy == (95, 82, 150, 137)  # Boxes of 30 around the masks span 55 across.


def test_a_large_mask_does_not_share_its_view_with_a_small_one():
    masks = [Mask.from_box((0, 0, 300, 300), (400, 400)), Mask.from_box((100, 100, 20, 20), (400, 400))]
    assert len(shared_views(masks, SETTINGS)) == 2


def test_one_mask_and_masks_of_whole_images_are_seen_as_alone():
    masks = random_masks(0, 5)
    assert shared_views(masks[:1], SETTINGS) == own_views(masks[:1], SETTINGS)
    whole = ViewSettings(kind="whole")
    (group,) = shared_views(masks, whole)
    assert (group.view, group.masks) == (whole.view(masks[0]), (0, 1, 2, 3, 4))
    assert shared_views([], SETTINGS) == own_views([], SETTINGS) == []


@given(seeds, st.integers(1, 30), st.sampled_from([None, 3]))
@settings(deadline=None)
def test_order_of_masks_does_not_matter(seed, count, most):
    masks = random_masks(seed, count)
    order = np.random.default_rng(seed).permutation(count)
    straight = shared_views(masks, SETTINGS, most)
    mixed = shared_views([masks[number] for number in order], SETTINGS, most)
    as_given = {(group.view, frozenset(order[list(group.masks)].tolist())) for group in mixed}
    assert as_given == {(group.view, frozenset(group.masks)) for group in straight}


@given(seeds, st.integers(-50, 350), st.integers(1, 200))
def test_many_windows_are_moved_inside_as_one_is(seed, limit, side):
    starts = np.random.default_rng(seed).integers(-100, 400, 5)
    moved = _inside(starts, np.full(5, side), max(limit, 1))
    assert moved.tolist() == [slide(start, side, side, max(limit, 1)) for start in starts.tolist()]


@pytest.mark.parametrize("most", [None, 8])
def test_thousands_of_masks_are_planned_in_little_memory(most):
    """Every mask has one view that shows it; with a square of candidates this would take 80 MB."""
    rng = np.random.default_rng(0)
    corners, sides = rng.integers(0, (3800, 2800), (2000, 2)).tolist(), rng.integers(5, 200, (2000, 2)).tolist()
    masks = [Mask.from_box((*corner, *side), (3000, 4000)) for corner, side in zip(corners, sides, strict=True)]
    tracemalloc.start()
    start = time.monotonic()
    views = shared_views(masks, SETTINGS, most)
    seconds, (_, peak) = time.monotonic() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
    assert seconds < 60
    assert sorted(number for view in views for number in view.masks) == list(range(2000))
    assert len(views) <= (most or 1250)
    for view in views:
        x0, y0, x1, y1 = view.view.box_xyxy
        boxes = np.array([masks[number].box_xywh for number in view.masks])
        assert (boxes[:, :2] >= (x0, y0)).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= (x1, y1)).all()
