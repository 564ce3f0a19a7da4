"""Every format is read again by another tool, or as its documentation says, with names that break naive writers."""

import base64
import csv
import io
import json
import zlib
from urllib.parse import unquote
from xml.etree import ElementTree

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO

from maskwise import Mask
from maskwise.data.regions import Category
from maskwise.data.writers.formats import FORMATS, check_output_of, format_of, write_named
from maskwise.data.writers.records import NamedImage, NamedRegion, ScoredClass, WriteOptions
from maskwise.errors import InputError

CUP, DOG = 'cup, "small"\n\u2028<&>\'', "größer 🐕: {dog} #1"
ODD_FILE = 'a, "b"\n<ü> &.jpg'
CATEGORIES = (Category(47, CUP), Category(3, DOG), Category(0, "none of these"))
RING = np.zeros((8, 12), dtype=bool)
RING[1:7, 2:9], RING[3:5, 4:6], RING[2:4, 10:12] = True, False, True
"""A region with a hole and a second part."""
BAR = np.zeros((8, 12), dtype=bool)
BAR[0:3, 5:12] = True


def images():
    top = (ScoredClass(CUP, 47, 0.75), ScoredClass(DOG, 3, 0.25))
    ring = NamedRegion(
        annotation_id=11, mask=Mask.from_array(RING), category=CATEGORIES[0], score=0.75, top=top, known=0.9
    )
    bar = NamedRegion(
        annotation_id="b-2",
        mask=Mask.from_array(BAR),
        category=CATEGORIES[2],
        score=0.6,
        top=top[::-1],
        known=0.1,
        is_none=True,
    )
    unnamed = NamedRegion(annotation_id=13, mask=None, category=None)
    yield NamedImage(image_id=5, file_name=ODD_FILE, image_hw=(8, 12), regions=(ring, bar, unnamed))
    yield NamedImage(image_id=6, file_name="sub/empty.png", image_hw=(4, 4), regions=())


def written(tmp_path, name, form=None, **options):
    output = tmp_path / name
    chosen = format_of(output, form, polygons=options.get("polygons", False))
    check_output_of(chosen, output)
    write_named(chosen, images(), output, WriteOptions(categories=CATEGORIES, model="m", **options))
    return output


@pytest.mark.parametrize("polygons", [False, True])
def test_coco_is_read_by_pycocotools(tmp_path, polygons):
    content = json.loads(written(tmp_path, "o.json", polygons=polygons).read_text())
    assert [image["file_name"] for image in content["images"]] == [ODD_FILE, "sub/empty.png"]
    del content["annotations"][2]  # pycocotools wants a segmentation in each.
    assert isinstance(content["annotations"][0]["segmentation"], list) == polygons
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    np.testing.assert_array_equal(coco.annToMask(coco.anns[11]), RING)
    np.testing.assert_array_equal(coco.annToMask(coco.anns["b-2"]), BAR)
    assert coco.cats[coco.anns[11]["category_id"]]["name"] == CUP
    assert coco.anns["b-2"]["category_id"] == 0
    assert coco.anns[11]["top_scores"] == [0.75, 0.25]
    assert coco.anns[11]["bbox"] == [2, 1, 10, 6]


