"""Faults in the data of `evaluate` and `fit`: all listed at once, or left out and counted."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise import Predictor, evaluate, fit_classes
from maskwise.cli.main import run
from maskwise.data.coco_regions import regions_from_coco
from maskwise.data.label_maps import regions_from_label_maps
from maskwise.data.regions import Category
from maskwise.errors import AnnotationError, ImageError, MaskError
from two_objects import write_two_objects


@pytest.fixture
def folder(tmp_path):
    return write_two_objects(tmp_path / "coco", images=8)


@pytest.fixture
def base(tmp_path):
    return colour_model(tmp_path, categories=(Category(3, "square"), Category(7, "cup"), Category(9, "disc")))


def mend(folder, change):
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def read(folder, **more):
    return regions_from_coco(folder / "annotations.json", folder / "images", **more)


def spoil(folder):
    """Four faults: an unknown category, a missing image, an image cut short, an empty mask. Returns its ids."""
    content = json.loads((folder / "annotations.json").read_text())
    names = [image["file_name"] for image in content["images"]]
    (folder / "images" / names[1]).unlink()
    cut = folder / "images" / names[2]
    cut.write_bytes(cut.read_bytes()[:200])

    def change(content):
        of_third_image = [a for a in content["annotations"] if a["image_id"] == content["images"][3]["id"]]
        content["annotations"][0]["category_id"] = 99
        of_third_image[0]["segmentation"] = [[5000, 5000, 5009, 5000, 5009, 5009]]

    mend(folder, change)
    return names


def test_faults_of_the_file_and_missing_images_are_listed_together(folder):
    names = spoil(folder)
    with pytest.raises(
        AnnotationError, match=r"2 problems; --on-error skip leaves them out: \(1\) .*category_id 99.*"
    ) as e:
        read(folder)
    assert names[1] in str(e.value)


def test_faults_of_images_and_masks_are_listed_together(folder, base):
    names = spoil(folder)
    regions = read(folder, on_error="skip")
    assert len(regions.problems) == 2
    for work in (
        lambda: evaluate(Predictor(base), regions),
        lambda: fit_classes(regions, folder / "m.onnx", model=base),
    ):
        with pytest.raises(AnnotationError, match="2 problems") as e:
            work()
        assert names[2] in str(e.value)
        assert "the polygon lies outside the image" in str(e.value)
    assert not (folder / "m.onnx").exists()


def test_a_single_fault_is_raised_as_it_is(folder, base):
    content = json.loads((folder / "annotations.json").read_text())
    file = folder / "images" / content["images"][2]["file_name"]
    whole = file.read_bytes()
    file.write_bytes(whole[:200])
    with pytest.raises(ImageError, match=file.name):
        evaluate(Predictor(base), read(folder))
    file.write_bytes(whole)
    mend(folder, lambda content: content["annotations"][1].update(segmentation=[[-9, -9, -5, -9, -5, -5]]))
    with pytest.raises(MaskError, match=f"annotation id {content['annotations'][1]['id']}"):
        evaluate(Predictor(base), read(folder))


def test_faults_may_be_left_out_and_are_counted(folder, base, tmp_path):
    """Eight images of two objects: 1 region, 2 regions, 2 regions and 1 region are lost."""
    spoil(folder)
    regions = read(folder, on_error="skip")
    fitted = fit_classes(regions, tmp_path / "m.onnx", model=base, on_error="skip")
    assert sum(fitted.regions.values()) == 10
    assert len(fitted.problems) == 4
    evaluation = evaluate(Predictor(tmp_path / "m.onnx"), regions, on_error="skip", mask_noise=True)
    assert (evaluation.report.regions, evaluation.report.faults) == (10, 4)
    assert evaluation.report.micro == 1.0
    assert len(evaluation.predictions) == 10


def test_rows_of_kept_regions_keep_their_place(folder, base, tmp_path):
    """The report of the rest is that of a file without the faulty records."""
    fit_classes(read(folder), tmp_path / "m.onnx", model=base)
    spoil(folder)
    skipped = evaluate(Predictor(tmp_path / "m.onnx"), read(folder, on_error="skip"), on_error="skip")
    content = json.loads((folder / "annotations.json").read_text())
    kept = {row[1] for row in skipped.predictions}

    def change(content):
        content["annotations"] = [a for a in content["annotations"] if a["id"] in kept]

    mend(folder, change)
    plain = evaluate(Predictor(tmp_path / "m.onnx"), read(folder))
    assert plain.predictions == skipped.predictions
    assert len(content["annotations"]) == len(kept) + 6


def test_commands_list_faults_or_leave_them_out(folder, base, tmp_path, capsys):
    spoil(folder)
    sources = [str(folder / "images"), str(folder / "annotations.json"), "--model", str(base)]
    assert run(["fit", *sources, "-o", str(tmp_path / "m.onnx")]) == 1
    assert "2 problems; --on-error skip leaves them out" in capsys.readouterr().err
    assert run(["fit", *sources, "-o", str(tmp_path / "m.onnx"), "--on-error", "skip"]) == 0
    output = capsys.readouterr()
    assert "2 faults left out; the first: " in output.err
    assert "left out: 4 faults in the data" in output.out
    sources[-1] = str(tmp_path / "m.onnx")
    assert run(["evaluate", *sources, "-o", str(tmp_path / "out"), "--on-error", "skip"]) == 0
    assert "problems.json: 4 faults in the data, left out" in capsys.readouterr().out.replace("\n", "")
    assert len(json.loads((tmp_path / "out" / "problems.json").read_text())["problems"]) == 4
    assert json.loads((tmp_path / "out" / "report.json").read_text())["faults"] == 4
    assert "4 faults in the data are left out" in (tmp_path / "out" / "report.md").read_text()


def test_nothing_but_faults_is_an_error(folder, base):
    for file in (folder / "images").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(AnnotationError, match="no region can be evaluated; the first fault: "):
        evaluate(Predictor(base), read(folder), on_error="skip")
    with pytest.raises(AnnotationError, match="no region is left to fit to"):
        fit_classes(read(folder), folder / "m.onnx", model=base, on_error="skip")


def test_images_outside_the_folder_need_leave(folder, base):
    (folder / "elsewhere").mkdir()
    content = json.loads((folder / "annotations.json").read_text())
    name = content["images"][0]["file_name"]
    os.rename(folder / "images" / name, folder / "elsewhere" / name)
    mend(folder, lambda content: content["images"][0].update(file_name=f"../elsewhere/{name}"))
    with pytest.raises(AnnotationError, match="leaves the folder"):
        read(folder)
    regions = read(folder, allow_outside=True)
    assert len(regions.regions) == 16
    assert evaluate_or_fit_reads(regions, base)


def evaluate_or_fit_reads(regions, base):
    return fit_classes(regions, base.with_name("m.onnx"), model=base).regions == {"square": 8, "disc": 8}


@pytest.fixture
def label_maps(tmp_path):
    """Four maps of 10 x 20 pixels: half sky, half road, with specks; two of them are faulty."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    for number in range(4):
        labels = np.zeros((10, 20), dtype=np.uint8)
        labels[5:] = 1
        labels[1, 3] = labels[2, 9] = 1
        Image.fromarray(labels).save(tmp_path / "labels" / f"{number}.png")
        Image.new("RGB", (20, 10), (90, 90 + number, 9)).save(tmp_path / "images" / f"{number}.png")
    Image.new("RGB", (30, 10)).save(tmp_path / "images" / "1.png")
    (tmp_path / "images" / "2.png").unlink()
    return tmp_path


