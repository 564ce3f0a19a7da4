import numpy as np
import pytest
from PIL import Image

from maskwise import load_image
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
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match=r"large\.png: has too many pixels"):
        read(tmp_path / "large.png")


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_refuses_an_array_that_is_no_image(array):
    with pytest.raises(ImageError, match=r"accepted is height x width x 3, uint8, RGB"):
        check_pixels(array)
