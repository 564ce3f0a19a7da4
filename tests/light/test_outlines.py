import cv2
import numpy as np
import pytest
from pycocotools import mask as rle_codec

from maskwise import Mask
from maskwise.data.brush_rle import brush_runs
from maskwise.data.outlines import joined, mask_polygons


def drawn(polygons, image_hw):
    """What pycocotools draws of polygons."""
    runs = rle_codec.frPyObjects([polygon.ravel().tolist() for polygon in polygons], *image_hw)
    return rle_codec.decode(rle_codec.merge(runs)).astype(bool)


def area(polygon):
    x, y = polygon.T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


RING = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 0, 0],
        [0, 1, 0, 0, 1, 0, 1],
        [0, 1, 1, 1, 1, 0, 1],
    ],
    dtype=bool,
)


def test_a_ring_beside_a_bar_is_a_polygon_with_a_cut_and_a_rectangle():
    ring, bar = mask_polygons(Mask.from_array(RING), tolerance=0)
    assert sorted(bar.tolist()) == [[6, 2], [6, 4], [7, 2], [7, 4]]
    assert len(ring) == 4 + 4 + 2  # The cut goes there and back.
    assert area(ring) == 12 - 2


@pytest.mark.parametrize("tolerance", [0, 0.5])
def test_what_pycocotools_draws_of_them_is_the_mask(rng, tolerance):
    """Specks, holes, islands in holes, corners that touch: at the default tolerance nothing is lost either."""
    for _ in range(120):
        shape = tuple(rng.integers(1, 15, 2).tolist())
        bits = rng.random(shape) < rng.choice([0.3, 0.6, 0.85])
        if bits.any():
            polygons = mask_polygons(Mask.from_array(bits), tolerance=tolerance)
            np.testing.assert_array_equal(drawn(polygons, shape), bits)
            np.testing.assert_array_equal(drawn([joined(polygons)], shape), bits)


def test_each_part_has_its_polygon_the_largest_first():
    bits = np.zeros((20, 30), dtype=bool)
    bits[2:5, 3:9], bits[5:18, 9:28] = True, True  # They touch at a corner.
    small, large = mask_polygons(Mask.from_array(bits))[::-1]
    assert small.min(axis=0).tolist() == [3, 2]
    assert large.max(axis=0).tolist() == [28, 18]


def test_a_larger_tolerance_gives_fewer_corners_near_the_true_edge():
    bits = np.zeros((60, 200), dtype=np.uint8)
    cv2.fillPoly(bits, [np.array([[3, 5], [190, 20], [180, 55]])], 1)
    (exact,), (fewer,) = (mask_polygons(Mask.from_array(bits.astype(bool)), tolerance=value) for value in (0, 1.5))
    assert len(fewer) < 0.1 * len(exact)
    changed = drawn([fewer], bits.shape) != bits
    near = cv2.dilate(bits, np.ones((5, 5))) != cv2.erode(bits, np.ones((5, 5)))
    assert not (changed & ~near).any()
    assert changed.sum() < 0.1 * bits.sum()


def brush_pixels(runs, image_hw):
    """Decode Label Studio's encoding as its specification has it, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in runs)
    place = 0

    def read(size):
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < count:
        same = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if same else [read(word) for _ in range(length)]
    return np.array(values).reshape(*image_hw, 4)


def test_brush_runs_are_what_label_studios_own_encoder_gives():
    """The bytes are of label_studio_sdk 2.1.2, `converter.brush.encode_rle`."""
    bits = np.zeros((3, 5), dtype=bool)
    bits[0, 1:4], bits[2, 0] = True, True
    expected = [0, 0, 0, 60, 57, 27, 252, 96, 22, 255, 240, 184, 4, 127, 247, 192, 0]
    assert brush_runs(Mask.from_array(bits)).tolist() == expected


def test_brush_runs_decode_to_the_mask(rng):
    for density in (0.05, 0.5, 0.97):
        bits = rng.random((9, 13)) < density
        pixels = brush_pixels(brush_runs(Mask.from_array(bits)).tolist(), bits.shape)
        np.testing.assert_array_equal(pixels, np.repeat(255 * bits[..., None], 4, axis=2))


def test_brush_runs_longer_than_a_length_can_say_are_split():
    bits = np.zeros((200, 400), dtype=bool)
    bits[60:190] = True
    pixels = brush_pixels(brush_runs(Mask.from_array(bits)).tolist(), bits.shape)
    np.testing.assert_array_equal(pixels[..., 0] == 255, bits)
