import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwise import Mask
from maskwise.cli.region_options import RegionFlags
from maskwise.data.regions import Category, LabelledRegion, Regions, RegionSet, read_by_image
from maskwise.errors import AnnotationError, MaskError


def region(name, image="a.png"):
    return LabelledRegion(
        image_path=Path(image),
        image_id=image,
        region_id=name,
        name=name,
        stated_area=1.0,
        crowd=False,
        read_mask=lambda: Mask.from_box((0, 0, 1, 1), (1, 1)),
    )


PETS = RegionSet(
    (Category(5, "cat"), Category(2, "dog"), Category(9, "rock")),
    Regions.of([region("dog"), region("cat"), region("rock"), region("cat", "b.png")]),
)


def names(regions):
    return [category.name for category in regions.categories], [region.name for region in regions.regions]


def test_renaming_keeps_order_and_ids():
    renamed = PETS.renamed({"dog": "hound"})
    assert names(renamed) == (["cat", "hound", "rock"], ["hound", "cat", "rock", "cat"])
    assert renamed.categories[1] == Category(2, "hound")


def test_renaming_nothing_changes_nothing():
    assert names(PETS.renamed({})) == names(PETS)
    assert PETS.renamed({}).categories == PETS.categories


def test_two_classes_of_one_new_name_become_one_with_the_firsts_id():
    merged = PETS.renamed({"cat": "pet", "dog": "pet"})
    assert merged.categories == (Category(5, "pet"), Category(9, "rock"))
    assert names(merged)[1] == ["pet", "pet", "rock", "pet"]


def test_classes_may_swap_their_names():
    assert names(PETS.renamed({"cat": "dog", "dog": "cat"})) == (["dog", "cat", "rock"], ["cat", "dog", "rock", "dog"])


def test_leaving_classes_out_takes_their_regions_along():
    assert names(PETS.without(["cat"])) == (["dog", "rock"], ["dog", "rock"])


def test_refuses_names_that_are_no_class():
    with pytest.raises(AnnotationError, match=r"cannot rename class 'bird': the classes here are cat, dog, rock"):
        PETS.renamed({"bird": "cat"})
    with pytest.raises(AnnotationError, match="cannot ignore class 'bird'"):
        PETS.without(["bird"])


def test_each_image_is_read_once_in_order_of_first_mention(tmp_path):
    for name, grey in (("b.png", 10), ("a.png", 200)):
        Image.new("RGB", (1, 1), (grey,) * 3).save(tmp_path / name)
    regions = [region("x", str(tmp_path / name)) for name in ("b.png", "a.png", "b.png")]
    found = [(numbers, image[0, 0, 0], len(masks)) for numbers, image, masks in read_by_image(regions)]
    assert found == [([0, 2], 10, 2), ([1], 200, 1)]


def test_mask_of_another_size_is_refused_and_named():
    with pytest.raises(MaskError, match=r"annotation id dog of image a.png \(id a.png\): .*1 x 1"):
        region("dog").mask_of((2, 2))


# Columns.


def described(regions):
    return [(r.image_path, r.image_id, r.region_id, r.name, r.stated_area, r.crowd) for r in regions]


MIXED = [replace(region("dog"), crowd=True), replace(region("cat", "b.png"), stated_area=None), region("dog", "b.png")]


def test_columns_give_back_the_regions_they_were_made_of():
    regions = Regions.of(MIXED)
    assert described(regions) == described(MIXED)
    assert described([regions[-1]]) == described(MIXED[-1:])
    assert described(regions[1:]) == described(MIXED[1:])
    assert described(regions.only(np.array([2, 0]))) == described([MIXED[2], MIXED[0]])
    assert described(regions.only(regions.crowd)) == described(MIXED[:1])
    assert Regions.of(regions) is regions
    assert len(Regions.of([])) == 0
    with pytest.raises(IndexError):
        regions[3]


def test_joined_regions_follow_each_other_and_share_classes_and_images():
    parts = [Regions.of(MIXED[1:]), Regions.of([]), Regions.of(PETS.regions), Regions.of(MIXED)]
    joined = Regions.joined(parts)
    assert described(joined) == [line for part in parts for line in described(part)]
    assert sorted(joined.names) == ["cat", "dog", "rock"]
    assert len(joined.images) == 2
    assert described(Regions.joined([joined, joined])) == 2 * described(joined)
    assert all(r.read_mask().area == 1 for r in joined)


def test_area_that_is_not_stated_is_counted():
    regions = Regions.of([replace(region("dog"), stated_area=7.5), replace(region("dog"), stated_area=None)])
    assert regions.areas().tolist() == [region.area for region in regions] == [7.5, 1.0]


def test_classes_are_counted_and_found_by_name():
    regions = Regions.of(MIXED).renamed({"cat": "pet"})
    assert regions.counts() == {"dog": 2, "pet": 1}
    assert regions.only(regions.called(["pet"])).counts() == {"pet": 1}
    assert regions.numbered({"pet": 4}).tolist() == [-1, 4, -1]
    assert regions.renamed({"pet": "dog"}).counts() == {"dog": 3}


def test_regions_of_one_annotation_are_equal_whatever_their_images_in_memory():
    read = partial(Mask.from_box, (0, 0, 2, 2), (4, 6))
    one, other = (
        LabelledRegion(Path("a"), 1, 2, "cat", None, False, read, image=np.full((4, 6, 3), value, dtype=np.uint8))
        for value in (0, 9)
    )
    assert one == other


@pytest.mark.parametrize(("crowds", "read"), [((1, 1), (False, False)), ((0, 1), (False, True))])
def test_masks_are_single_objects_where_all_are_marked_as_crowds(tmp_path, crowds, read):
    """As CVAT exports brush masks; where only some are marked, they are crowds."""
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    boxes = [{"id": n, "image_id": 1, "category_id": 1, "bbox": [n, 1, 4, 5]} for n in range(2)]
    annotations = [{**box, "area": 20, "iscrowd": crowd} for box, crowd in zip(boxes, crowds, strict=True)]
    content = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps({**content, "annotations": annotations}))
    flags = RegionFlags(images=tmp_path, annotations=tmp_path / "a.json")
    assert tuple(flags.read().regions.crowd.tolist()) == read