def test_csv_has_a_row_for_each_region(tmp_path):
    with open(written(tmp_path, "o.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [CUP, "none of these", ""]
    assert {row["file_name"] for row in rows} == {ODD_FILE}
    assert [row["is_none"] for row in rows] == ["false", "true", "false"]
    assert [rows[0][key] for key in ("x", "y", "width", "height", "area")] == ["2", "1", "10", "6", "42"]
    assert [rows[0][key] for key in ("score", "known", "category_id")] == ["0.75", "0.9", "47"]
    assert json.loads(rows[1]["top"]) == [[DOG, 0.25], [CUP, 0.75]]
    assert [rows[2][key] for key in ("x", "area", "score", "known", "category_id")] == [""] * 5


def test_json_lines_have_an_object_for_each_region(tmp_path):
    lines = [json.loads(line) for line in written(tmp_path, "o.jsonl").read_bytes().split(b"\n")[:-1]]
    assert [line["annotation_id"] for line in lines] == [11, "b-2", 13]
    assert lines[0]["name"] == CUP
    assert lines[0]["top"][1] == {"name": DOG, "category_id": 3, "score": 0.25}
    np.testing.assert_array_equal(rle_codec.decode(lines[0]["segmentation"]), RING)
    assert lines[2]["segmentation"] is None


def test_parquet_is_read_by_pyarrow(tmp_path):
    rows = pq.read_table(written(tmp_path, "o.parquet", polygons=True)).to_pylist()
    assert [row["annotation_id"] for row in rows] == ["11", "b-2", "13"]
    assert [row["name"] for row in rows] == [CUP, "none of these", None]
    assert rows[1]["top"][0] == {"name": DOG, "category_id": "3", "score": 0.25}
    runs = rle_codec.frPyObjects(json.loads(rows[0]["segmentation"]), 8, 12)
    np.testing.assert_array_equal(rle_codec.decode(rle_codec.merge(runs)), RING)


def test_cvat_masks_are_runs_along_the_rows_of_the_box(tmp_path):
    root = ElementTree.parse(written(tmp_path, "o.xml")).getroot()
    assert root.findtext("version") == "1.1"
    assert [label.findtext("name") for label in root.iter("label")] == [CUP, DOG, "none of these"]
    image, empty = root.findall("image")
    assert (image.get("name"), image.get("width"), image.get("height")) == (ODD_FILE, "12", "8")
    assert len(empty) == 0
    masks = image.findall("mask")
    assert [mask.get("label") for mask in masks] == [CUP, "none of these"]
    for mask, bits in zip(masks, (RING, BAR), strict=True):
        left, top, width, height = (int(mask.get(key)) for key in ("left", "top", "width", "height"))
        values = [value % 2 for value, count in enumerate(mask.get("rle").split(", ")) for _ in range(int(count))]
        full = np.zeros((8, 12))
        full[top : top + height, left : left + width] = np.array(values).reshape(height, width)
        np.testing.assert_array_equal(full, bits)
    assert masks[0].find("attribute").text == "0.75"
    assert masks[1].find("attribute").text == "0.9"  # One less the probability of being known.


def test_cvat_polygons_of_a_region_are_a_group(tmp_path):
    image = ElementTree.parse(written(tmp_path, "o.xml", polygons=True)).getroot().find("image")
    parts = image.findall("polygon")
    assert [part.get("group_id") for part in parts] == ["1", "1", None]
    flat = [[float(x) for pair in part.get("points").split(";") for x in pair.split(",")] for part in parts]
    drawn = rle_codec.decode(rle_codec.merge(rle_codec.frPyObjects(flat[:2], 8, 12)))
    np.testing.assert_array_equal(drawn, RING)


def test_characters_that_xml_cannot_hold_do_not_break_the_file(tmp_path):
    region = NamedRegion(annotation_id=1, mask=Mask.from_array(BAR), category=Category(1, "a\x00\x1bb\ud800"))
    image = NamedImage(image_id=1, file_name="\x07.jpg", image_hw=(8, 12), regions=(region,))
    options = WriteOptions(categories=(region.category,))
    write_named(FORMATS["cvat"], [image], tmp_path / "o.xml", options)
    assert ElementTree.parse(tmp_path / "o.xml").find("image/mask").get("label") == "a\ufffd\ufffdb\ufffd"


def test_label_studio_tasks(tmp_path):
    output = written(tmp_path, "t.json", "label-studio", image_url="http://host/p/")
    first, second = json.loads(output.read_text())
    assert unquote(first["data"]["image"]) == "http://host/p/" + ODD_FILE
    assert second == {
        "data": {"image": "http://host/p/sub/empty.png"},
        "predictions": [{"model_version": "m", "result": []}],
    }
    (prediction,) = first["predictions"]
    ring, bar = prediction["result"]
    assert ring["value"]["brushlabels"] == [CUP]
    assert (ring["type"], ring["from_name"], ring["to_name"]) == ("brushlabels", "label", "image")
    assert (ring["original_width"], ring["original_height"], ring["score"]) == (12, 8, 0.75)
    assert bar["score"] == 0.9
    assert prediction["score"] == pytest.approx(0.825)
    assert ring["meta"]["text"] == [f"{DOG} 25.0%"]
    config = ElementTree.parse(tmp_path / "t.json.config.xml")
    assert [label.get("value") for label in config.iter("Label")] == [CUP, DOG, "none of these"]
    assert config.find("BrushLabels").get("toName") == config.find("Image").get("name")


def test_label_studio_polygons_are_shares_in_percent(tmp_path):
    task = json.loads(written(tmp_path, "t.json", "label-studio", polygons=True).read_text())[0]
    results = task["predictions"][0]["result"]
    assert [one["id"] for one in results] == ["11", "11-1", "b-2"]
    flat = [(np.array(one["value"]["points"]) / 100 * (12, 8)).ravel().tolist() for one in results[:2]]
    np.testing.assert_array_equal(rle_codec.decode(rle_codec.merge(rle_codec.frPyObjects(flat, 8, 12))), RING)
    assert results[2]["value"]["polygonlabels"] == ["none of these"]
    assert ElementTree.parse(tmp_path / "t.json.config.xml").find("PolygonLabels") is not None


def test_yolo_folder(tmp_path):
    """A large ring, so that the half pixel by which OpenCV draws polygons wider does not matter."""
    bits = np.zeros((400, 600), dtype=np.uint8)
    cv2.circle(bits, (250, 200), 150, 1, -1)
    cv2.circle(bits, (250, 200), 80, 0, -1)
    bits[50:350, 500:580] = 1
    region = NamedRegion(annotation_id=1, mask=Mask.from_array(bits.astype(bool)), category=CATEGORIES[1])
    image = NamedImage(image_id=1, file_name="sub/x.y.jpg", image_hw=(400, 600), regions=(region,))
    options = WriteOptions(categories=CATEGORIES)
    write_named(FORMATS["yolo"], [image, *list(images())[1:]], tmp_path / "y", options)
    data = yaml.safe_load((tmp_path / "y" / "data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == {0: CUP, 1: DOG, 2: "none of these"}
    assert data["train"] == "images"
    assert (tmp_path / "y/labels/sub/empty.txt").read_text() == ""
    (line,) = (tmp_path / "y/labels/sub/x.y.txt").read_text().splitlines()
    number, *shares = line.split(" ")
    assert number == "1"
    points = np.array(list(map(float, shares))).reshape(-1, 2) * (600, 400)
    drawn = np.zeros_like(bits)
    cv2.fillPoly(drawn, [points.round().astype(np.int32)], 1)  # As Ultralytics draws it.
    assert (drawn & bits).sum() / (drawn | bits).sum() > 0.97


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", "C:\\a.jpg", ""])
def test_yolo_refuses_names_that_leave_the_folder(tmp_path, name):
    image = NamedImage(image_id=1, file_name=name, image_hw=(8, 12), regions=())
    with pytest.raises(InputError, match="leaves the folder of images"):
        write_named(FORMATS["yolo"], [image], tmp_path / "y", WriteOptions(categories=CATEGORIES))
    assert list(tmp_path.iterdir()) == []


def test_yolo_refuses_two_images_of_one_stem(tmp_path):
    two = [
        NamedImage(image_id=n, file_name=name, image_hw=None, regions=()) for n, name in enumerate(("a.jpg", "a.png"))
    ]
    with pytest.raises(InputError, match=r"a\.jpg and a\.png would share a\.txt"):
        write_named(FORMATS["yolo"], two, tmp_path / "y", WriteOptions(categories=CATEGORIES))


@pytest.mark.parametrize("name", ["yes", "1", "~", "a: b", "# c", "\x85\u2028\x7f\ufeff", "\\", '"', "tab\t", "🐕"])
def test_yaml_reads_every_name_back(tmp_path, name):
    options = WriteOptions(categories=(Category(1, name),))
    write_named(FORMATS["yolo"], [], tmp_path / "y", options)
    assert yaml.safe_load((tmp_path / "y" / "data.yaml").read_bytes())["names"] == {0: name}


def test_fiftyone_samples(tmp_path):
    """The form that fiftyone 1.22.1 read with `LegacyFiftyOneDatasetImporter`; its server cannot run in a test."""
    folder = written(tmp_path, "f", "fiftyone")
    first, second = json.loads((folder / "samples.json").read_text())["samples"]
    assert first["filepath"] == ODD_FILE
    assert second["maskwise"] == {"_cls": "Detections", "detections": []}
    ring, bar = first["maskwise"]["detections"]
    assert (ring["label"], ring["confidence"], ring["known"]) == (CUP, 0.75, 0.9)
    np.testing.assert_allclose(ring["bounding_box"], [2 / 12, 1 / 8, 10 / 12, 6 / 8])
    mask = np.load(io.BytesIO(zlib.decompress(base64.b64decode(ring["mask"]))))
    np.testing.assert_array_equal(mask, RING[1:7, 2:12])
    assert (bar["is_none"], bar["confidence"]) == (True, 0.9)
    assert "version" not in json.loads((folder / "metadata.json").read_text())


def test_an_unknown_suffix_is_refused_with_those_there_are(tmp_path):
    for name in ("o.txt", "o", "o.json.gz"):
        with pytest.raises(
            InputError, match=r"unknown suffix; accepted are \.json \(coco\), \.csv .*label-studio, yolo"
        ):
            format_of(tmp_path / name)
    assert format_of(tmp_path / "o.txt", "csv").name == "csv"
    assert format_of(tmp_path / "O.CSV").name == "csv"
    with pytest.raises(InputError, match=r"csv has no polygons; .* one of coco, jsonl, parquet, cvat, label-studio"):
        format_of(tmp_path / "o.csv", polygons=True)


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_nothing_half_written_is_left_behind(tmp_path, form):
    def broken():
        yield from images()
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_named(form, broken(), tmp_path / "o.x", WriteOptions(categories=CATEGORIES))
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".config.xml")] == []


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_no_image_at_all_is_a_file_too(tmp_path, form):
    write_named(form, [], tmp_path / "o.x", WriteOptions(categories=CATEGORIES))
    assert (tmp_path / "o.x").exists()


def test_a_folder_that_is_not_empty_is_not_replaced(tmp_path):
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "mine.txt").write_text("kept")
    for name in ("yolo", "fiftyone"):
        with pytest.raises(InputError, match="is a folder that is not empty; give the name of a new folder"):
            check_output_of(FORMATS[name], tmp_path / "y")
    assert (tmp_path / "y" / "mine.txt").read_text() == "kept"
