"""The segmenter: what it outlines, compared with drawn things, answers of torch, and numbers worked out by hand."""

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise import Mask, Segmenter, load_image
from maskwise.errors import ImageError, InputError, MaskError, ModelError
from maskwise.model.segment_candidates import Candidates, Drawn, distinct, grid_rounds, packed, shown, stability
from maskwise.model.segment_frame import Frame, interpolated
from maskwise.model.segment_network import CELL_AXES, RECORD, Prompted
from maskwise.model.segmenter import _checked_points
from maskwise.model.session import built_in_model

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(threads=2)


def disc(image_hw, centre_xy, radius):
    y, x = np.indices(image_hw)
    return (x + 0.5 - centre_xy[0]) ** 2 + (y + 0.5 - centre_xy[1]) ** 2 <= radius**2


@pytest.fixture(scope="module")
def scene():
    """A red disc at the left and a blue box at the right of a wide green photograph, and their masks."""
    masks = [disc((240, 400), (90, 150), 50), np.zeros((240, 400), dtype=bool)]
    masks[1][40:110, 240:360] = True
    image = np.full((240, 400, 3), (60, 140, 70), dtype=np.uint8)
    image[masks[0]], image[masks[1]] = (200, 40, 40), (40, 60, 210)
    noise = np.random.default_rng(0).integers(-8, 9, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), masks


@pytest.fixture(scope="module")
def encoded(segmenter, scene):
    return segmenter.encode(scene[0])


def iou(segment, mask):
    full = segment.mask.to_array()
    return (full & mask).sum() / (full | mask).sum()


def test_a_click_outlines_the_thing_under_it(segmenter, scene, encoded):
    _, (round_mask, box_mask) = scene
    for place, mask in (((70, 165), round_mask), ((350, 50), box_mask)):
        segment = segmenter.prompt(encoded, points=[place])
        assert segment.mask.image_hw == (240, 400)
        assert iou(segment, mask) > 0.95
        assert 0.9 < segment.score <= 1
        assert 0.9 < segment.stability <= 1


def test_a_box_outlines_the_thing_in_it(segmenter, scene, encoded):
    _, (round_mask, box_mask) = scene
    assert iou(segmenter.prompt(encoded, box_xywh=(38, 98, 104, 104)), round_mask) > 0.95
    assert iou(segmenter.prompt(encoded, box_xywh=(238, 38, 124, 74)), box_mask) > 0.95


def test_further_points_add_and_take_away(segmenter, scene, encoded):
    _, (round_mask, box_mask) = scene
    both = segmenter.prompt(encoded, points=[(90, 150), (300, 75)])
    assert both.mask.to_array()[round_mask].mean() > 0.9
    assert both.mask.to_array()[box_mask].mean() > 0.9
    one = segmenter.prompt(encoded, points=[(90, 150), (300, 75)], labels=[1, 0])
    assert iou(one, round_mask) > 0.9


def test_everything_is_outlined_best_first(segmenter, scene):
    image, masks = scene
    segments = segmenter.segment(image, points_per_side=8)
    for mask in [*masks, ~(masks[0] | masks[1])]:
        assert max(iou(segment, mask) for segment in segments) > 0.95
    scores = [segment.score for segment in segments]
    assert scores == sorted(scores, reverse=True)
    for number, one in enumerate(segments):
        assert all(iou(one, other.mask.to_array()) < 0.75 for other in segments[:number])


def test_the_number_of_threads_changes_nothing(segmenter, scene):
    image, _ = scene
    results = [s.segment(image, points_per_side=4) for s in (segmenter, Segmenter(threads=1))]
    assert len(results[0]) == len(results[1]) > 2
    for one, other in zip(*results, strict=True):
        assert iou(one, other.mask.to_array()) > 0.99
        assert one.score == pytest.approx(other.score, abs=1e-3)


