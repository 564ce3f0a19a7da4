import os
from io import BytesIO, StringIO

import cv2
import numpy as np
import pytest
from PIL import Image

from maskwise import load_image
from maskwise.data import images
from maskwise.data.images import check_pixels, image_size
from maskwise.errors import ImageError


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_pixels_come_as_rgb(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), pixels)


AS_STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", AS_STORED)
def test_image_is_upright_whatever_the_camera_stored(tmp_path, pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(AS_STORED[orientation](pixels))).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), pixels)
    assert image_size(tmp_path / "a.png") == (5, 7)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_image_of_any_mode_becomes_rgb(tmp_path, mode):
    Image.new(mode, (7, 5)).save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    assert load_image(next(tmp_path.iterdir())).shape == (5, 7, 3)


def test_grey_of_sixteen_bits_keeps_its_range(tmp_path):
    Image.fromarray(np.array([[0, 256, 32768, 65535]], np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png")[0, :, 0], [0, 1, 128, 255])


def test_size_is_read_without_the_pixels(tmp_path, pixels):
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels.repeat(40, 0).repeat(40, 1)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    assert image_size(path) == (200, 280)
    with pytest.raises(ImageError, match=r"a\.jpg: is damaged or cut short"):
        load_image(path)


@pytest.mark.parametrize("read", [load_image, image_size])
def test_refuses_files_that_are_no_images(tmp_path, read, monkeypatch):
    with pytest.raises(ImageError, match=r"none\.jpg: no such image file"):
        read(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match=r"is a folder|is not an image"):
        read(tmp_path)
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(ImageError, match=r"a\.jpg: is not an image that can be read"):
        read(tmp_path / "a.jpg")
    Image.new("L", (7, 5)).save(tmp_path / "large.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 10)
    with pytest.raises(ImageError, match=r"large\.png: has too many pixels"):
        read(tmp_path / "large.png")


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_refuses_an_array_that_is_no_image(array):
    with pytest.raises(ImageError, match=r"accepted is height x width x 3, uint8, RGB"):
        check_pixels(array)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0, 16, 4095]], [0, 1, 255]),  # 12 bits: 16 / 2**4
        ([[0, 64, 16383]], [0, 1, 255]),  # 14 bits: 64 / 2**6
        ([[0, 1, 255]], [0, 1, 255]),
    ],
)
def test_grey_of_a_camera_is_scaled_by_its_own_bits(tmp_path, values, expected):
    Image.fromarray(np.array(values, np.uint16)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(load_image(tmp_path / "a.tif")[0, :, 0], expected)


def test_colours_of_a_camera_are_scaled_by_their_own_bits(tmp_path):
    rgb = np.array([[[4095, 16, 0], [0, 32, 2048]]], dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1])
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), [[[255, 1, 0], [0, 2, 128]]])


def test_floats_from_0_to_1_are_scaled_and_others_refused(tmp_path):
    Image.fromarray(np.float32([[0, 0.5, 1]])).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(load_image(tmp_path / "a.tif")[0, :, 0], [0, 128, 255])
    Image.fromarray(np.float32([[0, 0.5, 37]])).save(tmp_path / "b.tif")
    with pytest.raises(ImageError, match=r"b\.tif: is of floats outside 0 to 1"):
        load_image(tmp_path / "b.tif")
    Image.fromarray(np.int32([[-5, 3]])).save(tmp_path / "c.tif")
    with pytest.raises(ImageError, match=r"c\.tif: has negative numbers \(down to -5\)"):
        load_image(tmp_path / "c.tif")


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_is_ignored(tmp_path, pixels, value):
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), pixels)
    assert image_size(tmp_path / "a.png") == (5, 7)


