"""Details that a mutation run found untested, with values worked out by hand."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise import Mask, Predictor, label_coco, load_image, read_coco
from maskwise.cli import main
from maskwise.data.label_maps import _void_note
from maskwise.errors import ImageError
from maskwise.progress import Progress
from maskwise.tasks.linear_heads import Part, _judge, fit_head
from maskwise.tasks.metrics import calibration_error, wilson_interval


def test_a_palette_of_similar_colours_goes_by_its_indices(tmp_path):
    """128 apart is similar, 129 is not: then the brighter one is the region."""
    indices = np.zeros((4, 6), dtype=np.uint8)
    indices[1, 2] = 1
    for bright, area in ((128, 1), (129, 23)):
        picture = Image.fromarray(indices).convert("P")
        picture.putpalette([bright, bright, bright, 0, 0, 0])
        picture.save(tmp_path / "m.png")
        assert Mask.from_file(tmp_path / "m.png").area == area


def test_a_picture_of_floats_is_cut_at_half(tmp_path):
    array = np.full((4, 6), 0.3, dtype=np.float32)
    array[2, 1:4] = 0.8
    Image.fromarray(array).save(tmp_path / "m.tif")
    assert Mask.from_file(tmp_path / "m.tif").box_xywh == (1, 2, 3, 1)


def test_a_photograph_of_floats_with_one_that_is_no_number_is_refused(tmp_path):
    Image.fromarray(np.float32([[0.1, np.nan], [0.3, 0.4]])).save(tmp_path / "p.tif")
    with pytest.raises(ImageError, match="floats outside 0 to 1"):
        load_image(tmp_path / "p.tif")


@pytest.mark.parametrize(("box", "warns"), [("10,10,20,38", False), ("10,10,70,20", True), ("10,10,20,40", True)])
def test_a_box_that_leaves_the_image_gets_a_warning(tmp_path, capsys, box, warns):
    """The image is 64 x 48 pixels: 10 + 38 is its height, 10 + 40 more."""
    Image.new("RGB", (64, 48)).save(tmp_path / "p.png")
    args = ["predict", tmp_path / "p.png", "--box", box, "--model", colour_model(tmp_path)]
    assert main.run(list(map(str, args))) == 0
    assert ("leaves the image; a box is x,y,width,height" in capsys.readouterr().err) == warns


def test_progress_prints_at_the_end_of_the_minute(monkeypatch, capsys):
    now = iter([0.0, 60.0, 60.0, 119.9])
    monkeypatch.setattr("maskwise.progress.time.monotonic", lambda: next(now))
    with Progress(5, "embed", "regions") as progress:
        progress.update(2)
        progress.update()
    assert capsys.readouterr().err == "embed: 2 of 5 regions\n"


def test_too_little_memory_is_an_error_in_one_line(monkeypatch, capsys):
    def parse_flags(*_args, **_more):
        raise MemoryError

    monkeypatch.setattr("maskwise.cli.options.parse_flags", parse_flags)
    assert main.run(["label"]) == 1
    assert "not enough memory" in capsys.readouterr().err


def test_the_note_of_void_values_lists_six():
    (seven,) = _void_note(Counter({value: 1 for value in range(10, 17)}), 70, "c.txt")
    assert seven == "pixel values 10, 11, 12, 13, 14, 15, ... (10.0% of all pixels) have no line in c.txt and are void"
    (six,) = _void_note(Counter({value: 2 for value in range(10, 16)}), 48, "c.txt")
    assert six.startswith("pixel values 10, 11, 12, 13, 14, 15 (25.0%")


@pytest.fixture
def segments(coco_folder):
    content = json.loads((coco_folder / "annotations.json").read_text())
    del content["categories"]
    path = coco_folder / "segments.json"
    path.write_text(json.dumps(content))
    return path


def test_a_malformed_image_record_is_copied_as_it_is(segments, tmp_path):
    content = json.loads(segments.read_text())
    content["images"].insert(2, {"id": 900, "name": "no file_name"})
    for image in content["images"]:
        image.pop("width", None)
    segments.write_text(json.dumps(content))
    label_coco(segments, segments.parent / "images", tmp_path / "o.json", Predictor(colour_model(tmp_path)))
    images = json.loads((tmp_path / "o.json").read_text())["images"]
    assert images[2] == {"id": 900, "name": "no file_name"}
    assert all((image["width"], image["height"]) == (48, 48) for place, image in enumerate(images) if place != 2)


def test_a_resumed_run_keeps_the_problems_of_finished_images(segments, tmp_path, monkeypatch):
    content = json.loads(segments.read_text())
    content["annotations"][1]["segmentation"] = [[1, 2]]
    segments.write_text(json.dumps(content))
    model = Predictor(colour_model(tmp_path))
    output = tmp_path / "o.json"
    with monkeypatch.context() as patch:
        patch.setattr("maskwise.tasks.labelling.write_named_coco", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            label_coco(segments, segments.parent / "images", output, model)
    done = label_coco(segments, segments.parent / "images", output, model)
    assert (done.named, done.named_now) == (15, 0)
    assert [(problem.annotation_id, problem.image_id, problem.row) for problem in done.problems] == [(101, 0, 1)]


def test_the_likelihood_of_a_trial_pays_for_a_temperature_far_from_1():
    logits = np.array([[3.0, 0.0], [0.0, 2.0], [1.5, 0.0], [0.0, 4.0], [0.5, 0.0], [2.0, 0.0]])
    targets = np.array([0, 1, 0, 1, 1, 0])
    trial = _judge((Part("linear", 1.0),), logits, targets)
    scaled = logits / trial.temperature
    chances = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
    mean = np.log(chances[np.arange(6), targets]).mean()  # Both classes have three regions: all weigh the same.
    np.testing.assert_allclose(trial.likelihood, mean - np.log(trial.temperature) ** 2 / 6, atol=1e-9)


def test_the_nearest_mean_shrinks_the_covariance_towards_its_own_size():
    embeddings = np.array([[0.0, 0], [4, 0], [0, 1], [9, 1], [13, 1], [9, 3.0]]) * 7
    targets = np.array([0, 0, 0, 1, 1, 1])
    centre, scale = embeddings.mean(axis=0), embeddings.std()
    scaled = (embeddings - centre) / scale
    means = np.stack([scaled[:3].mean(axis=0), scaled[3:].mean(axis=0)])
    inside = scaled - means[targets]
    covariance = inside.T @ inside / 4
    mixed = 0.8 * covariance + 0.2 * np.trace(covariance) / 2 * np.eye(2)
    weight = np.linalg.solve(mixed, means.T).T / np.sqrt(2)
    expected = scaled @ weight.T - (weight * means).sum(axis=1) / 2
    np.testing.assert_allclose(fit_head("mean", 0.2, embeddings, targets).logits(embeddings), expected, atol=1e-9)


def test_calibration_has_fifteen_bins_by_default():
    """0.59 lies in the ninth of fifteen bins and 0.62 in the tenth; of sixteen both lie in the tenth."""
    probabilities = np.float32([[0.59, 0.41], [0.62, 0.38]])
    apart = calibration_error(probabilities, np.array([1, 0]))
    np.testing.assert_allclose(apart, (0.59 + 0.38) / 2, atol=1e-6)


def test_intervals_of_all_and_of_none_stay_within_0_and_1():
    np.testing.assert_allclose(wilson_interval(5, 5), (0.56551, 1.0), atol=1e-4)
    np.testing.assert_allclose(wilson_interval(0, 5), (0.0, 0.43449), atol=1e-4)


def test_annotations_without_iscrowd_are_no_crowds(segments):
    content = json.loads(segments.read_text())
    content["annotations"][2]["iscrowd"] = 1
    for annotation in (content["annotations"][0], content["annotations"][5]):
        del annotation["iscrowd"]
    content["annotations"].append({"id": 1})
    segments.write_text(json.dumps(content))
    crowd = read_coco(segments, labelled=False, on_error="skip").index.crowd
    assert crowd.tolist() == [False, False, True] + [False] * 14