def test_thresholds_leave_segments_out(segmenter, scene):
    image, _ = scene
    everything = segmenter.segment(image, points_per_side=4, min_score=0, min_stability=0, max_overlap=1)
    by_score = segmenter.segment(image, points_per_side=4, min_score=0.9, min_stability=0, max_overlap=1)
    by_stability = segmenter.segment(image, points_per_side=4, min_score=0, min_stability=0.9, max_overlap=1)
    assert min(s.score for s in everything) < 0.9 <= min(s.score for s in by_score)
    assert min(s.stability for s in everything) < 0.9 <= min(s.stability for s in by_stability)


def test_the_answers_are_those_of_torch(segmenter):
    """The recipe writes what the original says in torch about an example; the first output is the single mask."""
    record = json.loads((built_in_model().parent / RECORD).read_text())["answers_of_torch"]
    image = load_image(EXAMPLES / Path(record["image"]).name)
    encoded = segmenter.encode(image)
    scale = 1024 / 600
    for answer in record["prompts"]:
        pairs = [pair for pair in zip(answer["points"], answer["labels"], strict=True) if pair[1] >= 0]
        places = [(x / scale, y / scale) for (x, y), _ in pairs]
        corners = [kind for _, kind in pairs] == [2, 3]
        if corners:
            (x0, y0), (x1, y1) = places
            segment = segmenter.prompt(encoded, box_xywh=(x0, y0, x1 - x0, y1 - y0))
        else:
            segment = segmenter.prompt(encoded, points=places, labels=[kind for _, kind in pairs])
        one_click = len(pairs) == 1
        best = 1 + int(np.argmax(answer["scores"][1:])) if one_click else 0
        assert segment.score == pytest.approx(answer["scores"][best], abs=0.01)
        area = answer["areas"][best] * (4 / scale) ** 2
        assert segment.mask.area == pytest.approx(area, rel=0.02)
        rows, columns = np.nonzero(segment.mask.to_array())
        centre = [(value + 0.5) * 4 / scale for value in answer["centres"][best]]
        assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx(centre, abs=1.5)


def test_a_copy_opens_the_same_files(segmenter, scene, encoded):
    again = copy.deepcopy(Segmenter(built_in_model().parent, threads=1))
    one, other = (s.prompt(encoded, points=[(90, 150)]) for s in (segmenter, again))
    assert (one.mask.to_array() == other.mask.to_array()).all()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "no point that is part of the thing"),
        ({"points": [(10, 10)], "labels": [0]}, "no point that is part of the thing"),
        ({"points": [(401, 10)]}, "the point 401,10 lies outside the image of width 400 and height 240"),
        ({"points": [(10, float("nan"))]}, "lies outside"),
        ({"points": np.array([10.0, 10.0])}, "accepted are N x 2"),
        ({"points": np.zeros((257, 2))}, "at most 256"),
        ({"points": [(10, 10)], "labels": [2]}, "labels"),
        ({"points": [(10, 10)], "labels": [1, 1]}, "for 1 points"),
    ],
)
def test_refuses_prompts_that_say_nothing(segmenter, encoded, prompt, message):
    with pytest.raises(InputError, match=message):
        segmenter.prompt(encoded, **prompt)


def test_refuses_a_box_outside_the_image(segmenter, encoded):
    with pytest.raises(MaskError, match="outside the image"):
        segmenter.prompt(encoded, box_xywh=(500, 0, 10, 10))


def test_refuses_numbers_outside_their_range(segmenter, scene):
    for wrong in ({"points_per_side": 0}, {"points_per_side": 129}, {"min_score": 1.1}, {"max_overlap": -0.1}):
        with pytest.raises(InputError, match="give"):
            segmenter.segment(scene[0], **wrong)
    with pytest.raises(ImageError, match="uint8"):
        segmenter.encode(np.zeros((10, 10, 3)))
    with pytest.raises(InputError, match="threads"):
        Segmenter(threads=0)


def test_refuses_a_folder_without_the_files(tmp_path):
    with pytest.raises(ModelError, match=r"segmenter-encoder\.onnx: no such model file"):
        Segmenter(tmp_path)