def test_refuses_formats_that_start_other_programs(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 48\n%%EndComments\n%%EOF\n")
    with pytest.raises(ImageError, match=r"a\.jpg: is not an image that can be read"):
        load_image(tmp_path / "a.jpg")


def test_refuses_what_is_no_plain_file_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    with pytest.raises(ImageError, match=r"fifo\.jpg: is a FIFO, not a plain file"):
        load_image(tmp_path / "fifo.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(ImageError, match=r"loop\.jpg: cannot be opened \(Too many levels of symbolic links\)"):
        load_image(tmp_path / "loop.jpg")
    with pytest.raises(ImageError, match="cannot be opened \\(File name too long\\)"):
        load_image(tmp_path / ("a" * 300))


def test_refuses_a_side_that_is_too_long(tmp_path):
    Image.new("1", (70_000, 1)).save(tmp_path / "row.png")
    with pytest.raises(ImageError, match=r"row\.png: has too many pixels \(70000 x 1;"):
        image_size(tmp_path / "row.png")


def test_a_photograph_of_many_pixels_is_read_without_a_warning(tmp_path):
    Image.new("L", (10_000, 9_000), 7).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").shape == (9_000, 10_000, 3)


def test_images_come_from_anywhere(tmp_path, pixels):
    path = tmp_path / "a b%.png"
    Image.fromarray(pixels).save(path)
    content = path.read_bytes()
    with open(path, "rb") as stream:
        sources = [path, str(path), path.as_uri(), content, bytearray(content), memoryview(content), stream]
        sources += [BytesIO(content), Image.open(BytesIO(content)), Image.fromarray(pixels), pixels]
        for source in sources:
            np.testing.assert_array_equal(load_image(source), pixels)


def test_images_of_pillow_and_of_bytes_are_upright(pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored, stream = Image.fromarray(np.ascontiguousarray(AS_STORED[6](pixels))), BytesIO()
    stored.save(stream, "PNG", exif=exif)
    np.testing.assert_array_equal(load_image(stream.getvalue()), pixels)
    np.testing.assert_array_equal(load_image(Image.open(stream)), pixels)


def test_wide_colours_of_bytes_are_scaled_as_those_of_files(tmp_path):
    wide = np.zeros((2, 3, 3), dtype=np.uint16)
    wide[0, 0], wide[1, 2] = (65535, 256, 0), (0, 0, 32768)
    cv2.imwrite(str(tmp_path / "wide.png"), wide[..., ::-1])
    array = load_image((tmp_path / "wide.png").read_bytes())
    np.testing.assert_array_equal(array, wide >> 8)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 200]], dtype=np.uint8), [[[0] * 3, [200] * 3]]),
        (np.array([[[7], [9]]], dtype=np.uint8), [[[7] * 3, [9] * 3]]),
        (np.array([[[1, 2, 3, 255]]], dtype=np.uint8), [[[1, 2, 3]]]),
        (np.array([[0.0, 0.5, 1.0]]), [[[0] * 3, [128] * 3, [255] * 3]]),
        (np.array([[[0, 4080, 1024]]], dtype=np.uint16), [[[0, 255, 64]]]),
    ],
)
def test_arrays_become_rgb(array, expected):
    assert load_image(array).tolist() == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "the image: is not an image"),
        (b"\x89PNG\r\n\x1a\nrest", "the image: is not an image|the image: is damaged"),
        ("https://example.com/a.png", r"https://example.com/a.png: is on another machine"),
        ("file:///no/such/a.png", "/no/such/a.png: no such image file"),
        (StringIO("text"), 'opened as text; open it with mode "rb"'),
        (np.zeros((4, 5, 2), dtype=np.uint8), r"the image has shape \(4, 5, 2\)"),
        (np.array([[np.nan]]), "floats outside 0 to 1"),
        (np.zeros((4, 5), dtype=bool), "type bool"),
        (Image.new("1", (70_000, 1)), "the image: has too many pixels"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(source, message):
    with pytest.raises(ImageError, match=message) as caught:
        load_image(source)
    assert "\n" not in str(caught.value)
