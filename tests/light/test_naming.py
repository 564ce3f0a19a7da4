"""A photograph in, named things out: with a segmenter and a model whose answers are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise import Mask, Name, Prediction, Predictor
from maskwise.cli.main import run
from maskwise.errors import ImageError, InputError
from maskwise.model.segmenter import Segment, Segmenter
from maskwise.tasks.naming import CocoCollector, Thing, name_photos, name_things, overlap, things_of, without_nested

HW = (100, 200)


class BoxSegmenter(Segmenter):
    """Finds the boxes that it was given."""

    def __init__(self, *boxes, threads=None):
        self.boxes = boxes or ((10, 10, 40, 40), (110, 20, 60, 60), (0, 0, 200, 100))

    def segment(self, image, *, points_per_side, **_):
        return [
            Segment(Mask.from_box(box, image.shape[:2]), 0.9 - 0.1 * place, 0.95)
            for place, box in enumerate(self.boxes)
        ]


def scene():
    """A red square (a person), a green one (a dog), on black (nothing)."""
    image = np.zeros((*HW, 3), dtype=np.uint8)
    image[10:50, 10:50] = (255, 0, 0)
    image[20:80, 110:170] = (0, 255, 0)
    return image


@pytest.fixture
def model(tmp_path):
    """Knows what has red or green over half."""
    return colour_model(tmp_path, known=(8.0, 8.0, 0.0, -4.0))


def test_things_are_outlined_named_and_nothing_else_is_there(model):
    things = name_things(scene(), BoxSegmenter(), Predictor(model))
    assert [thing.prediction.name for thing in things] == ["person", "dog"]
    assert [thing.segment.mask.box_xywh for thing in things] == [(10, 10, 40, 40), (110, 20, 60, 60)]
    sure = 1 / (1 + np.exp(-4.0))
    assert things[0].score == pytest.approx(0.9 * sure * things[0].prediction.probability, rel=0.02)
    assert things[1].score == pytest.approx(0.8 * sure * things[1].prediction.probability, rel=0.02)


def test_without_a_limit_everything_is_named(model):
    """Also the whole picture, which is a dog then, and holds the other one."""
    things = name_things(scene(), BoxSegmenter(), Predictor(model, min_known=0), min_score=0)
    assert {thing.segment.mask.box_xywh for thing in things} == {(10, 10, 40, 40), (0, 0, 200, 100)}


@pytest.mark.parametrize(("min_score", "names"), [(0.5, ["person", "dog"]), (0.83, ["person"]), (0.9, [])])
def test_things_of_a_low_score_are_left_out(model, min_score, names):
    """Scores are 0.9 and 0.8 times 0.98 (known), times nearly 1."""
    things = name_things(scene(), BoxSegmenter(), Predictor(model), min_score=min_score)
    assert [thing.prediction.name for thing in things] == names


def test_a_score_that_is_the_limit_is_enough():
    one, other, none = thing((0, 0, 9, 9), score=0.5), thing((50, 0, 9, 9), score=0.75), thing((80, 0, 9, 9))
    none = replace(none, prediction=replace(none.prediction, is_none=True))
    assert things_of([one, other, none], 0.5) == [other, one]
    assert things_of([one, other, none], 0.6) == [other]


def thing(box, name="dog", score=0.9):
    return Thing(Segment(Mask.from_box(box, HW), score, 0.9), Prediction((Name(name, 1, 1.0),), known=1.0))


def kept(*things):
    return [one.segment.mask.box_xywh for one in without_nested(things)]


def test_a_part_of_a_thing_of_the_same_class_goes():
    whole, part = thing((0, 0, 50, 50)), thing((10, 10, 20, 20), score=0.99)
    assert kept(whole, part) == kept(part, whole) == [(0, 0, 50, 50)]
    assert len(kept(whole, thing((10, 10, 20, 20), name="cat"))) == 2
    assert len(kept(whole, thing((45, 10, 20, 20)))) == 2  # A quarter inside.


def test_of_equals_the_first_stays():
    one, other = thing((0, 0, 50, 50)), thing((0, 0, 50, 50))
    assert len(without_nested([one, other])) == 1
    assert without_nested([one, other])[0] is one


def test_a_group_goes_if_several_things_lie_in_it_side_by_side():
    group, left, right = thing((0, 0, 100, 50), score=0.8), thing((0, 0, 45, 50)), thing((50, 0, 45, 50), score=0.7)
    assert kept(group, left, right) == [(0, 0, 45, 50), (50, 0, 45, 50)]
    unsure = [thing((0, 0, 45, 50), score=0.5), thing((50, 0, 45, 50), score=0.6)]
    assert kept(group, *unsure) == [(0, 0, 100, 50)]


def test_parts_of_the_things_of_a_group_go_too():
    group, left, right = thing((0, 0, 100, 50), score=0.8), thing((0, 0, 45, 50)), thing((50, 0, 45, 50))
    assert kept(group, thing((5, 5, 10, 10)), left, right) == [(0, 0, 45, 50), (50, 0, 45, 50)]


@pytest.mark.parametrize(
    ("box", "shared"), [((2, 3, 5, 5), 2), ((4, 0, 3, 3), 0), ((0, 0, 9, 9), 16), ((1, 1, 2, 2), 4)]
)
def test_pixels_that_two_masks_share(box, shared):
    one, other = Mask.from_box((0, 0, 4, 4), (9, 9)), Mask.from_box(box, (9, 9))
    assert overlap(one, other) == overlap(other, one) == shared


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(scene()).save(folder / "a.png")
    Image.fromarray(scene()).save(folder / "deep" / "b.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_photographs_of_a_folder_become_a_coco_file(photos, model, tmp_path):
    predictor, problems = Predictor(model), []
    collector = CocoCollector(predictor.info.categories, photos)
    for photo in name_photos(photos, BoxSegmenter(), predictor, problems=problems):
        collector.add(photo)
    collector.write(tmp_path / "o.json", problems)
    content = json.loads((tmp_path / "o.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "deep/b.png"]
    found = [(a["image_id"], a["category_id"], a["bbox"]) for a in content["annotations"]]
    assert found[:2] == [(1, 1, [10, 10, 40, 40]), (1, 18, [110, 20, 60, 60])]
    assert found[2:] == [(2, category, box) for _, category, box in found[:2]]
    first = content["annotations"][0]
    assert (first["id"], first["area"], first["predicted_iou"], first["top_category_ids"][0]) == (1, 1600, 0.9, 1)
    assert 0 < first["score"] < first["known"]
    assert [len(problems), "broken.jpg" in problems[0].message] == [1, True]
    assert len(json.loads((tmp_path / "o.json.problems.json").read_text())["problems"]) == 1


def test_a_broken_photograph_alone_is_an_error(photos, model):
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        list(name_photos(photos / "broken.jpg", BoxSegmenter(), Predictor(model)))
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        list(name_photos(photos, BoxSegmenter(), Predictor(model), on_error="stop"))
    (photos / "empty").mkdir()
    with pytest.raises(InputError, match="no image in this folder"):
        list(name_photos(photos / "empty", BoxSegmenter(), Predictor(model)))


def test_the_command_prints_and_draws(photos, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("maskwise.model.segmenter.Segmenter", BoxSegmenter)
    base = ["name", str(photos / "a.png"), "--model", str(model)]
    assert run([*base, "--overlay", str(tmp_path / "n.png"), "-o", str(tmp_path / "o.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["1", "10,10,40,40", "person"]
    assert lines[-1].endswith("2 things in 1 image(s)")
    with Image.open(tmp_path / "n.png") as picture:
        assert picture.size[0] >= 200
    flags = ["name", str(photos), "--model", str(model), "--overlay", str(tmp_path / "pictures")]
    assert run(flags) == 0
    captured = capsys.readouterr()
    assert "a.png: 2 things" in captured.out
    assert "1 image(s) left out" in captured.err
    assert (tmp_path / "pictures" / "deep" / "b.png").is_file()
    assert run([*base, "--min-known", "1"]) == 0
    assert "nothing that the model knows" in capsys.readouterr().out
    assert run(["name", str(photos), "--overlay", str(photos / "a.png"), "--model", str(model)]) == 1
    assert "is a file; give a folder for the pictures" in capsys.readouterr().err