@pytest.mark.parametrize(
    ("image_hw", "size_hw", "cells_hw"),
    [
        ((480, 640), (768, 1024), (48, 64)),
        ((640, 427), (1024, 683), (64, 43)),
        ((2000, 2), (1024, 1), (64, 1)),
        ((3, 2), (1024, 683), (64, 43)),
    ],
)
def test_the_frame_of_a_photograph(image_hw, size_hw, cells_hw):
    frame = Frame(image_hw)
    assert (frame.size_hw, frame.cells_hw) == (size_hw, cells_hw)


def test_a_photograph_stands_at_the_left_top_of_its_frame():
    image = np.full((256, 512, 3), 255, dtype=np.uint8)
    image[:, :256] = 0
    pixels = Frame((256, 512)).pixels(image)
    assert pixels.shape == (1, 3, 1024, 1024)
    assert (pixels[..., 512:, :] == 0).all()
    # (0 - 123.675) / 58.395 and (255 - 103.53) / 57.375
    assert pixels[0, 0, 100, 100] == pytest.approx(-2.1179, abs=1e-4)
    assert pixels[0, 2, 100, 900] == pytest.approx(2.64, abs=1e-4)
    assert Frame((256, 512)).points(np.array([[100.0, 50.0]])).tolist() == [[200, 100]]
    # 2 pixels become 1, 2,000 become 1,024.
    assert Frame((2000, 2)).points(np.array([[1.0, 1000.0]])).tolist() == [[0.5, 512]]


def test_a_mask_of_the_photographs_size_is_the_sign_of_the_logits(rng):
    """The longer side has 256 pixels, so that one pixel of the network's mask is one of the photograph."""
    logits = rng.normal(size=(192, 256)).astype(np.float32)
    mask = Frame((192, 256)).mask(logits)
    assert (mask.to_array() == (logits > 0)).all()


@pytest.mark.parametrize("side", [512, 768, 1024])
def test_masks_are_enlarged_as_opencv_does(rng, side):
    logits = cv2.GaussianBlur(rng.normal(size=(128, 256)), (0, 0), 4).astype(np.float32)
    expected = cv2.resize(logits, (side, side // 2), interpolation=cv2.INTER_LINEAR) > 0
    mask = Frame((side // 2, side)).mask(logits)
    assert (mask.to_array() != expected).mean() < 1e-4


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 10_000))
def test_only_the_box_of_a_mask_is_enlarged_and_nothing_is_cut_off(height, width, seed):
    generator = np.random.default_rng(seed)
    frame = Frame((height, width))
    rows, columns = (4 * cells for cells in frame.cells_hw)
    logits = np.full((rows, columns), -1.0, dtype=np.float32)
    top, left = generator.integers(0, rows), generator.integers(0, columns)
    logits[top : top + 9, left : left + 5] = generator.normal(size=logits[top : top + 9, left : left + 5].shape) + 2
    places = [
        (np.arange(side) + 0.5) * size / side / 4 - 0.5
        for side, size in zip((height, width), frame.size_hw, strict=True)
    ]
    expected = interpolated(logits, *places) > 0
    mask = frame.mask(logits)
    assert (mask is None and not expected.any()) or (mask.to_array() == expected).all()


def test_an_empty_mask_is_none():
    assert Frame((48, 64)).mask(np.full((192, 256), -1, dtype=np.float32)) is None


@pytest.mark.parametrize("side", [1, 2, 3, 7, 8, 24])
def test_the_rounds_of_a_grid_are_the_grid(side):
    points = np.concatenate(list(grid_rounds(side)))
    expected = {((x + 0.5) / side, (y + 0.5) / side) for x in range(side) for y in range(side)}
    assert len(points) == side**2
    assert {tuple(point) for point in points.tolist()} == expected


def test_a_grid_goes_from_coarse_to_fine():
    first, second, third, last = grid_rounds(8)
    # Rows and columns 1 and 5; then the odd ones; then the even ones; then the rest.
    assert sorted(map(tuple, (first * 8 - 0.5).tolist())) == [(1, 1), (1, 5), (5, 1), (5, 5)]
    assert set(np.unique(second * 8 - 0.5)) == {1, 3, 5, 7}
    assert set(np.unique(third * 8 - 0.5)) == {0, 2, 4, 6}
    assert len(last) == 32


def test_stability_compares_two_thresholds():
    logits = np.array([[[5, 1.5, 0.9], [-0.9, -1.1, -7]], [[9, 9, -9], [-9, -9, -9]], [[-9, -9, -9], [-9, -9, -9]]])
    # Above 1: two pixels; above -1: four.
    assert stability(logits).tolist() == [0.5, 1, 0]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.5, 0.8]))
