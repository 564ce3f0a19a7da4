"""`label` reads SAM's lists, SA-1B, results lists and folders of them, each with the right photograph."""

import json

import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise import Predictor, label_coco, read_coco
from maskwise.cli.main import run
from maskwise.data.segment_files import read_segments
from maskwise.errors import AnnotationError

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}
NAMES = {"red": "person", "green": "dog", "blue": "cup"}
"""What the colour model calls them."""


@pytest.fixture
def photos(tmp_path):
    """Photographs of one colour each, of different sizes: the name of a segment tells its photograph."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, (name, colour) in enumerate(COLOURS.items()):
        Image.new("RGB", (60 + number, 40), colour).save(folder / f"{name}.png")
    return folder


def sam_list(width, boxes=((5, 6, 20, 10),)):
    """What SAM's mask generator gives with output mode coco_rle, as uncompressed run lengths."""
    records = []
    for x, y, w, h in boxes:
        bits = np.zeros((40, width), dtype=bool)
        bits[y : y + h, x : x + w] = True
        flat = bits.T.ravel()
        ends = np.flatnonzero(np.diff(flat, prepend=False, append=False)).tolist()
        counts = np.diff([0, *ends, flat.size] if ends[-1] != flat.size else [0, *ends]).tolist()
        records.append({"segmentation": {"size": [40, width], "counts": counts}, "predicted_iou": 0.9})
    return records


def labelled(segments, images, tmp_path, **more):
    label_coco(segments, images, tmp_path / "o.json", Predictor(colour_model(tmp_path)), **more)
    return json.loads((tmp_path / "o.json").read_text())


def names_of(content):
    categories = {category["id"]: category["name"] for category in content["categories"]}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    return [(files[a["image_id"]], categories[a["category_id"]]) for a in content["annotations"]]


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_a_list_of_sam_is_of_the_photograph_of_its_name(photos, tmp_path):
    segments = write(tmp_path / "green_masks.json", sam_list(61, [(5, 6, 20, 10), (1, 2, 3, 4)]))
    content = labelled(segments, photos, tmp_path)
    assert names_of(content) == [("green.png", "dog")] * 2
    first = content["annotations"][0]
    assert (first["id"], first["bbox"], first["area"], first["iscrowd"]) == (1, [5, 6, 20, 10], 200, 0)
    assert first["predicted_iou"] == 0.9
    assert content["images"] == [{"id": "green.png", "file_name": "green.png", "width": 61, "height": 40}]
    again = read_coco(tmp_path / "o.json", labelled=True)
    assert again.mask(1, (40, 61)).box_xywh == (1, 2, 3, 4)


def test_a_list_of_sam_may_be_of_the_one_photograph_that_is_given(photos, tmp_path):
    segments = write(tmp_path / "whatever.json", sam_list(62))
    assert names_of(labelled(segments, photos / "blue.png", tmp_path)) == [("blue.png", "cup")]
    with pytest.raises(AnnotationError, match=r"whatever\.json.*has no image whatever"):
        read_segments(segments, photos)


def test_a_folder_of_lists_is_one_file_with_an_image_each(photos, tmp_path):
    folder = tmp_path / "segments"
    folder.mkdir()
    write(folder / "blue.json", sam_list(62))
    write(folder / "red.json", sam_list(60, [(1, 1, 9, 9), (20, 20, 9, 9)]))
    sa_1b = {"image": {"image_id": 77, "file_name": "green.png", "width": 61, "height": 40}}
    write(folder / "sa_77.json", {**sa_1b, "annotations": [{"id": 1, **sam_list(61)[0]}]})
    content = labelled(folder, photos, tmp_path)
    assert names_of(content) == [("blue.png", "cup"), *[("red.png", "person")] * 2, ("green.png", "dog")]
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3, 4]


