import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools import mask as rle_codec

from maskwise import Mask
from maskwise.data import images
from maskwise.errors import MaskError

bitmaps = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)).filter(np.any)
edges = st.integers(-15, 25)


@given(bitmaps)
def test_array_survives(bits):
    mask = Mask.from_array(bits)
    np.testing.assert_array_equal(mask.to_array(), bits)
    assert mask.area == bits.sum()


@given(bitmaps)
def test_box_is_tight(bits):
    x, y, w, h = Mask.from_array(bits).box_xywh
    rows, columns = np.nonzero(bits)
    assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@given(bitmaps)
def test_run_lengths_survive_compressed_or_not(bits):
    compressed = rle_codec.encode(np.asfortranarray(bits.astype(np.uint8)))
    flat = bits.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    plain = {"size": list(bits.shape), "counts": [0, *runs] if flat[0] else runs}
    for rle in (compressed, {**compressed, "counts": compressed["counts"].decode()}, plain):
        np.testing.assert_array_equal(Mask.from_rle(rle).to_array(), bits)


@given(bitmaps)
def test_runs_give_the_box_that_the_whole_image_gives(bits):
    mask = Mask.from_rle(rle_codec.encode(np.asfortranarray(bits.astype(np.uint8))))
    whole = Mask.from_array(bits)
    assert (mask.image_hw, mask.box_xywh) == (whole.image_hw, whole.box_xywh)
    np.testing.assert_array_equal(mask.bits, whole.bits)
    assert mask.bits.flags.c_contiguous


@given(st.integers(0, 2**32 - 1))
def test_long_runs_are_read_as_pycocotools_reads_them(seed):
    """Runs of many characters, some of no length, and differences that go down as well as up."""
    rng = np.random.default_rng(seed)
    bits = np.zeros((300, 500), dtype=np.uint8)
    for _ in range(rng.integers(1, 8)):
        y, x = rng.integers(0, 300), rng.integers(0, 500)
        bits[y : y + rng.integers(1, 300), x : x + rng.integers(1, 200)] ^= 1
    bits[rng.integers(0, 300), rng.integers(0, 500)] = 1
    rle = rle_codec.encode(np.asfortranarray(bits))
    np.testing.assert_array_equal(Mask.from_rle(rle).to_array(), bits)
    flat = bits.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    runs = [*([0] if flat[0] else []), *runs]
    place = rng.integers(0, len(runs))  # A run cut in two by one of no length.
    cut = rng.integers(0, runs[place] + 1)
    plain = {"size": [300, 500], "counts": [*runs[:place], int(cut), 0, runs[place] - int(cut), *runs[place + 1 :]]}
    np.testing.assert_array_equal(Mask.from_rle(plain).to_array(), bits)


polygons = st.lists(
    st.lists(st.floats(-20, 80, allow_nan=False), min_size=6, max_size=24).filter(lambda points: len(points) % 2 == 0),
    min_size=1,
    max_size=3,
)


@given(polygons)
def test_polygons_cover_what_pycocotools_says(polygons):
    parts = rle_codec.frPyObjects(polygons, 50, 60)
    expected = rle_codec.decode(rle_codec.merge(parts)).astype(bool)
    if expected.any():
        np.testing.assert_array_equal(Mask.from_polygons(polygons, (50, 60)).to_array(), expected)


def test_a_small_region_of_a_large_image_takes_little_memory():
    size = [30_000, 40_000]
    rle = {"size": size, "counts": [30_000 * 20_000 + 15_000, 50, 30_000 * 20_000 - 15_050]}
    square = [20_000, 15_000, 20_040, 15_000, 20_040, 15_040, 20_000, 15_040]
    tracemalloc.start()
    column, region = Mask.from_rle(rle), Mask.from_polygons([square], tuple(size))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (column.box_xywh, region.box_xywh) == ((20_000, 15_000, 1, 50), (20_000, 15_000, 40, 40))
    assert peak < 1e6


