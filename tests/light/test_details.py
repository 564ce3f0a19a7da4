"""Details that a mutation run found untested, with values worked out by hand."""

import json
import os
import stat
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from io import BytesIO, TextIOWrapper
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from colour_model import CATEGORIES, colour_model
from maskwise import (
    LabelledRegion,
    Mask,
    Name,
    Prediction,
    Predictor,
    RegionSet,
    draw_overlay,
    evaluate,
    label_coco,
    load_image,
    read_coco,
)
from maskwise.cli import main
from maskwise.cli.fit import print_fit
from maskwise.cli.label import Command as LabelCommand
from maskwise.cli.options import parse_flags
from maskwise.cli.predict import print_table
from maskwise.cli.region_options import RegionFlags
from maskwise.concurrency import map_in_threads
from maskwise.data import coco_index, images
from maskwise.data.atomic_files import write_json, write_text
from maskwise.data.image_paths import _forms, find_each_image
from maskwise.data.label_maps import _void_note, regions_from_label_maps
from maskwise.data.mask_files import read_instances, read_masks
from maskwise.data.mask_pixels import COLOUR_TOLERANCE, _listed, region_pixels, region_pixels_of_colours
from maskwise.data.masks import clip_polygon
from maskwise.data.plain_files import shortened
from maskwise.data.problems import Problem, refuse
from maskwise.data.regions import Category
from maskwise.data.segment_files import read_segments
from maskwise.data.segmentations import mask_of_segmentation
from maskwise.errors import AnnotationError, ImageError, MaskError
from maskwise.model import predictor, session
from maskwise.model.head_replacement import replace_head
from maskwise.model.mask_inputs import as_masks
from maskwise.model.model_file import ModelInfo, _is_number
from maskwise.progress import Progress
from maskwise.reports.contact_sheet import LONGEST, _scaled
from maskwise.reports.drawing import GREY, class_colour, draw_outline
from maskwise.reports.markdown import LISTED_CLASSES, _class_tables
from maskwise.tasks import labelling, metrics
from maskwise.tasks.calibration import fit_temperature
from maskwise.tasks.evaluation import _first_images, _with_noise
from maskwise.tasks.evaluation_report import ClassResult
from maskwise.tasks.fitting import Fit
from maskwise.tasks.journal import Journal
from maskwise.tasks.linear_heads import Part, Trial, _judge, _logits_unseen, choose_head, class_weights, fit_head
from maskwise.tasks.metrics import calibration_error, wilson_interval
from maskwise.views.sharing import SharedView
from maskwise.views.view import ViewSettings


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
    (seven,) = _void_note(Counter({str(value): 1 for value in range(10, 17)}), 70, "c.txt")
    assert seven == "pixel values 10, 11, 12, 13, 14, 15, ... (10.0% of all pixels) have no line in c.txt and are void"
    (six,) = _void_note(Counter({str(value): 2 for value in range(10, 16)}), 48, "c.txt")
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
        patch.setattr(
            "maskwise.tasks.labelling.write_named_coco", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
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


def test_polygons_of_zeros_and_ones_are_no_picture():
    """Two polygons, in an image of two rows of six pixels; the first alone could be a row of a mask."""
    mask = mask_of_segmentation([[0, 0, 1, 0, 1, 1], [0, 0, 6, 0, 6, 2, 0, 2]], (2, 6))
    assert mask.area == 12
    rows = mask_of_segmentation([[0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 1]], (2, 6))
    assert rows.to_array().astype(int).tolist() == [[0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 1]]


@pytest.mark.parametrize("at_once", [1, 3, 7])
def test_bootstrap_draws_exactly_as_many_samples_as_asked_in_any_batches(at_once, monkeypatch, rng):
    predicted, targets, images = rng.integers(0, 3, 40), rng.integers(0, 3, 40), rng.integers(0, 9, 40)
    whole = metrics.bootstrap_intervals(predicted, targets, images, draws=7)
    monkeypatch.setattr(metrics, "DRAWS_AT_ONCE", at_once)
    assert metrics.bootstrap_intervals(predicted, targets, images, draws=7) == whole


def test_a_head_may_have_a_logit_of_zero(tmp_path):
    """The written file is checked relative to its largest logit, not its smallest."""
    base = colour_model(tmp_path)
    info = replace(Predictor(base).info, categories=(Category(1, "a"), Category(2, "b")))
    weight = np.array([[0.0, 0.0, 0.0], [3.0, -1.0, 2.0]])
    replace_head(base, weight, np.array([0.0, 0.5]), info, tmp_path / "new.onnx")
    image = np.full((20, 30, 3), (255, 0, 51), dtype=np.uint8)
    (got,) = Predictor(tmp_path / "new.onnx").predict(image, np.ones((1, 20, 30), dtype=bool))
    np.testing.assert_allclose(got.logits, [0.0, 3.9], atol=0.05)


def test_one_long_name_is_kept_apart_from_short_ones(monkeypatch):
    """From over eight times the mean length on; below, all names share one width."""
    monkeypatch.setattr(coco_index, "MAX_PADDING", 0)
    assert coco_index._texts(["x"] * 15 + ["y" * 15]).dtype == "S15"  # 15 = 8 * 30 / 16
    assert coco_index._texts(["x"] * 15 + ["y" * 16]).dtype == object


@pytest.mark.parametrize(("engine", "threads"), [("local", None), ("ray", 1)])
def test_ray_gives_each_worker_one_thread(segments, tmp_path, monkeypatch, engine, threads):
    asked = []

    class StoppedError(Exception):
        pass

    def opened(*_args, **kwargs):
        asked.append(kwargs["threads"])
        raise StoppedError

    monkeypatch.setattr(labelling, "Predictor", opened)
    with pytest.raises(StoppedError):
        label_coco(segments, segments.parent / "images", tmp_path / "o.json", engine=engine)
    assert asked == [threads]


def test_flags_start_from_a_given_command():
    @dataclass(frozen=True)
    class Command:
        """Do it."""

        count: int = 1

    assert parse_flags(Command, [], "x").count == 1
    assert parse_flags(Command, [], "x", default=Command(count=5)).count == 5
    assert parse_flags(Command, ["--count", "7"], "x", default=Command(count=5)).count == 7


def test_a_palette_of_three_colours_goes_by_its_colours(tmp_path):
    """Black, white and a grey edge, in an order of indices that means nothing."""
    indices = np.zeros((20, 30), dtype=np.uint8)
    indices[5:15, 5:25] = 2
    indices[6:14, 6:24] = 1
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette([0, 0, 0, 255, 255, 255, 90, 90, 90])
    picture.save(tmp_path / "m.png")
    assert Mask.from_file(tmp_path / "m.png").box_xywh == (6, 6, 18, 8)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_what_is_opaque_is_the_region(tmp_path, mode):
    """White everywhere; the opacity alone has the shape. (TIFF: Pillow cannot write PA as PNG.)"""
    picture = Image.new("LA", (30, 20), (255, 0))
    picture.paste((255, 255), (4, 3, 10, 12))
    picture = picture.convert("RGBA") if mode != "LA" else picture
    if mode == "PA":
        picture = picture.quantize(4)  # A palette with transparent entries.
        assert picture.mode == "P"
    picture.save(tmp_path / "m.png")
    assert Mask.from_file(tmp_path / "m.png").box_xywh == (4, 3, 6, 9)


def test_a_transparent_colour_of_a_file_without_an_opacity_channel_is_not_the_region(tmp_path):
    picture = Image.new("RGB", (30, 20), (255, 0, 255))
    picture.paste((255, 255, 255), (4, 3, 10, 12))
    picture.save(tmp_path / "m.png", transparency=(255, 0, 255))
    assert Mask.from_file(tmp_path / "m.png").box_xywh == (4, 3, 6, 9)


def test_file_names_are_tried_as_they_are_then_with_slashes_then_decoded():
    assert list(_forms("")) == []
    assert list(_forms("a.jpg")) == ["a.jpg"]
    assert list(_forms("a\\b%20c.jpg")) == ["a\\b%20c.jpg", "a/b%20c.jpg", "a\\b c.jpg", "a/b c.jpg"]
    assert list(_forms("e\u0301.jpg")) == ["e\u0301.jpg", "\u00e9.jpg"]
    assert list(_forms("\u00e9.jpg")) == ["\u00e9.jpg", "e\u0301.jpg"]


def test_the_sum_of_two_heads_has_the_temperature_of_its_own_logits(rng):
    """The shares in which it is fitted are those in which it was judged."""
    targets = np.repeat(np.arange(3), 14)
    embeddings = 2 * np.eye(3, 6)[targets] + rng.normal(size=(42, 6))
    images = np.tile(np.arange(14), 3)
    trial = next(one for one in choose_head("auto", embeddings, targets, images) if len(one.parts) == 2)
    summed = sum(
        part.share * _logits_unseen(part.kind, part.strength, embeddings, targets, images) for part in trial.parts
    )
    temperature = fit_temperature(summed, targets, class_weights(targets), doubt=1.0)
    assert trial.temperature == pytest.approx(temperature, rel=1e-3)


def test_values_of_an_id_map_are_listed_up_to_six():
    assert _listed([0, 1, 2, 3, 4, 9]) == "0, 1, 2, 3, 4, 9"
    assert _listed([0, 1, 2, 3, 4, 9, 11]) == "0, 1, 2, 3, 4, 9, ..., 11"


@pytest.mark.parametrize(
    "polygon",
    [
        [(10, 10), (1e7, 10), (1e7, 20), (10, 20)],
        [(-1e7, 12), (60, 12), (60, 1e7), (-1e7, 1e7)],
        [(5, 5), (1e6, 400_000), (5, 1000)],
        [(-1e6, -1e6), (1e6, -1e6), (50, 40)],
        [(50, -1e9), (1e9, 30), (50, 1e9), (-1e9, 30)],
    ],
)
def test_a_polygon_that_leaves_the_image_by_far_covers_the_pixels_that_it_surrounds(polygon):
    """Compared with the sides of a convex polygon on which each pixel's centre lies."""
    ys, xs = np.mgrid[:60, :90] + 0.5
    inside = np.ones((60, 90), dtype=bool)
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        inside &= (x1 - x0) * (ys - y0) - (y1 - y0) * (xs - x0) >= 0
    mask = Mask.from_polygons([np.array(polygon, dtype=float)], (60, 90)).to_array()
    assert (mask != inside).sum() <= 100  # Along the edges.
    assert inside.sum() > 100


def test_a_clipped_polygon_keeps_the_order_of_its_points():
    square = np.array([(0.0, 0.0), (1e6, 0.0), (1e6, 1e6), (0.0, 1e6)])
    clipped = clip_polygon(square, (60, 90)).tolist()
    start = clipped.index([0, 0])
    # 1000 + 2 * 90 pixels beyond the image.
    assert clipped[start:] + clipped[:start] == [[0, 0], [1270, 0], [1270, 1240], [0, 1240]]


def test_instances_without_an_object_or_with_pages_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save(tmp_path / "i.png")
    with pytest.raises(MaskError, match="has 0 values besides 0"):
        read_instances(tmp_path / "i.png", (4, 6))
    page = Image.fromarray(np.eye(4, 6, dtype=np.uint8))
    page.save(tmp_path / "i.tif", save_all=True, append_images=[page])
    with pytest.raises(MaskError, match="has 2 pages; give a file of one page"):
        read_instances(tmp_path / "i.tif", (4, 6))


@pytest.mark.parametrize(("largest", "shown"), [(255, 255), (1023, 255), (2047, 127), (4095, 255), (65535, 255)])
def test_photographs_of_more_than_8_bits_are_scaled_by_an_even_number_of_bits(tmp_path, largest, shown):
    Image.fromarray(np.array([[0, largest, largest // 2]], dtype=np.uint16)).save(tmp_path / "p.png")
    assert load_image(tmp_path / "p.png")[0, :, 0].tolist() == [0, shown, shown // 2]


def test_a_model_file_shares_no_crops_and_is_not_calibrated_unless_it_says_so():
    info = ModelInfo(name="m", categories=CATEGORIES, view=ViewSettings())
    assert (info.shares, info.temperature, info.batch_size, info.training) == (False, 1.0, 8, {})


def test_predictions_are_equal_by_their_names():
    names = (Name("cup", 47, 0.75),)
    one = Prediction(names, logits=np.float32([1, 2]), embedding=np.float32([1, 2]))
    assert one == Prediction(names, logits=np.float32([3, 4]))
    assert repr(one) == "<Prediction cup 75%>"
    assert repr(Prediction(names, is_none=True)) == "<Prediction none of these (cup 75%)>"


def test_a_class_may_get_a_name_with_an_equals_sign(coco_folder):
    annotations = coco_folder / "annotations.json"
    flags = RegionFlags(images=coco_folder / "images", annotations=annotations, rename=("disc=a=b",))
    assert [category.name for category in flags.read().categories] == ["square", "a=b"]


def test_nearly_grey_is_grey_up_to_the_tolerance():
    """A mask on a slightly red ground: red is 12 above green and blue; from 13 on it is another colour."""
    colours = np.full((8, 12, 3), 50, dtype=np.uint8)
    colours[2:6, 3:9] = 255
    colours[0] = (50 + COLOUR_TOLERANCE, 50, 50)
    assert region_pixels_of_colours(colours, None).sum() == 24
    colours[0] = (51 + COLOUR_TOLERANCE, 50, 50)
    with pytest.raises(MaskError, match="the mask has 3 colours"):
        region_pixels_of_colours(colours, None)


def test_shades_of_one_colour_may_be_off_by_the_tolerance():
    colours = np.zeros((8, 12, 3), dtype=np.uint8)
    colours[2:6, 3:9] = (255, 0, 0)
    colours[1, 5] = (100, COLOUR_TOLERANCE, 0)
    assert region_pixels_of_colours(colours, None).sum() == 24
    colours[1, 5] = (100, COLOUR_TOLERANCE + 1, 0)
    with pytest.raises(MaskError, match="the mask has 3 colours"):
        region_pixels_of_colours(colours, None)


def test_an_id_that_stands_twice_is_of_no_row():
    problems = []
    rows = coco_index._Rows(Path("x.json"), "images", [4, 7, 4, "7", "9"], problems)
    assert [rows.of(value) for value in (4, "4", 7, "7", 9, "9", 5)] == [-1, -1, 1, 3, 4, 4, -1]
    assert len(problems) == 1


def test_files_get_the_rights_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
        now = os.umask(0o027)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert now == 0o027


def test_the_table_counts_regions_from_1(capsys):
    print_table(["a.png", "b.png"], [Prediction((Name("cup", 47, 0.7), Name("cat", 17, 0.2)))] * 2)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [["1", "a.png", "cup", "70%", "cat", "20%"], ["2", "b.png", "cup", "70%", "cat", "20%"]]


def test_a_coco_file_with_a_stray_image_is_a_coco_file(segments):
    content = json.loads(segments.read_text())
    number = len(content["images"])
    segments.write_text(json.dumps({"image": content["images"][0], **content}))
    assert len(read_segments(segments, content["images"][0]["file_name"]).index.image_id) == number


def test_the_limit_of_pixels_is_itself_accepted(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 12)
    Image.new("RGB", (4, 3)).save(tmp_path / "a.bmp")
    assert load_image(tmp_path / "a.bmp").shape == (3, 4, 3)
    Image.new("RGB", (13, 1)).save(tmp_path / "b.bmp")
    with pytest.raises(ImageError, match=r"too many pixels \(13 x 1"):
        load_image(tmp_path / "b.bmp")


def test_negative_values_are_shown_in_order():
    with pytest.raises(MaskError, match="has 3 values from -3 to 5"):
        region_pixels(np.array([[5, 0, -3]]))


def test_without_an_affinity_all_cores_are_used(monkeypatch):
    monkeypatch.setattr(session, "_cpu_quotas", lambda: iter(()))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert session.available_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert session.available_cores() == 1


def test_a_quota_of_nothing_is_no_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "OWN_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(session, "CGROUPS", tmp_path)
    (tmp_path / "cgroup").write_text("0::/\n")
    for text, quotas in (("0 100000", []), ("150000 100000", [1.5]), ("max 100000", [])):
        (tmp_path / "cpu.max").write_text(text)
        assert list(session._cpu_quotas()) == quotas


def test_a_long_thin_crop_keeps_a_pixel_on_the_contact_sheet():
    assert _scaled(np.zeros((2, 5000), dtype=np.uint8)).shape == (1, LONGEST)
    assert _scaled(np.zeros((5000, 2), dtype=np.uint8)).shape == (LONGEST, 1)


def test_predictions_hold_embeddings_only_if_asked(tmp_path):
    image, masks = np.full((20, 30, 3), 90, dtype=np.uint8), np.ones((1, 20, 30), dtype=bool)
    opened = Predictor(colour_model(tmp_path))
    assert opened.predict(image, masks)[0].embedding is None
    assert opened.predict(image, masks, embeddings=True)[0].embedding.shape == (3,)
    assert next(opened.predict_many([(image, masks)]))[0].embedding is None


@pytest.mark.parametrize(
    ("engine", "asked", "threads"), [("local", None, None), ("local", 3, 3), ("ray", None, 1), ("ray", 4, 4)]
)
def test_threads_of_label(segments, tmp_path, monkeypatch, engine, asked, threads):
    given = []

    class StoppedError(Exception):
        pass

    def opened(*_args, **kwargs):
        given.append(kwargs["threads"])
        raise StoppedError

    monkeypatch.setattr("maskwise.model.predictor.Predictor", opened)
    paths = {"images": str(segments.parent), "segments": str(segments), "output": str(tmp_path / "o.json")}
    command = LabelCommand(**paths, engine=engine)
    with pytest.raises(StoppedError):
        replace(command, threads=asked).run()
    assert given == [threads]


def test_the_ending_of_a_label_map_is_taken_off_part_by_part(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "images" / "a_b.png")
    Image.fromarray(np.eye(3, 4, dtype=np.uint8)).save(tmp_path / "labels" / "a_b_mask.png")
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    regions = regions_from_label_maps(tmp_path / "labels", tmp_path / "images", tmp_path / "classes.txt")
    assert regions.regions.counts() == {"road": 1, "sky": 1}
    assert regions.notes == ()


def test_stopping_early_drops_the_calls_that_wait():
    started, go_on = [], threading.Event()

    def call(number):
        started.append(number)
        if number:
            go_on.wait(5)

    results = map_in_threads(call, range(5), workers=2)
    next(results)
    time.sleep(0.05)
    threading.Timer(0.2, go_on.set).start()
    results.close()
    assert started == [0, 1, 2]


def test_a_protocol_takes_the_first_images_of_each_class():
    targets, pictures = np.array([0, 1, 2, 0, 2, 1]), np.array([0, 0, 1, 2, 1, 3])
    assert _first_images(targets, pictures, 1).tolist() == [True, True, True, False, True, False]


@pytest.mark.parametrize(
    "record", [{"segmentation": [[1, 1, 5, 1, 5, 3, 1, 3]]}, {"size": [4, 6], "counts": [5, 2, 17]}]
)
def test_records_of_sam_and_run_lengths_are_masks(tmp_path, record):
    (mask,) = as_masks([record], (4, 6))
    expected = np.zeros((4, 6), dtype=bool)
    if "counts" in record:  # Down the columns: five out, two in.
        expected[1:3, 1] = True
    else:
        expected[1:3, 1:5] = True
    np.testing.assert_array_equal(mask.to_array(), expected)
    with pytest.raises(MaskError, match="mask 0: a dict without 'segmentation'"):
        as_masks([{"area": 3}], (4, 6))


def test_colours_of_16_bits_that_cannot_be_decoded_are_an_error(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "p.png"), np.full((3, 4, 3), 40_000, dtype=np.uint16))
    assert load_image(tmp_path / "p.png")[0, 0].tolist() == [156, 156, 156]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    with pytest.raises(ImageError, match="colours of 16 bits that cannot be read"):
        load_image(tmp_path / "p.png")


def test_predict_names_three_classes_per_region(tmp_path, capsys):
    categories = [Category(number, f"class {number}") for number in range(5)]
    model = colour_model(tmp_path, categories=categories, weight=np.arange(15).reshape(5, 3))
    Image.new("RGB", (30, 20), (200, 9, 9)).save(tmp_path / "p.png")
    main.run(
        [
            "predict",
            str(tmp_path / "p.png"),
            "--box",
            "2,3,9,9",
            "--model",
            str(model),
            "--json",
            str(tmp_path / "o.json"),
        ]
    )
    (region,) = json.loads((tmp_path / "o.json").read_text())["regions"]
    assert [name["name"] for name in region["names"]] == ["class 4", "class 3", "class 2"]


@pytest.mark.parametrize("value", [5, "abc", [], [[1, 2], "x", {}]])
def test_what_is_no_segmentation_is_refused(value):
    with pytest.raises(MaskError, match="'segmentation' has"):
        mask_of_segmentation(value, (3, 6))


def test_the_interval_leaves_out_two_and_a_half_per_cent_at_each_end():
    assert metrics._central_95(np.arange(1001)) == (25.0, 975.0)


def test_a_confidence_of_1_is_in_the_last_bin():
    """0.95 (right) and 1.0 (wrong) share the last of ten bins: |0.05 - 1.0| / 2. Apart they would give 1.05 / 2."""
    probabilities = np.float32([[0.95, 0.05], [1.0, 0.0]])
    assert calibration_error(probabilities, np.array([0, 1]), bins=10) == pytest.approx(0.475, abs=1e-6)


def test_long_lists_of_classes_show_the_worst_and_the_best():
    def result(accuracy):
        return ClassResult(regions=4, accuracy=accuracy, ci95=(0.0, 1.0), most_confused_with=None)

    few = {f"c{number:02}": result(number / 100) for number in range(2 * LISTED_CLASSES)}
    assert _class_tables(few)[0] == "From the worst to the best:"
    many = {**few, "last": result(0.99)}
    worst_title, worst, best_title, best = _class_tables(many)
    assert (worst_title, best_title) == (f"The {LISTED_CLASSES} worst:", f"The {LISTED_CLASSES} best:")
    names = [[row.split("|")[1].strip() for row in table.splitlines()[2:]] for table in (worst, best)]
    assert names[0] == [f"c{number:02}" for number in range(LISTED_CLASSES)]
    assert names[1] == ["last", *(f"c{number:02}" for number in range(2 * LISTED_CLASSES - 1, LISTED_CLASSES, -1))]


@pytest.mark.parametrize(("machine", "asked"), [(7, 2), (2, 0)])
def test_onnx_runtime_gets_the_cores_that_this_process_may_use(tmp_path, monkeypatch, machine, asked):
    """0 leaves the number to ONNX Runtime, which then pins its threads to all cores."""
    monkeypatch.setattr(session, "available_cores", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    opened, _ = session.open_session(colour_model(tmp_path))
    assert opened.get_session_options().intra_op_num_threads == asked


def test_floats_of_which_some_are_above_1_are_refused():
    with pytest.raises(MaskError, match=r"floats from 0\.2 to 5"):
        region_pixels(np.array([[0.2, 5.0]]))


def test_masks_are_given_to_the_network_at_least_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "MAX_MASK_PIXELS", 1)
    view = ViewSettings(size=8)
    shared = SharedView(view.view(Mask.from_box((2, 2, 9, 9), (20, 30))), (4, 5, 6))
    assert [part.masks for part in predictor._parts(shared)] == [(4,), (5,), (6,)]
    monkeypatch.setattr(predictor, "MAX_MASK_PIXELS", 130)
    assert [part.masks for part in predictor._parts(shared)] == [(4, 5), (6,)]


def test_shifted_masks_go_in_all_directions():
    mask = Mask.from_box((40, 40, 20, 20), (100, 100))
    moved = _with_noise([mask] * 60, "shift", np.random.default_rng(0))
    moves = np.array([np.subtract(one.box_xywh[:2], (40, 40)) for one in moved])
    for axis in (0, 1):
        assert (moves[:, axis] > 0).sum() > 15
        assert (moves[:, axis] < 0).sum() > 15


def test_the_chosen_head_is_marked(capsys):
    parts = (Part("linear", 1.0),), (Part("mean", 0.5),)
    trials = tuple(Trial(part, micro=0.5, macro=0.5, likelihood=-1.0, regions=9, classes=2) for part in parts)
    print_fit(Fit({"a": 4, "b": 5}, trials, 1.0))
    lines = [line for line in capsys.readouterr().out.splitlines() if "linear 1" in line or "mean 0.5" in line]
    assert ["(chosen)" in line for line in lines] == [True, False]


def test_json_is_indented_by_two(tmp_path):
    write_json(tmp_path / "a.json", {"a": ["é"]})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": [\n    "é"\n  ]\n}\n'


@pytest.mark.parametrize("length", [5, 6])
def test_a_text_is_shortened_to_a_length(length):
    assert shortened("abcdefghij", length) == {5: "ab…ij", 6: "abc…hij"}[length]


def test_the_colour_of_a_class_fits_into_a_byte_and_is_strong():
    for number in range(300):
        colour = class_colour(f"class {number}")
        lightness = (max(colour) + min(colour)) / 2 / 255
        assert 0 <= min(colour) < max(colour) <= 255
        # Lightness 0.45, 0.55 or 0.65; saturation 0.85 of what it allows.
        assert min(abs(lightness - wanted) for wanted in (0.45, 0.55, 0.65)) < 0.004
        assert (max(colour) - min(colour)) / 255 == pytest.approx(0.85 * (1 - abs(2 * lightness - 1)), abs=0.01)


def test_a_long_text_loses_its_middle():
    text = "0123456789" * 20
    short = shortened(text)
    assert short.startswith("0123456789")
    assert short.endswith("0123456789")
    assert len(short) < 200
    assert shortened("0123456789") == "0123456789"


def test_records_of_other_kinds_are_found_again(tmp_path, segments):
    """Between two annotations stand a number and a text that has a brace in it."""
    content = json.loads(segments.read_text())
    content["annotations"][1:1] = [7, "a { b"]
    segments.write_text(json.dumps(content))
    coco = read_coco(segments, labelled=False, on_error="skip")
    assert coco.ids(0)[1] == content["annotations"][0]["id"]
    problems = [problem.message for problem in coco.problems]
    assert len(problems) >= 2


def test_a_stated_size_of_one_pixel_is_a_size(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 1, "width": 6}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [2, 0, 3, 1]}],
    }
    (tmp_path / "s.json").write_text(json.dumps(content))
    coco = read_coco(tmp_path / "s.json", labelled=False)
    assert coco.read_mask(0, tmp_path / "missing.png").box_xywh == (2, 0, 3, 1)


def test_a_height_without_a_width_is_no_size(tmp_path):
    """Then the image says it."""
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [2, 0, 3, 1]}],
    }
    (tmp_path / "s.json").write_text(json.dumps(content))
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    coco = read_coco(tmp_path / "s.json", labelled=False)
    assert coco.read_mask(0, tmp_path / "a.png").image_hw == (4, 6)


