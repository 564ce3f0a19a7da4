"""`--classes`, `--keep` and the format of an output, from the command line and from Python."""

import csv
import json
import pickle
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from colour_model import STRENGTH, TEMPERATURE, colour_model
from maskwise import Predictor, label_coco, list_models
from maskwise.cli import main
from maskwise.cli.options import class_list
from maskwise.errors import InputError, ModelError
from maskwise.model.model_folder import find_model, models_folder
from maskwise.tasks.listing import ModelRecord

COLOURS = np.array([[200, 40, 10], [30, 60, 180]], dtype=np.uint8)
"""Of the left and the right half of the photograph: most like a person (red), and a cup (blue)."""


def softmax(logits):
    shares = np.exp(logits - np.max(logits))
    return shares / shares.sum()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Says "none of these" where there is little red."""
    return colour_model(tmp_path_factory.mktemp("model"), known=(40, 0, 0, -8))


@pytest.fixture
def photo(tmp_path):
    pixels = np.repeat(COLOURS[None], 80, axis=0).repeat(80, axis=1)
    Image.fromarray(pixels).save(tmp_path / "a, ü.png")
    return tmp_path / "a, ü.png"


@pytest.fixture
def segments(photo):
    """Three boxes: one in the left half, two in the right; the second has a name, the third an unknown one."""
    boxes = ([10, 10, 50, 50], [90, 10, 40, 60], [100, 5, 30, 30])
    named = ({}, {"category_id": 4, "note": "mine"}, {"category_id": 99})
    annotations = [
        {"id": 31 + n, "image_id": 8, "bbox": box, **more}
        for n, (box, more) in enumerate(zip(boxes, named, strict=True))
    ]
    images = [{"id": 8, "file_name": photo.name, "width": 160, "height": 80}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 4, "name": "mug"}]}
    path = photo.parent / "segments.json"
    path.write_text(json.dumps(content))
    return path


def boxes_of(photo):
    image = np.asarray(Image.open(photo))
    masks = np.zeros((2, 80, 160), dtype=bool)
    masks[0, 10:60, 10:60], masks[1, 10:70, 90:130] = True, True
    return image, masks


def test_probabilities_are_renormalised_among_the_chosen_classes(photo, model):
    image, masks = boxes_of(photo)
    everything = Predictor(model).predict(image, masks)
    chosen = Predictor(model).predict(image, masks, classes=["cup", "dog"])
    for colour, one, whole in zip(COLOURS / 255, chosen, everything, strict=True):
        assert {name.name for name in one.names} == {"cup", "dog"}
        expected = softmax(STRENGTH * colour[1:] / TEMPERATURE)  # Dog is green, cup is blue.
        by_name = {name.name: name.probability for name in one.names}
        np.testing.assert_allclose([by_name["dog"], by_name["cup"]], expected, atol=0.01)
        assert sum(by_name.values()) == pytest.approx(1)
        assert (one.known, one.is_none) == (whole.known, whole.is_none)
    assert [one.name for one in everything] == ["person", "cup"]
    assert [one.is_none for one in chosen] == [False, True]


def test_a_predictor_may_be_opened_with_classes(photo, model):
    image, masks = boxes_of(photo)
    predictor = Predictor(model, classes=("cup", "dog"))
    assert [one.name for one in predictor.predict(image, masks)] == ["dog", "cup"]
    assert [one.name for one in pickle.loads(pickle.dumps(predictor)).predict(image, masks)] == ["dog", "cup"]
    assert [one.name for one in predictor.predict(image, masks, classes=["person"])] == ["person", "person"]
    np.testing.assert_array_equal(predictor.probabilities(image, masks)[:, 0], 0)
    assert predictor.classes == ("person", "dog", "cup")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["person", "cups"], "class 'cups' is none of the model's 3; the nearest are cup"),
        (["DOG"], "class 'DOG' is none of the model's 3; the nearest are dog"),
        (["zzz"], "class 'zzz' is none of the model's 3; it knows person, dog, cup"),
        ([], "classes is empty; give at least one name"),
    ],
)
def test_unknown_classes_are_refused_with_the_nearest(model, names, message):
    with pytest.raises(InputError, match=message):
        Predictor(model, classes=names)


def test_class_names_with_commas_stand_in_quotes():
    assert class_list('person, "salt, pepper" ,car') == ["person", "salt, pepper", "car"]
    assert class_list("") == []
    assert class_list(None) is None


def test_label_restricts_and_lists_only_the_chosen_classes(segments, model):
    output = segments.parent / "o.json"
    label_coco(segments, segments.parent, output, Predictor(model, classes=["dog", "cup"]), top=5, none="keep")
    content = json.loads(output.read_text())
    assert [category["name"] for category in content["categories"]] == ["mug", "dog", "cup"]
    assert content["annotations"][0]["category_id"] == 18
    assert content["annotations"][0]["top_category_ids"] == [18, 47]
    assert sum(content["annotations"][1]["top_scores"]) == pytest.approx(1, abs=1e-5)
    assert content["annotations"][1]["top_category_ids"] == [47, 18]


def test_results_of_other_classes_do_not_count(segments, model, monkeypatch):
    """A journal of a run with all classes, kept as a kill leaves it."""
    from maskwise.tasks.journal import Journal

    output = segments.parent / "o.json"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "delete", lambda self: None)
        label_coco(segments, segments.parent, output, Predictor(model))
    kept = (segments.parent / "o.json.partial").read_bytes()
    assert label_coco(segments, segments.parent, output, Predictor(model, classes=["cup"])).named_now == 3
    (segments.parent / "o.json.partial").write_bytes(kept)
    assert label_coco(segments, segments.parent, output, Predictor(model)).named_now == 0


def test_keep_names_only_what_has_no_name(segments, model):
    before = json.loads(segments.read_text())
    output = segments.parent / "o.json"
    done = label_coco(segments, segments.parent, output, Predictor(model), keep=True)
    after = json.loads(output.read_text())
    assert (done.annotations, done.kept, done.named) == (3, 1, 2)
    assert after["annotations"][1] == before["annotations"][1]
    names = {category["id"]: category["name"] for category in after["categories"]}
    assert [names[one["category_id"]] for one in after["annotations"]] == ["person", "mug", "none of these"]


def test_kept_names_are_in_other_formats_too(segments, model):
    output = segments.parent / "o.csv"
    label_coco(segments, segments.parent, output, Predictor(model), keep=True)
    with open(output, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["person", "mug", "none of these"]
    assert [row["annotation_id"] for row in rows] == ["31", "32", "33"]
    assert (rows[1]["score"], rows[1]["top"], rows[1]["x"]) == ("", "[]", "90")
    assert {row["file_name"] for row in rows} == {"a, ü.png"}
    assert not (segments.parent / "o.csv.partial").exists()


@pytest.mark.parametrize(("none", "names"), [("keep", ["person", "", ""]), ("drop", ["person"])])
def test_none_of_these_in_other_formats(segments, model, none, names):
    output = segments.parent / "o.csv"
    label_coco(segments, segments.parent, output, Predictor(model), none=none)
    with open(output, newline="", encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == names


def test_label_writes_polygons_of_boxes_and_kept_annotations(segments, model):
    output = segments.parent / "o.json"
    label_coco(segments, segments.parent, output, Predictor(model), keep=True, polygons=True)
    outlines = [one["segmentation"] for one in json.loads(output.read_text())["annotations"]]
    assert [sorted(zip(one[0][::2], one[0][1::2], strict=True)) for one in outlines][:2] == [
        [(10, 10), (10, 60), (60, 10), (60, 60)],
        [(90, 10), (90, 70), (130, 10), (130, 70)],
    ]


def test_commands_choose_format_and_classes(photo, segments, model, capsys):
    folder = photo.parent
    more = ["--model", str(model)]
    flags = ["--box", "10,10,50,50", "-o", str(folder / "p.xml"), "--classes", "dog,cup"]
    assert main.run(["predict", str(photo), *flags, *more]) == 0
    assert ElementTree.parse(folder / "p.xml").find("image/mask").get("label") == "dog"
    flags = ["-o", str(folder / "y"), "--format", "yolo", "--keep"]
    assert main.run(["label", str(folder), str(segments), *flags, *more]) == 0
    assert "1 annotations keep their name" in capsys.readouterr().out
    assert len((folder / "y/labels/a, ü.txt").read_text().splitlines()) == 3
    flags = ["-o", str(folder / "t.json"), "--format", "label-studio", "--polygons", "--image-url", "s3://b/"]
    assert main.run(["label", str(folder), str(segments), *flags, *more]) == 0
    assert json.loads((folder / "t.json").read_text())[0]["data"]["image"] == "s3://b/a%2C%20%C3%BC.png"
    capsys.readouterr()
    assert main.run(["label", str(folder), str(segments), "-o", str(folder / "o.txt"), *more]) == 1
    assert "unknown suffix" in capsys.readouterr().err
    assert main.run(["embed", str(folder), str(segments), "-o", str(folder / "v.npz"), *more]) == 0
    assert "3 x 3, 3 embedded in this run" in capsys.readouterr().out


def test_an_overlay_needs_a_coco_file(photo, segments, model, capsys):
    args = ["label", str(photo.parent), str(segments), "-o", str(photo.parent / "o.csv"), "--overlay", "pictures"]
    with pytest.raises(SystemExit):
        main.run([*args, "--model", str(model)])
    assert "--overlay and --report need an output in COCO's form" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    model = colour_model(tmp_path / "models")
    model.rename(tmp_path / "models" / "mine.onnx")
    (tmp_path / "models" / "broken.onnx").write_text("hello")
    (tmp_path / "models" / "notes.txt").write_text("no model")
    return tmp_path / "models"


def test_models_are_found_by_name(folder, monkeypatch, tmp_path):
    assert find_model("mine") == folder / "mine.onnx"
    assert Predictor("mine").classes == ("person", "dog", "cup")
    assert find_model("default") == find_model(None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("a file here comes first")
    assert str(find_model("mine")) == "mine"
    with pytest.raises(ModelError, match=r"there are default, broken, mine"):
        find_model("yours")
    with pytest.raises(ModelError, match=r"yours\.onnx: no such model file"):
        Predictor("yours.onnx")


def test_the_folder_of_models_is_the_platforms(monkeypatch, tmp_path):
    monkeypatch.delenv("MASKWISE_MODELS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert models_folder() == tmp_path / "maskwise" / "models"
    assert find_model("default").name == "default.onnx"


def test_the_list_says_what_the_files_say(folder, capsys):
    built_in, broken, mine = list_models()
    assert (built_in.name, len(built_in.classes), built_in.says_none) == ("default", 80, True)
    assert built_in.features == 3072
    assert built_in.accuracy is not None
    assert built_in.licence.startswith("Apache-2.0")
    assert "ONNX Runtime cannot load it" in broken.fault
    assert mine == ModelRecord(
        name="mine",
        path=str(folder / "mine.onnx"),
        size_mb=mine.size_mb,
        title="colour",
        classes=("person", "dog", "cup"),
        says_none=False,
        crops=1,
        features=3,
    )
    assert main.run(["models"]) == 0
    out = capsys.readouterr().out
    assert "accuracy: not recorded" in out
    assert "licence: not recorded" in out
    assert main.run(["models", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["default", "broken", "mine"]


def test_recorded_accuracy_and_licence_are_shown_as_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWISE_MODELS", str(tmp_path))
    records = {
        "a": {"storage": "int8", "holdout_by_storage": {"fp16": 0.9, "int8": 0.8}, "holdout_accuracy": 0.95},
        "b": {"holdout_accuracy": 0.95, "regions_holdout": 20, "licence": "CC0-1.0"},
        "c": {"trials": [{"micro": 0.7}, {"micro": 0.6}]},
        "d": {"trials": [{"micro": None}], "holdout_by_storage": "damaged"},
    }
    for name, training in records.items():
        colour_model(tmp_path, training=training).rename(tmp_path / f"{name}.onnx")
    listed = list(list_models())[1:]
    assert [one.accuracy for one in listed] == [0.8, 0.95, 0.7, None]
    assert listed[1].accuracy_of == "20 held-out regions, before export"
    assert [one.licence for one in listed] == [None, "CC0-1.0", None, None]


def test_speed_is_measured_if_asked_for(folder, monkeypatch):
    monkeypatch.setattr("maskwise.tasks.listing.MEASURE_SECONDS", 0.05)
    monkeypatch.setattr("maskwise.tasks.listing.built_in_model", lambda: folder / "mine.onnx")
    (folder / "broken.onnx").unlink()
    assert all(one.regions_per_second > 0 for one in list_models(measure=True))
