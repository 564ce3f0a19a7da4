import numpy as np
import pytest
from PIL import Image

from maskwise.data.label_maps import read_class_names, read_label_map, regions_from_label_maps
from maskwise.data.regions import Category
from maskwise.errors import AnnotationError

LABELS = np.array(
    [
        [0, 1, 1, 0, 0, 255],
        [0, 0, 0, 1, 0, 255],
        [2, 0, 0, 0, 0, 0],
        [2, 0, 1, 0, 0, 9],
    ],
    np.uint8,
)


@pytest.fixture
def folder(tmp_path):
    for name in ("labels", "images"):
        (tmp_path / name).mkdir()
    Image.fromarray(LABELS).save(tmp_path / "labels" / "a.png")
    Image.new("RGB", LABELS.shape[::-1]).save(tmp_path / "images" / "a.jpg")
    (tmp_path / "classes.txt").write_text("background\nglass\nwater\n")
    return tmp_path


def regions(folder, **more):
    return regions_from_label_maps(folder / "labels", folder / "images", folder / "classes.txt", **more)


def test_every_component_of_a_class_is_a_region_corners_joined(folder):
    found = regions(folder)
    assert found.categories == (Category(0, "background"), Category(1, "glass"), Category(2, "water"))
    glass = [region for region in found.regions if region.name == "glass"]
    np.testing.assert_array_equal(np.argwhere(glass[0].read_mask().to_array()), [[0, 1], [0, 2], [1, 3]])
    np.testing.assert_array_equal(np.argwhere(glass[1].read_mask().to_array()), [[3, 2]])
    assert [region.area for region in glass] == [3, 1]
    assert glass[0].image_path == folder / "images" / "a.jpg"


def test_regions_are_apart_and_cover_all_but_the_void(folder, rng):
    labels = rng.integers(0, 5, (120, 90)).astype(np.uint8)
    Image.fromarray(labels).save(folder / "labels" / "b.png")
    Image.new("RGB", (90, 120)).save(folder / "images" / "b.jpg")
    covered = np.zeros(labels.shape, int)
    for region in regions(folder).regions:
        if region.image_id == "b":
            bits = region.read_mask().to_array()
            covered += bits
            assert region.area == bits.sum()
            assert set(labels[bits]) == {["background", "glass", "water"].index(region.name)}
    np.testing.assert_array_equal(covered, labels < 3)


def test_small_components_are_left_out(folder):
    assert [region.area for region in regions(folder, min_area=3).regions if region.name != "background"] == [3]


def test_ids_of_regions_differ(folder):
    ids = [region.region_id for region in regions(folder).regions]
    assert len(set(ids)) == len(ids)


def test_palette_indices_are_values(folder):
    image = Image.fromarray(LABELS)
    image.putpalette([n % 256 for n in range(7, 775)])
    image.save(folder / "labels" / "a.png")
    np.testing.assert_array_equal(read_label_map(folder / "labels" / "a.png"), LABELS)


def test_a_class_left_out_takes_its_regions_along(folder):
    """The form of the materials work: value 0 is nothing, and the list names it."""
    found = regions(folder).without(("background",))
    assert found.categories == (Category(1, "glass"), Category(2, "water"))
    assert [(region.name, region.area) for region in found.regions] == [("glass", 3), ("glass", 1), ("water", 2)]


@pytest.mark.parametrize(
    ("label", "image"), [("a.png", "a.JPG"), ("a.PNG", "a.jpeg"), ("a.png", "a.tiff"), ("a.b.png", "a.b.webp")]
)
def test_image_of_a_map_may_end_otherwise(folder, label, image):
    for old in ("labels/a.png", "images/a.jpg"):
        (folder / old).unlink()
    Image.fromarray(LABELS).save(folder / "labels" / label)
    Image.new("RGB", LABELS.shape[::-1]).save(folder / "images" / image)
    Image.new("RGB", (9, 9)).save(folder / "images" / "other.jpg")  # An image without a map is none of the set.
    found = regions(folder).regions
    assert {region.image_path.name for region in found} == {image}
    assert found[0].read_mask().to_array().sum() == found[0].area


def test_maps_may_lie_beside_their_images(folder):
    (folder / "labels" / "a.png").rename(folder / "images" / "a.png")
    (folder / "images" / "._a.png").write_bytes(b"what macOS leaves")
    found = regions_from_label_maps(folder / "images", folder / "images", folder / "classes.txt")
    assert {region.image_path.name for region in found.regions} == {"a.jpg"}


def test_refuses_two_images_of_one_name(folder):
    Image.new("RGB", LABELS.shape[::-1]).save(folder / "images" / "a.PNG")
    with pytest.raises(AnnotationError, match=r"a\.png: could be of a\.PNG and a\.jpg in .*images; leave one"):
        regions(folder)


def test_refuses_a_map_of_another_size_than_its_image(folder):
    Image.new("RGB", (12, 8)).save(folder / "images" / "a.jpg")
    with pytest.raises(AnnotationError, match=r"a\.png: is 6 x 4 pixels, its image a\.jpg 12 x 8 \(width x height\)"):
        regions(folder)


def test_image_that_cannot_be_read_is_left_to_who_reads_it(folder):
    (folder / "images" / "a.jpg").write_text("hello")
    assert len(regions(folder).regions) == 4


def test_refuses_a_folder_that_is_not_there(folder):
    (folder / "images" / "a.jpg").unlink()
    (folder / "images").rmdir()
    with pytest.raises(AnnotationError, match=r"images: there is no such folder"):
        regions(folder)


def test_byte_order_mark_is_no_part_of_a_name(folder):
    (folder / "classes.txt").write_text("background\nglass\nwater\n", encoding="utf-8-sig")
    assert regions(folder).without(("background",)).categories[0].name == "glass"


def test_refuses_a_label_map_of_colours(folder):
    Image.new("RGB", (6, 4)).save(folder / "labels" / "a.png")
    with pytest.raises(
        AnnotationError, match=r"a\.png: a label map has one whole number per pixel, this has shape \(4, 6, 3\)"
    ):
        regions(folder)


def test_refuses_a_label_map_that_is_no_image(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(AnnotationError, match=r"a\.png: has too many pixels"):
        regions(folder)
    (folder / "labels" / "a.png").write_text("hello")
    with pytest.raises(AnnotationError, match=r"a\.png: the label map cannot be read"):
        regions(folder)


def test_refuses_a_label_map_without_an_image(folder):
    (folder / "images" / "a.jpg").unlink()
    with pytest.raises(AnnotationError, match=r"a\.png: the folder .* has no image a \(\.jpg, "):
        regions(folder)


def test_refuses_a_folder_without_label_maps(folder):
    with pytest.raises(AnnotationError, match=r"images: has no label map \(\*\.png, \*\.tif, \*\.tiff\)"):
        regions_from_label_maps(folder / "images", folder / "images", folder / "classes.txt")


@pytest.mark.parametrize("text", ["", "a\n\nb\n", "a\nb\na\n"])
def test_refuses_a_list_of_classes_with_gaps_or_repeats(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(AnnotationError, match=r"classes\.txt: must name each class once, one a line"):
        read_class_names(tmp_path / "classes.txt")


def test_refuses_a_missing_list_of_classes(tmp_path):
    with pytest.raises(AnnotationError, match=r"none\.txt: the list of classes cannot be read"):
        read_class_names(tmp_path / "none.txt")
