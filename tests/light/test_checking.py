"""`maskwise check`: every fault with its id, and what is in a file, counted by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from maskwise.cli.main import run
from maskwise.tasks.checking import check_label_maps, check_segments


@pytest.fixture
def content():
    """Three images; five annotations in four forms; two classes, one unused."""
    square = [[2, 2, 12, 2, 12, 12, 2, 12]]
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 60, "width": 80},
            {"id": 2, "file_name": "b.png", "height": 60, "width": 80},
            {"id": 3, "file_name": "c.png"},
        ],
        "categories": [{"id": 5, "name": "cup"}, {"id": 6, "name": "cat"}],
        "annotations": [
            {"id": 11, "image_id": 1, "category_id": 5, "segmentation": square},
            {"id": 12, "image_id": 1, "category_id": 5, "bbox": [0, 0, 40, 50], "iscrowd": 1},
            {"id": 13, "image_id": 1, "segmentation": {"size": [60, 80], "counts": [600, 300, 3900]}},
            {"id": 14, "image_id": 2, "category_id": 5, "segmentation": [], "bbox": [0, 0, 5, 5]},
            {"id": 15, "image_id": 2, "category_id": 5, "segmentation": square},
        ],
    }


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "abc":
        Image.new("RGB", (80, 60)).save(folder / f"{name}.png")
    return folder


def write(tmp_path, content):
    (tmp_path / "s.json").write_text(json.dumps(content))
    return tmp_path / "s.json"


@pytest.mark.parametrize("with_images", [True, False])
def test_what_is_in_a_file_is_counted(content, photos, tmp_path, with_images):
    check = check_segments(write(tmp_path, content), photos if with_images else None)
    assert check.problems == ()
    assert check.contents == {
        "images": 3,
        "images without annotations": 1,
        "annotations": 5,
        "most annotations of an image": 3,
        "classes": 2,
        "classes with annotations": 1,
        "annotations without a class": 1,
        "crowds": 1,
        "masks as box only": 2,
        "masks as polygons": 2,
        "masks as run lengths": 1,
        "small regions": 4,
        "medium regions": 1,
        "large regions": 0,
    }


def test_every_fault_is_listed_with_its_ids(content, photos, tmp_path):
    content["annotations"][0]["category_id"] = 77
    content["annotations"][2]["segmentation"]["size"] = [50, 80]
    content["annotations"][4]["segmentation"] = [[200, 200, 210, 200, 210, 210]]
    content["annotations"].append({"image_id": 1})
    content["annotations"].append({"id": 17, "image_id": 99, "bbox": [1, 1, 2, 2]})
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:-30])
    content["annotations"].append({"id": 18, "image_id": 3, "bbox": [70, 50, 30, 30], "category_id": 6})
    (photos / "c.png").unlink()
    check = check_segments(write(tmp_path, content), photos)
    faults = [(problem.image_id, problem.annotation_id) for problem in check.problems]
    assert sorted(faults, key=str) == sorted([(None, None), (99, 17), (1, 11), (1, 13), (2, None), (3, None)], key=str)
    messages = " ".join(problem.message for problem in check.problems)
    for text in ("annotations[5] has no 'id'", "category_id 77", "80 x 50 pixels", "b.png", "c.png"):
        assert text in messages


def test_without_images_masks_are_checked_by_the_stated_sizes(content, tmp_path):
    """The image without a stated size is left alone."""
    content["annotations"][4]["segmentation"] = [[200, 200, 210, 200, 210, 210]]
    content["annotations"].append({"id": 18, "image_id": 3, "bbox": [700, 500, 30, 30], "category_id": 6})
    check = check_segments(write(tmp_path, content))
    assert [problem.annotation_id for problem in check.problems] == [15]


def test_a_file_without_categories_has_unnamed_annotations_and_no_fault(content, tmp_path):
    del content["categories"]
    check = check_segments(write(tmp_path, content))
    assert check.problems == ()
    assert check.contents["annotations without a class"] == 5


def test_label_maps_are_checked_with_their_images(tmp_path):
    for name in ("images", "maps"):
        (tmp_path / name).mkdir()
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    for number in range(4):
        labels = np.zeros((40, 50), dtype=np.uint8)
        labels[:, 10:] = 1
        labels[3, 3] = 9
        Image.fromarray(labels).save(tmp_path / "maps" / f"{number}.png")
        Image.new("RGB", (50, 40)).save(tmp_path / "images" / f"{number}.jpg")
    (tmp_path / "images" / "2.jpg").unlink()
    broken = tmp_path / "images" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:-100])
    check = check_label_maps(tmp_path / "maps", tmp_path / "images", tmp_path / "classes.txt")
    assert check.contents["label maps"] == 4
    assert check.contents["components"] == 6
    assert check.contents["classes with components"] == 2
    assert (check.contents["small regions"], check.contents["medium regions"]) == (3, 3)
    messages = [problem.message for problem in check.problems]
    assert len(messages) == 3
    assert "has no image 2" in messages[0]
    assert "pixel values 9 (0.1% of all pixels) have no line" in messages[1]
    assert "3.jpg" in messages[2]


def test_the_command_prints_and_exits_by_what_it_finds(content, photos, tmp_path, capsys):
    good = write(tmp_path, content)
    assert run(["check", str(good), str(photos)]) == 0
    output = capsys.readouterr().out
    assert "no fault" in output
    assert "annotations                           5" in output
    content["annotations"][0]["category_id"] = 77
    bad = write(tmp_path, content)
    assert run(["check", str(bad), "--json", str(tmp_path / "f.json")]) == 1
    assert "1 fault:" in capsys.readouterr().out
    record = json.loads((tmp_path / "f.json").read_text())
    assert record["problems"][0]["annotation_id"] == 11
    assert record["contents"]["annotations"] == 5
    assert run(["check", str(tmp_path / "none.json")]) == 1
    with pytest.raises(SystemExit) as stopped:
        run(["check", str(tmp_path), "--classes", "c.txt"])
    assert stopped.value.code == 2