def test_threads_that_are_asked_for_are_given_to_onnx_runtime(tmp_path):
    opened, _ = session.open_session(colour_model(tmp_path), threads=3)
    assert opened.get_session_options().intra_op_num_threads == 3


def test_lines_of_large_pictures_are_thicker():
    """900 pixels: 2. 2250 pixels: a line of 5."""
    for side, thickness in ((900, 2), (2250, 5)):
        image = np.zeros((40, side, 3), dtype=np.uint8)
        mask = Mask.from_box((side // 2, 0, side // 3, 40), (40, side))
        expected = np.zeros_like(image)
        draw_outline(expected, mask.to_array(), GREY, max(thickness // 2, 1))
        np.testing.assert_array_equal(draw_overlay(image, [mask], [None]), expected)


def test_instances_that_leave_no_ground_are_all_there(tmp_path):
    """The first id is not 0: no pixel is lost, and none is of another object."""
    ids = np.array([[5, 5, 5, 9], [5, 9, 9, 9], [7, 7, 7, 7]], dtype=np.uint8)
    Image.fromarray(ids).save(tmp_path / "i.png")
    regions = dict(read_instances(tmp_path / "i.png", (3, 4)))
    assert {name: mask.area for name, mask in regions.items()} == {"id 5": 4, "id 7": 4, "id 9": 4}
    np.testing.assert_array_equal(regions["id 5"].to_array(), ids == 5)


def test_two_pairs_are_two_polygons_of_too_few_points():
    with pytest.raises(MaskError):
        mask_of_segmentation([[1, 2], [3, 4]], (6, 8))
    assert mask_of_segmentation([[1, 1], [5, 1], [5, 4], [1, 4]], (6, 8)).area == 12


def test_a_mask_of_a_stack_is_named_by_its_place(tmp_path):
    stack = np.zeros((3, 4, 6), dtype=bool)
    stack[:2, 1, 2] = True
    np.save(tmp_path / "m.npy", stack)
    with pytest.raises(MaskError, match=r"m\.npy, mask 2: "):
        read_masks(tmp_path / "m.npy", (4, 6))


def test_an_image_without_an_iscrowd_has_single_objects(tmp_path):
    assert coco_index._Annotation(id=1, image_id=1).iscrowd == 0


def test_what_a_terminal_cannot_show_is_escaped(monkeypatch):
    stream = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["maskwise", "--version"])
    with pytest.raises(SystemExit):
        main.main()
    stream.write("é")
    stream.flush()
    assert stream.buffer.getvalue().endswith(b"\\xe9")


def test_macro_accuracy_counts_classes_that_have_regions():
    assert metrics.macro_accuracy(np.array([0, 0, 2]), np.array([0, 2, 2])) == 0.75


def test_low_confidences_have_bins_of_their_own():
    """Of twenty classes: 0.06 (right) is in the first of fifteen bins, 0.1 (wrong) in the second."""
    first, second = np.full(20, 0.94 / 19), np.full(20, 0.9 / 19)
    first[0], second[0] = 0.06, 0.1
    error = calibration_error(np.float32([first, second]), np.array([0, 1]))
    assert error == pytest.approx((0.94 + 0.1) / 2, abs=1e-6)


def test_files_are_looked_for_by_their_last_part(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    Image.new("RGB", (6, 4)).save(tmp_path / "deep" / "er" / "a.png")
    content = {"images": [{"id": 1, "file_name": "other/folder/a.png"}], "annotations": [], "categories": []}
    (tmp_path / "s.json").write_text(json.dumps(content))
    coco = read_coco(tmp_path / "s.json", labelled=False)
    assert find_each_image(coco, tmp_path, [0]) == [str(tmp_path / "deep" / "er" / "a.png")]


def test_regions_of_the_same_place_are_equal_whatever_their_pixels():
    def read():
        raise AssertionError

    fields = (Path("a.png"), 1, 2, "cat", None, False, read)
    one = LabelledRegion(*fields, image=np.zeros((2, 3, 3), dtype=np.uint8))
    assert one == LabelledRegion(*fields, image=np.ones((2, 3, 3), dtype=np.uint8))
    assert "image=" not in repr(one)


def test_an_image_of_unknown_size_is_written_as_it_was(segments, tmp_path):
    """A record of the wrong kind among the images gets no width and height."""
    content = json.loads(segments.read_text())
    content["images"].append({"id": "none", "file_name": "missing.png"})
    segments.write_text(json.dumps(content))
    label_coco(segments, segments.parent / "images", tmp_path / "o.json", Predictor(colour_model(tmp_path)))
    last = json.loads((tmp_path / "o.json").read_text())["images"][-1]
    assert last == {"id": "none", "file_name": "missing.png"}


def test_a_stated_width_of_one_pixel_is_a_size(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 6, "width": 1}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [0, 2, 1, 3]}],
    }
    (tmp_path / "s.json").write_text(json.dumps(content))
    coco = read_coco(tmp_path / "s.json", labelled=False)
    assert coco.read_mask(0, tmp_path / "missing.png").box_xywh == (0, 2, 1, 3)


def test_a_results_list_of_one_image_may_be_of_the_photograph(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps([{"image_id": 7, "bbox": [1, 1, 2, 2]}]))
    coco = read_segments(tmp_path / "r.json", tmp_path / "photo.png")
    assert (coco.file_name(0), coco.ids(0)) == ("photo.png", (7, 1))


@pytest.mark.parametrize(("count", "listed"), [(20, False), (21, True)])
def test_twenty_problems_are_listed_and_the_others_counted(count, listed):
    with pytest.raises(AnnotationError) as e:
        refuse([Problem(f"fault {number}") for number in range(count)])
    assert "fault 19" in str(e.value)
    assert ("; and 1 more" in str(e.value)) is listed
    assert ("and 0 more" in str(e.value)) is False


def test_a_file_without_images_is_told_that_it_lacks_them(tmp_path):
    (tmp_path / "s.json").write_text('{"annotations": []}')
    with pytest.raises(AnnotationError, match="has no list 'images'"):
        read_segments(tmp_path / "s.json", tmp_path / "photo.png")


def test_faulty_annotations_are_numbered_by_their_rows(segments):
    content = json.loads(segments.read_text())
    content["images"].append({"id": 99})
    content["annotations"][2] = {"id": 5}
    segments.write_text(json.dumps(content))
    problems = read_coco(segments, labelled=False, on_error="skip").problems
    assert [problem.row for problem in problems] == [None, 2]


def test_a_number_is_neither_text_nor_truth():
    assert [_is_number(value) for value in (1, 1.5, True, "1", None)] == [True, True, False, False, False]


def test_embeddings_do_not_make_predictions_differ():
    names = (Name("cup", 47, 0.75),)
    one, other = (Prediction(names, embedding=np.float32([value, 1])) for value in (1, 2))
    assert one == other


def test_a_deleted_journal_may_be_deleted_again(tmp_path):
    with Journal(tmp_path / "o.partial") as journal:
        journal.delete()
        journal.delete()
    assert not (tmp_path / "o.partial").exists()


def test_probabilities_of_a_report_have_six_digits(tmp_path):
    image = np.full((20, 30, 3), (200, 90, 40), dtype=np.uint8)
    regions = RegionSet.from_arrays([image], [np.ones((1, 20, 30), dtype=bool)], [["person"]])
    (row,) = evaluate(Predictor(colour_model(tmp_path)), regions).predictions
    probability = float(Predictor(colour_model(tmp_path)).probabilities(image, np.ones((1, 20, 30), dtype=bool)).max())
    assert row[4] == round(probability, 6)
    assert row[4] != round(probability, 7)


def test_progress_names_the_noise(monkeypatch, tmp_path):
    said = []

    class Quiet:
        def __init__(self, total, what, unit):
            said.append(what)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self, count=1):
            return None

    monkeypatch.setattr("maskwise.tasks.evaluation.Progress", Quiet)
    image = np.full((20, 30, 3), (200, 90, 40), dtype=np.uint8)
    regions = RegionSet.from_arrays([image], [np.ones((1, 20, 30), dtype=bool)], [["person"]])
    evaluate(Predictor(colour_model(tmp_path)), regions, mask_noise=True)
    assert said == ["evaluate", "dilate", "erode", "shift", "box"]