@given(bitmaps, edges, edges, st.integers(1, 20), st.integers(1, 20))
def test_crop_is_what_padding_then_slicing_gives(bits, x0, y0, width, height):
    padded = np.pad(bits, 50)
    expected = padded[50 + y0 : 50 + y0 + height, 50 + x0 : 50 + x0 + width]
    np.testing.assert_array_equal(Mask.from_array(bits).crop(x0, y0, x0 + width, y0 + height), expected)


@given(st.tuples(*[st.floats(-5, 15)] * 2, *[st.floats(0.01, 12)] * 2))
def test_box_covers_every_pixel_it_touches_and_no_other(box):
    x, y, w, h = box
    rows, columns = np.mgrid[:8, :9]
    touched = (columns < x + w) & (columns + 1 > x) & (rows < y + h) & (rows + 1 > y)
    if touched.any():
        np.testing.assert_array_equal(Mask.from_box(box, (8, 9)).to_array(), touched)
    else:
        with pytest.raises(MaskError, match="outside the image"):
            Mask.from_box(box, (8, 9))


def test_array_of_whole_numbers_is_set_at_the_larger_value():
    for dtype in (np.uint8, np.int64, np.uint16, np.int8):
        assert Mask.from_array(np.array([[0, 7], [0, 0]], dtype=dtype)).box_xywh == (1, 0, 1, 1)


def test_array_may_lie_anywhere_in_its_image():
    mask = Mask.from_array(np.ones((2, 3)), origin_xy=(4, 5), image_hw=(10, 10))
    assert mask.to_array()[5:7, 4:7].all()
    assert mask.area == mask.to_array().sum() == 6


def test_polygons_are_united():
    square = [1, 1, 4, 1, 4, 4, 1, 4]
    mask = Mask.from_polygons([square, [6, 1, 9, 1, 9, 4, 6, 4], square], (6, 10))
    np.testing.assert_array_equal(mask.to_array()[1:4], [[0, 1, 1, 1, 0, 0, 1, 1, 1, 0]] * 3)
    assert mask.area == 18


def test_polygon_too_thin_for_a_pixels_centre_is_not_lost():
    assert Mask.from_polygons([[2.1, 3.1, 5.2, 3.1, 5.2, 3.2]], (8, 8)).box_xywh == (2, 3, 4, 1)


def test_refuses_an_empty_mask():
    with pytest.raises(MaskError, match="the mask is empty"):
        Mask.from_array(np.zeros((4, 4)))
    with pytest.raises(MaskError, match="the mask is empty"):
        Mask.from_rle({"size": [4, 4], "counts": [16]})


def test_refuses_an_array_of_colours():
    with pytest.raises(MaskError, match=r"shape \(4, 4, 3\); accepted is height x width"):
        Mask.from_array(np.ones((4, 4, 3)))


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (0, 0, 5, -1), (0, 0, 5), (0, 0, float("nan"), 5)])
def test_refuses_a_malformed_box(box):
    with pytest.raises(MaskError, match="is not x, y, width, height"):
        Mask.from_box(box, (8, 8))


@pytest.mark.parametrize("polygons", [[[0, 0, 4, 4]], [[0, 0, 4, 0, 4, 4, 0]], [[0, 0, 4, 0, 4, float("nan")]]])
def test_refuses_a_malformed_polygon(polygons):
    with pytest.raises(MaskError, match="of at least three points"):
        Mask.from_polygons(polygons, (8, 8))


def test_refuses_no_polygon():
    with pytest.raises(MaskError, match="no polygon"):
        Mask.from_polygons([], (8, 8))


