import json

import numpy as np
import pytest
from pycocotools import mask as rle_codec

from maskwise.data.atomic_files import write_json
from maskwise.data.coco_file import read_coco
from maskwise.data.coco_regions import regions_from_coco
from maskwise.data.regions import Category
from maskwise.errors import AnnotationError, MaskError
from two_objects import DISC, SQUARE


def changed(folder, change):
    """The tiny data set's file after a change of its content."""
    content = json.loads((folder / "annotations.json").read_text())
    change(content)
    write_json(folder / "changed.json", content)
    return folder / "changed.json"


def first_mask(folder, **fields):
    """The mask of the first annotation with some fields set anew (None: left out)."""

    def change(content):
        kept = {**content["annotations"][0], "segmentation": None, "bbox": None, **fields}
        content["annotations"][0] = {key: value for key, value in kept.items() if value is not None}

    coco = read_coco(changed(folder, change), labelled=False)
    return coco.mask(0, (48, 48))


def test_every_annotation_is_a_region_with_its_class_and_file(coco_folder):
    found = regions_from_coco(coco_folder / "annotations.json", coco_folder / "images")
    assert found.categories == (Category(**SQUARE), Category(**DISC))
    assert [region.region_id for region in found.regions] == list(range(100, 116))
    assert [region.name for region in found.regions] == ["square", "disc"] * 8
    assert {region.image_path for region in found.regions} == set((coco_folder / "images").iterdir())
    assert all(region.area == 256 and region.read_mask().area == 256 for region in found.regions)


def test_regions_of_an_image_stand_together(coco_folder):
    def change(content):
        content["annotations"].sort(key=lambda annotation: annotation["category_id"])

    found = regions_from_coco(changed(coco_folder, change), coco_folder / "images")
    paths = [region.image_path for region in found.regions]
    assert paths == sorted(paths)


def test_crowds_are_marked(coco_folder):
    path = changed(coco_folder, lambda content: content["annotations"][3].update(iscrowd=1))
    assert [r.region_id for r in regions_from_coco(path, coco_folder / "images").regions if r.crowd] == [103]


def test_area_is_what_the_file_says_else_counted(coco_folder):
    def change(content):
        content["annotations"][0]["area"] = 7.5
        del content["annotations"][1]["area"]

    first, second, *_ = regions_from_coco(changed(coco_folder, change), coco_folder / "images").regions
    assert (first.area, second.area) == (7.5, 256.0)


def test_size_comes_from_the_image_where_the_file_has_none(coco_folder):
    path = changed(coco_folder, lambda content: [image.pop("height") for image in content["images"]])
    assert regions_from_coco(path, coco_folder / "images").regions[0].read_mask().image_hw == (48, 48)


def test_mask_is_read_from_polygons_run_lengths_or_box(coco_folder):
    bits = np.zeros((48, 48), np.uint8)
    bits[5:9, 2:8] = 1
    compressed = rle_codec.encode(np.asfortranarray(bits))
    compressed["counts"] = compressed["counts"].decode()
    for fields in (
        {"segmentation": [[2, 5, 8, 5, 8, 9, 2, 9]]},
        {"segmentation": compressed},
        {"bbox": [2, 5, 6, 4]},
        {"bbox": [2, 5, 6, 4], "segmentation": []},
    ):
        np.testing.assert_array_equal(first_mask(coco_folder, **fields).to_array(), bits)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "has neither 'segmentation' nor 'bbox'"),
        ({"segmentation": [[1, 2, "x", 4, 5, 6]]}, "'segmentation' has 'x' where a number belongs"),
        ({"segmentation": "run"}, "'segmentation' has .*run.*accepted are polygons"),
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon of 4 numbers"),
        ({"segmentation": {"size": [9, 9], "counts": [0, 81]}}, "the mask is 9 x 9 pixels, the image 48 x 48"),
        ({"segmentation": {"counts": [81]}}, "needs 'size'"),
        ({"bbox": [1, 2, None, 4]}, r"'bbox' has .*None.*accepted is \[x, y, width, height\]"),
        ({"bbox": {"x": 1}}, "'bbox' has .*accepted is"),
        ({"bbox": [1, 2, 0, 4]}, "positive width and height"),
        ({"bbox": [99, 99, 5, 5]}, "outside the image"),
    ],
)
def test_refuses_a_malformed_mask_by_its_annotation(coco_folder, fields, text):
    with pytest.raises(MaskError, match=rf"changed\.json: annotation id 100.*{text}"):
        first_mask(coco_folder, **fields)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.pop("images"), "has no list 'images'"),
        (lambda c: c.pop("categories"), "has no list 'categories'"),
        (lambda c: c.update(annotations={}), "has no list 'annotations'"),
        (lambda c: c["annotations"][4].update(area="big"), r"annotations\[4\] is not of COCO's form \(.*area"),
        (lambda c: c["annotations"][4].pop("image_id"), r"annotations\[4\] has no 'image_id'"),
        (lambda c: c["annotations"].append("odd"), r"annotations\[16\] has no 'id'"),
        (lambda c: c["annotations"][4].update(id=100), "id 100 stands twice in 'annotations'"),
        (lambda c: c["images"][4].update(id=0), "id 0 stands twice in 'images'"),
        (lambda c: c["annotations"][4].update(image_id=77), "annotation id 104 is of image id 77, which is not among"),
        (
            lambda c: c["annotations"][4].update(category_id=1),
            "annotation id 104 has category_id 1, which is not among",
        ),
        (lambda c: c["annotations"][4].pop("category_id"), "annotation id 104 has category_id None"),
        (lambda c: c["images"][4].update(file_name="z.png"), r"image id 4 is z\.png, which is not in the folder"),
    ],
)
def test_refuses_a_file_of_another_form_by_its_record(coco_folder, change, text):
    with pytest.raises(AnnotationError, match=rf"changed\.json: {text}"):
        regions_from_coco(changed(coco_folder, change), coco_folder / "images")


def test_refuses_a_file_that_is_not_coco(tmp_path):
    for text, message in (("[1]", "is a JSON list"), ("{", r"is not JSON .*line 1"), (None, "no such annotation file")):
        if text is None:
            (tmp_path / "a.json").unlink()
        else:
            (tmp_path / "a.json").write_text(text)
        with pytest.raises(AnnotationError, match=rf"a\.json: {message}"):
            read_coco(tmp_path / "a.json", labelled=True)


def test_segments_need_no_categories(coco_folder):
    def change(content):
        del content["categories"]
        for annotation in content["annotations"]:
            del annotation["category_id"]

    assert read_coco(changed(coco_folder, change), labelled=False).categories == ()


def test_every_mask_of_the_real_data_is_readable(data_root):
    coco = data_root / "coco"
    found = regions_from_coco(coco / "annotations" / "instances_val2017.json", coco / "val2017")
    assert len(found.categories) == 80
    assert sum(not region.crowd for region in found.regions) == 1817
    for region in found.regions[::7]:
        assert region.read_mask().area > 0