def test_kept_masks_overlap_little_and_dropped_ones_overlap_a_better_one(seed, most):
    masks = np.random.default_rng(seed).random((12, 5, 7)) < 0.6
    kept = distinct(packed(masks), most).tolist()

    def overlap(one, other):
        return (masks[one] & masks[other]).sum() / (masks[one] | masks[other]).sum()

    for place in range(len(masks)):
        better = [overlap(place, other) for other in kept if other < place]
        assert (place in kept) == all(value <= most for value in better)


def drawn(cells, scores, stabilities):
    """Masks in which all pixels of a cell are alike."""
    cells = np.array(cells, dtype=np.float32)
    logits = cells.repeat(4, axis=1).repeat(4, axis=2).astype(np.float16)
    return Drawn(logits, cells, np.array(scores), np.array(stabilities))


def previewed(previews, scores):
    """Masks that are not drawn yet, of one click."""
    previews, scores = np.array([previews], dtype=np.float32), np.array([scores], dtype=np.float32)
    _, masks, rows, columns = previews.shape
    cells, weights = (np.zeros(shape, dtype=np.float32) for shape in ((1, rows, columns, 2), (1, masks, 2)))
    return Prompted(cells, weights, scores, previews)


WIDE = [[1, 1, 1, -1], [-1, -1, -1, -1]]
WIDER = [[1, 1, 1, 1], [-1, -1, -1, -1]]
LOW = [[-1, -1, -1, -1], [-1, -1, -1, 1]]


def test_candidates_keep_the_better_of_two_and_know_what_they_cover():
    candidates = Candidates((2, 4), 0.5)
    candidates.add([drawn([WIDE], [0.8], [0.7])])
    candidates.add([drawn([LOW], [0.5], [0.6]), drawn([WIDER], [0.9], [1.0])])
    candidates.add([])
    logits, scores, stabilities = zip(*candidates, strict=True)
    assert (scores, stabilities) == ((0.9, 0.5), (1.0, 0.6))
    assert (logits[0][::4, ::4] == WIDER).all()
    places = np.array([[0, 15], [7, 15], [7, 0]])
    assert candidates.covered(places, 0.0, 1).tolist() == [True, True, False]
    assert candidates.covered(places, 0.6, 1).tolist() == [True, False, False]
    assert candidates.covered(places, 0.0, 2).tolist() == [False, False, False]
    candidates.add([drawn([[[1, -1, -1, -1], [-1, -1, 1, 1]]], [0.7], [1.0])])
    assert candidates.covered(places, 0.0, 2).tolist() == [False, True, False]


def test_shaky_masks_are_dropped():
    masks = drawn([WIDE, WIDER, LOW], [0.3, 0.4, 0.5], [0.7, 0.8, 0.6])
    assert masks.steadier_than(0.7).scores.tolist() == [0.3, 0.4]


def test_a_mask_that_looks_like_a_better_one_is_not_drawn():
    """The new mask has 18 of the 20 cells of the known one: an IoU of 0.9."""
    known = np.full((1, 4, 6), -5.0)
    known[0].flat[:20] = 5
    similar, small = known.copy(), np.full_like(known, -5)
    similar[0].flat[18:20] = -5
    small[0].flat[:12] = 5
    for max_overlap, is_new in ((0.8, False), (0.9, True)):  # It must overlap by 0.05 more.
        candidates = Candidates((4, 6), max_overlap)
        assert candidates.may_be_new(previewed(similar, [0.1]), 0.7).tolist() == [[True]]
        candidates.add([drawn(known, [0.8], [1.0])])
        got = candidates.may_be_new(previewed([similar[0], similar[0], -similar[0]], [0.7, 0.9, 0.7]), 0.7)
        assert got.tolist() == [[is_new, True, True]]  # A better one is drawn, and one elsewhere.
    candidates = Candidates((4, 6), 0.5)
    candidates.add([drawn(small, [0.8], [1.0])])
    assert candidates.may_be_new(previewed(small, [0.7]), 0.7).all()  # Too small for its preview to tell.