def test_a_bad_file_of_a_folder_costs_only_itself(photos, tmp_path):
    folder = tmp_path / "segments"
    folder.mkdir()
    write(folder / "blue.json", sam_list(62))
    write(folder / "pink.json", sam_list(60))
    (folder / "red.json").write_text("[{")
    content = labelled(folder, photos, tmp_path)
    assert names_of(content) == [("blue.png", "cup")]
    problems = json.loads((tmp_path / "o.json.problems.json").read_text())["problems"]
    assert [problem["image_id"] for problem in problems] == ["pink", "red"]
    with pytest.raises(AnnotationError, match="2 problems"):
        read_segments(folder, photos)


RESULTS = [
    {"image_id": 3, "category_id": 1, "bbox": [5, 6, 20, 10], "score": 0.4},
    {"image_id": 1, "category_id": 9, "bbox": [5, 6, 20, 10], "score": 0.9},
    {"image_id": 3, "category_id": 2, "bbox": [1, 2, 8, 9], "score": 0.8},
]


def test_a_results_list_gets_its_images_from_another_file(photos, tmp_path):
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(COLOURS, start=1)]
    truth = write(tmp_path / "truth.json", {"images": images, "annotations": [], "categories": []})
    segments = write(tmp_path / "results.json", RESULTS)
    content = labelled(segments, photos, tmp_path, images_of=truth)
    assert names_of(content) == [("blue.png", "cup"), ("red.png", "person"), ("blue.png", "cup")]
    assert [a["area"] for a in content["annotations"]] == [200, 200, 72]
    assert [image["id"] for image in content["images"]] == [1, 3]
    with pytest.raises(AnnotationError, match=r"image_id 3 names no file in .*--images-of"):
        read_segments(segments, photos)


def test_an_image_that_the_other_file_lacks_costs_its_records(photos, tmp_path):
    images = [{"id": 1, "file_name": "red.png", "height": 40, "width": 60}]
    truth = write(tmp_path / "truth.json", {"images": images, "annotations": [], "categories": []})
    content = labelled(write(tmp_path / "results.json", RESULTS), photos, tmp_path, images_of=truth)
    assert [("score" in a, a["image_id"]) for a in content["annotations"]][1] == (True, 1)
    problems = json.loads((tmp_path / "o.json.problems.json").read_text())["problems"]
    assert len(problems) == 2


def test_image_ids_may_be_file_names_or_cocos_numbers(photos, tmp_path):
    (photos / "red.png").rename(photos / "000000000001.png")
    records = [{**RESULTS[0], "image_id": value} for value in ("blue.png", "green", 1)]
    content = labelled(write(tmp_path / "results.json", records), photos, tmp_path)
    assert names_of(content) == [("blue.png", "cup"), ("green.png", "dog"), ("000000000001.png", "person")]


def test_the_command_takes_them_all(photos, tmp_path, capsys):
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(COLOURS, start=1)]
    truth = write(tmp_path / "truth.json", {"images": images, "annotations": [], "categories": []})
    segments = write(tmp_path / "results.json", RESULTS)
    model = colour_model(tmp_path)
    flags = ["label", photos, segments, "-o", tmp_path / "o.json", "--model", model, "--images-of", truth]
    assert run(list(map(str, flags))) == 0
    assert "3 annotations, 3 named in this run" in capsys.readouterr().out


def test_a_whole_coco_file_in_a_folder_is_refused(photos, tmp_path):
    folder = tmp_path / "segments"
    folder.mkdir()
    write(folder / "all.json", {"images": [], "annotations": []})
    with pytest.raises(AnnotationError, match="is a whole COCO file; give it alone"):
        read_segments(folder, photos)
    (folder / "all.json").unlink()
    with pytest.raises(AnnotationError, match="has no JSON file of segments"):
        read_segments(folder, photos)


def test_a_list_of_several_images_is_not_laid_on_one_photograph(photos, tmp_path):
    segments = write(tmp_path / "results.json", RESULTS)
    with pytest.raises(AnnotationError, match=r"segments of several images \(image_id 1, 3\)"):
        read_segments(segments, photos / "red.png")