def test_faulty_label_maps_are_listed_together_or_left_out(label_maps):
    sources = (label_maps / "labels", label_maps / "images", label_maps / "classes.txt")
    with pytest.raises(AnnotationError, match=r"2 problems.*1\.png.*20 x 10.*2\.png.*has no image"):
        regions_from_label_maps(*sources)
    regions = regions_from_label_maps(*sources, on_error="skip")
    assert [problem.image_id for problem in regions.problems] == ["1", "2"]
    assert regions.regions.counts() == {"sky": 2, "road": 6}
    mask = regions.regions[len(regions.regions) - 1].read_mask()  # Of the last map, not of the last usable number.
    assert regions.regions[len(regions.regions) - 1].image_path.name == "3.png"
    assert mask.image_hw == (10, 20)


def test_specks_are_left_out_by_a_share_of_the_image(label_maps):
    sources = (label_maps / "labels", label_maps / "images", label_maps / "classes.txt")
    regions = regions_from_label_maps(*sources, on_error="skip", min_area=0.01)
    assert regions.regions.counts() == {"sky": 2, "road": 2}  # A speck is 1 of 200 pixels.
    assert regions.notes == (
        "4 of 8 components are smaller than 0.01 of the image and left out (--min-area changes that)",
    )
    assert regions_from_label_maps(*sources, on_error="skip", min_area=0.005).notes == ()


def test_fit_leaves_specks_out_unless_told(label_maps, base, capsys, monkeypatch):
    monkeypatch.setattr("maskwise.data.label_maps.SPECK", 0.01)
    flags = ["fit", str(label_maps / "images"), "--label-maps", str(label_maps / "labels"), "--classes"]
    flags += [str(label_maps / "classes.txt"), "--on-error", "skip", "--model", str(base), "-o"]
    assert run([*flags, str(label_maps / "m.onnx")]) == 0
    assert "4 of 8 components are smaller than 0.01 of the image" in capsys.readouterr().err
    assert Predictor(label_maps / "m.onnx").info.training["regions"] == {"sky": 2, "road": 2}
    assert run([*flags, str(label_maps / "m.onnx"), "--min-area", "1"]) == 0
    assert Predictor(label_maps / "m.onnx").info.training["regions"] == {"sky": 2, "road": 6}


def test_a_share_needs_label_maps(folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(["fit", str(folder / "images"), str(folder / "annotations.json"), "--min-area", "0.01"])
    assert stopped.value.code == 2
    assert "--min-area 0.01: give pixels, 1 or more; a share needs --label-maps" in capsys.readouterr().err