@pytest.mark.parametrize(
    ("rle", "text"),
    [
        ({"counts": [16]}, "needs 'size'"),
        ({"size": 4, "counts": [16]}, "needs 'size'"),
        ({"size": ["x", 4], "counts": [16]}, "needs 'size'"),
        ({"size": [4, 4], "counts": [3, 4]}, "the runs cover 7 pixels, the image of 4 x 4 has 16"),
        ({"size": [4, 4], "counts": [-1, 17]}, "run lengths"),
        ({"size": [4, 4], "counts": ["a"]}, "run lengths"),
        ({"size": [4, 4], "counts": 5}, "'counts' is int"),
        ({"size": [4, 4], "counts": "no runs"}, "malformed|cover"),
        ({"size": [4, 4], "counts": ""}, "the runs cover 0 pixels"),
        ({"size": [4, 4], "counts": "34"}, "the runs cover 7 pixels"),
        ({"size": [4, 4], "counts": "34999"}, "the runs cover"),
        ({"size": [4, 4], "counts": "34Q"}, "malformed"),
        ({"size": [4, 4], "counts": "3O"}, "shorter than nothing"),
        ({"size": [4, 4], "counts": "3é"}, "malformed"),
        ({"size": [4, 4], "counts": "oooooooooooo0"}, "malformed"),
        ({"size": [4, 4], "counts": [2**63 - 1, 2**63 - 1, 18]}, "the runs cover"),
        ({"size": [4, 4], "counts": [2**70]}, "run lengths"),
        ({"size": [4, 4], "counts": [[1], 15]}, "run lengths"),
        ({"size": [4, 4], "counts": [1.5, 14.5]}, "run lengths"),
    ],
)
def test_refuses_malformed_run_lengths(rle, text):
    with pytest.raises(MaskError, match=text):
        Mask.from_rle(rle)


def saved(folder, array, mode=None):
    Image.fromarray(array, mode).save(folder / "mask.png")
    return folder / "mask.png"


@pytest.mark.parametrize("value", [1, 255])
def test_grey_file_is_set_where_not_black(tmp_path, value):
    array = np.zeros((5, 6), np.uint8)
    array[2, 3] = value
    assert Mask.from_file(saved(tmp_path, array)).box_xywh == (3, 2, 1, 1)


def test_palette_file_is_set_by_its_indices(tmp_path):
    image = Image.new("P", (6, 5))
    image.putpalette([9, 9, 9, 0, 0, 0])  # Index 1 looks black and is set all the same.
    image.putpixel((3, 2), 1)
    image.save(tmp_path / "mask.png")
    assert Mask.from_file(tmp_path / "mask.png").box_xywh == (3, 2, 1, 1)


def test_file_with_transparency_is_set_where_opaque_and_not_black(tmp_path):
    array = np.zeros((5, 6, 4), np.uint8)
    array[2, 3], array[0, 0], array[1, 1] = (255, 0, 0, 255), (255, 255, 255, 0), (0, 0, 0, 255)
    assert Mask.from_file(saved(tmp_path, array)).box_xywh == (3, 2, 1, 1)


def test_black_cut_out_on_nothing_is_set_where_opaque(tmp_path):
    array = np.zeros((5, 6, 4), np.uint8)
    array[2, 3:5, 3] = 255
    assert Mask.from_file(saved(tmp_path, array)).box_xywh == (3, 2, 2, 1)


def test_refuses_a_file_without_a_set_pixel_by_its_name(tmp_path):
    with pytest.raises(MaskError, match=r"mask\.png: the mask is empty"):
        Mask.from_file(saved(tmp_path, np.zeros((5, 6), np.uint8)))


def test_refuses_files_that_are_no_masks(tmp_path, monkeypatch):
    with pytest.raises(MaskError, match=r"none\.png: no such mask file"):
        Mask.from_file(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(MaskError, match=r"text.png: is not an image"):
        Mask.from_file(tmp_path / "text.png")
    path = saved(tmp_path, np.ones((50, 60), np.uint8))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(MaskError, match=r"mask.png: .*cannot be read"):
        Mask.from_file(path)
    saved(tmp_path, np.ones((50, 60), np.uint8))
    monkeypatch.setattr(images, "MAX_PIXELS", 10)
    with pytest.raises(MaskError, match=r"mask.png: has too many pixels"):
        Mask.from_file(path)