def test_a_mask_whose_preview_is_shaky_is_not_drawn():
    """Of 20 cells above -1, 12 are above 1: a stability of 0.6, which may be 0.1 too low."""
    shaky = np.full((1, 4, 6), -5.0)
    shaky[0].flat[:20] = 0.5
    shaky[0].flat[:12] = 5
    candidates = Candidates((4, 6), 0.5)
    assert candidates.may_be_new(previewed(shaky, [0.9]), 0.69).tolist() == [[True]]
    assert candidates.may_be_new(previewed(shaky, [0.9]), 0.71).tolist() == [[False]]


def test_masks_are_drawn_around_what_previews_show_and_around_the_click():
    previews = np.full((2, 20, 30), -5.0)
    previews[0, 9, 12], previews[1, 11, 14] = 0.0, 3.0
    # One cell more on each side; two around the click.
    assert shown(previews, np.array([10, 13])) == (slice(8, 13), slice(11, 16))
    assert shown(previews, np.array([19, 0])) == (slice(8, 20), slice(0, 16))
    assert shown(previews - 9, np.array([0, 29])) == (slice(0, 3), slice(27, 30))


def test_the_cells_of_an_encoded_photograph_stand_for_the_whole_frame(encoded):
    """240 x 400 pixels touch 39 rows of 64 cells; below them are 6 full rows of 16 blocks, and one of a single cell."""
    sizes = np.exp(encoded.arrays["log_sizes"])
    assert len(sizes) == 39 * 64 + 7 * 16
    assert sizes.sum() == pytest.approx(64 * 64)
    assert {array.shape[axis] for array, axis in ((encoded.arrays[n], a) for n, a in CELL_AXES.items())} == {len(sizes)}


def test_cells_beside_the_photograph_come_in_blocks():
    """A photograph of 50 x 64 cells leaves 14 rows: blocks of 4, 4, 4 and 2 rows, each 16 columns of blocks wide."""
    frame = Frame((800, 1024))
    cells, sizes = frame.cells()
    assert (cells[: 50 * 64] == np.arange(50 * 64)).all()
    assert (sizes[: 50 * 64] == 1).all()
    assert sizes[50 * 64 :].tolist() == [16] * 48 + [8] * 16
    assert cells[50 * 64] == 51 * 64 + 1  # Near the middle of rows 50 to 53 and columns 0 to 3.
    for image_hw in ((640, 427), (5, 999), (64, 64)):
        cells, sizes = Frame(image_hw).cells()
        rows, columns = Frame(image_hw).cells_hw
        assert sizes.sum() == 64 * 64
        assert len(set(cells.tolist())) == len(cells)
        assert cells[: rows * columns].reshape(rows, columns)[-1, -1] == (rows - 1) * 64 + columns - 1


def test_run_lengths_of_a_mask_come_back(rng):
    array = rng.random((13, 7)) < 0.4
    rle = Mask.from_array(array).to_rle()
    assert (Mask.from_rle(json.loads(json.dumps(rle))).to_array() == array).all()


def test_points_may_lie_in_a_corner_and_not_outside():
    assert _checked_points([[0, 0], [6, 4]], (4, 6)).tolist() == [[0, 0], [6, 4]]
    with pytest.raises(InputError, match=r"the point 6\.5,1 lies outside the image of width 6 and height 4"):
        _checked_points([[6.5, 1]], (4, 6))
    with pytest.raises(InputError, match=r"points have shape \(1, 4\)"):
        _checked_points([[1, 1, 2, 2]], (4, 6))
