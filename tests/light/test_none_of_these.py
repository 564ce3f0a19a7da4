"""Regions that are none of the classes: from the graph to pictures and COCO files, with answers worked out by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise import Predictor, RegionSet, evaluate, label_coco
from maskwise.cli.main import run
from maskwise.errors import InputError, ModelError
from maskwise.reports.markdown import report_markdown
from maskwise.tasks.labelling import Labelling

KNOWN = (8.0, 0.0, 0.0, -4.0)
"""The logit is 8 x red - 4: one of the classes from half red on."""
COLOURS = ((255, 0, 0), (0, 0, 255), (153, 102, 0))
EXPECTED = [1 / (1 + np.exp(-logit)) for logit in (4.0, -4.0, 0.8)]


def scene():
    """Three squares: red, blue, and one that is 60 % red."""
    image, masks = np.zeros((60, 180, 3), dtype=np.uint8), []
    for place, colour in enumerate(COLOURS):
        mask = np.zeros(image.shape[:2], dtype=bool)
        mask[10:50, 60 * place + 10 : 60 * place + 50] = True
        image[mask] = colour
        masks.append(mask)
    return image, masks


@pytest.fixture
def model(tmp_path):
    return colour_model(tmp_path, known=KNOWN)


@pytest.mark.parametrize("mode", ["exact", "auto", "shared"])
def test_every_prediction_says_how_probable_it_is_one_of_the_classes(model, mode):
    image, masks = scene()
    predictions = Predictor(model, mode=mode).predict(image, masks)
    np.testing.assert_allclose([one.known for one in predictions], EXPECTED, atol=0.02)
    assert [one.is_none for one in predictions] == [False, True, False]
    assert [one.name for one in predictions] == ["person", "cup", "person"]
    assert predictions[1].to_dict()["is_none"] is True
    assert predictions[1].to_dict()["known"] == pytest.approx(EXPECTED[1], abs=0.02)


@pytest.mark.parametrize(
    ("limits", "none"),
    [
        ({"min_known": 0.0}, [False, False, False]),
        ({"min_known": 0.8}, [False, True, True]),
        ({"min_known": 1.0}, [True, True, True]),
        ({"min_known": 0.0, "min_probability": 0.99}, [False, False, True]),
        ({"min_probability": 0.99}, [False, True, True]),
    ],
)
def test_limits_may_be_given(model, limits, none):
    """The third square has logits of 24, 16 and 0 at temperature 2: its best class has 98.2 %."""
    predictor = Predictor(model, **limits)
    assert [one.is_none for one in predictor.predict(*scene())] == none
    assert [one.is_none for one in next(predictor.predict_many([scene()]))] == none


def test_without_a_mask_nothing_is_none(model):
    assert Predictor(model).predict(scene()[0], []) == []


def test_limits_outside_0_to_1_are_refused(model):
    with pytest.raises(InputError, match=r"min_known is 1\.5; give 0 to 1"):
        Predictor(model, min_known=1.5)
    with pytest.raises(InputError, match=r"min_probability is -0\.1"):
        Predictor(model, min_probability=-0.1)


def test_a_model_that_cannot_tell_says_so(tmp_path):
    plain = colour_model(tmp_path)
    assert [one.known for one in Predictor(plain).predict(*scene())] == [None] * 3
    assert "known" not in Predictor(plain).predict(*scene())[0].to_dict()
    assert [one.is_none for one in Predictor(plain, min_probability=0.99).predict(*scene())] == [False, False, True]
    with pytest.raises(ModelError, match='cannot say "none of these"'):
        Predictor(plain, min_known=0.5)
    assert Predictor(plain, min_known=0).predict(*scene())


def test_output_and_metadata_go_together(tmp_path):
    with pytest.raises(ModelError, match="its output known and its min_known do not go together"):
        Predictor(colour_model(tmp_path, known=KNOWN, min_known=None))
    with pytest.raises(ModelError, match="min_known is 2"):
        Predictor(colour_model(tmp_path, known=KNOWN, min_known=2))


@pytest.fixture
def segments(tmp_path):
    image, _ = scene()
    Image.fromarray(image).save(tmp_path / "a.png")
    annotations = [
        {"id": 7 + place, "image_id": 1, "bbox": [60 * place + 10, 10, 40, 40], "category_id": 3} for place in range(3)
    ]
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": annotations, "categories": []}
    (tmp_path / "s.json").write_text(json.dumps(content))
    return tmp_path / "s.json"


def labelled(segments, model, **more):
    done = label_coco(segments, segments.parent, segments.parent / "o.json", Predictor(model), **more)
    return done, json.loads((segments.parent / "o.json").read_text())


def test_none_of_these_is_a_category_of_its_own(segments, model):
    done, content = labelled(segments, model)
    assert done == Labelling(annotations=3, named=3, none=1, named_now=3, problems=())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert [names[a["category_id"]] for a in content["annotations"]] == ["person", "none of these", "person"]
    assert names[0] == "none of these"
    np.testing.assert_allclose([a["known"] for a in content["annotations"]], EXPECTED, atol=0.02)
    assert content["annotations"][1]["top_category_ids"][0] == 47


def test_none_of_these_may_stay_without_a_category(segments, model):
    _, content = labelled(segments, model, none="keep")
    assert [a.get("category_id") for a in content["annotations"]] == [1, None, 1]
    assert "category_id" not in content["annotations"][1]
    assert content["annotations"][1]["area"] == 1600
    assert "none of these" not in [category["name"] for category in content["categories"]]


def test_none_of_these_may_be_left_out(segments, model):
    _, content = labelled(segments, model, none="drop")
    assert [a["id"] for a in content["annotations"]] == [7, 9]


def test_the_first_annotation_may_be_left_out(segments, model):
    content = json.loads(segments.read_text())
    content["annotations"] = content["annotations"][1:]
    segments.write_text(json.dumps(content))
    _, content = labelled(segments, model, none="drop")
    assert [a["id"] for a in content["annotations"]] == [9]


def test_limits_may_change_between_an_interrupted_run_and_its_end(segments, model, monkeypatch):
    """The journal keeps what the model said, not what came of it."""

    def stopped(*_, **__):
        raise RuntimeError

    monkeypatch.setattr("maskwise.tasks.labelling.write_named_coco", stopped)
    with pytest.raises(RuntimeError):
        labelled(segments, model)
    monkeypatch.undo()
    done = label_coco(segments, segments.parent, segments.parent / "o.json", Predictor(model, min_known=0.8))
    assert (done.none, done.named_now) == (2, 0)


def test_a_model_that_cannot_tell_writes_no_known(segments, tmp_path):
    _, content = labelled(segments, colour_model(tmp_path))
    assert all("known" not in annotation for annotation in content["annotations"])


def test_commands_say_none_of_these(segments, model, tmp_path, capsys):
    base = ["--model", str(model)]
    boxes = [flag for place in range(3) for flag in ("--box", f"{60 * place + 10},10,40,40")]
    out = ["--json", str(tmp_path / "n.json"), "--overlay", str(tmp_path / "n.png")]
    assert run(["predict", str(tmp_path / "a.png"), *boxes, *base, *out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "none of these" in lines[2]
    assert "cup 100%" in lines[2]
    assert "person" in lines[1]
    assert [region["is_none"] for region in json.loads((tmp_path / "n.json").read_text())["regions"]] == [
        False,
        True,
        False,
    ]
    assert run(["predict", str(tmp_path / "a.png"), *boxes, *base, "--min-known", "0"]) == 0
    assert "none of these" not in capsys.readouterr().out
    flags = ["label", str(tmp_path), str(segments), "-o", str(tmp_path / "o.json"), *base, "--none", "drop"]
    assert run([*flags, "--min-known", "0.8"]) == 0
    assert "2 annotations are none of these" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "o.json").read_text())["annotations"]) == 1


def test_detections_say_which_are_none(model):
    supervision = pytest.importorskip("supervision")
    image, masks = scene()
    detections = supervision.Detections(xyxy=np.array([[0, 0, 9, 9]] * 3, dtype=float), mask=np.array(masks))
    filled = Predictor(model).label_detections(image, detections)
    assert filled.data["is_none"].tolist() == [False, True, False]
    np.testing.assert_allclose(filled.data["known"], EXPECTED, atol=0.02)


def test_evaluation_says_how_well_objects_are_told_from_nothing(model):
    """Three squares; as objects the red ones, as nothing the blue one and another red one."""
    image, masks = scene()
    objects = RegionSet.from_arrays([image], [[masks[0], masks[2]]], [["person", "person"]])
    nothing = RegionSet.from_arrays([image, image], [[masks[1]], [masks[1], masks[0]]], [["x"], ["x", "x"]])
    result = evaluate(Predictor(model), objects, background=nothing).report.background
    assert (result.regions, result.images) == (3, 2)
    # Of six pairs, blue is below both objects twice; the red one ties with the first object and beats the second.
    assert result.auroc == pytest.approx(4.5 / 6)
    assert result.named_at_95 == pytest.approx(1 / 3)
    assert (result.objects_kept, result.named) == (1.0, pytest.approx(1 / 3))
    assert result.false_names_per_image == 0.5
    page = report_markdown(evaluate(Predictor(model), objects, background=nothing).report)
    assert "AUROC of 0.750" in page
    assert "0.5 false names per image" in page
    assert evaluate(Predictor(model), objects).report.background is None
    assert "## None of these" not in report_markdown(evaluate(Predictor(model), objects).report)


def test_a_model_that_cannot_tell_is_judged_by_its_best_class(tmp_path):
    image, masks = scene()
    objects = RegionSet.from_arrays([image], [[masks[0]]], [["person"]])
    nothing = RegionSet.from_arrays([image], [[masks[2]]], [["x"]])  # 98 % instead of 100 %.
    result = evaluate(Predictor(colour_model(tmp_path)), objects, background=nothing).report.background
    assert (result.auroc, result.named_at_95, result.named) == (1.0, 0.0, 1.0)


def test_the_command_evaluates_with_a_background(segments, model, tmp_path, capsys):
    content = json.loads(segments.read_text())
    content["categories"] = [{"id": 3, "name": "person"}]
    nothing = {**content, "annotations": content["annotations"][1:2]}
    content["annotations"] = content["annotations"][:1]
    segments.write_text(json.dumps(content))
    (tmp_path / "nothing.json").write_text(json.dumps(nothing))
    flags = ["evaluate", str(tmp_path), str(segments), "--model", str(model), "-o", str(tmp_path / "out")]
    assert run([*flags, "--with-background", str(tmp_path / "nothing.json")]) == 0
    assert "AUROC of objects against no class" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["background"]["auroc"] == 1.0
