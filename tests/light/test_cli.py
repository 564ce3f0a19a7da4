import json
import subprocess
import sys
import time
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise.cli import main
from maskwise.cli.options import Mode
from maskwise.model.predictor import MODES


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return colour_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def photo(tmp_path):
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[10:30, 20:50] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "photo.png"


def fails(args, capsys, *texts):
    """Run; exit code 1, and one line on stderr that has the texts."""
    assert main.run([str(arg) for arg in args]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    for text in texts:
        assert text in captured.err
    return captured


def test_predict_prints_a_table_and_writes_json_and_picture(photo, model, tmp_path, capsys):
    args = ["predict", photo, "--mask", tmp_path / "mask.png", "--box", "1,2,30,20", "--polygon", "5,5,40,5,20,50"]
    args += ["--json", tmp_path / "out.json", "--overlay", tmp_path / "out.png", "--model", model]
    assert main.run([str(arg) for arg in args]) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    table = capsys.readouterr().out
    assert [region["region"] for region in record["regions"]] == ["mask.png", "box 1,2,30,20", "polygon 1"]
    for region in record["regions"]:
        assert region["names"][0]["name"] in table
        assert len(region["names"]) == 3
    assert record["regions"][0]["bbox"] == [20, 10, 30, 20]
    overlay = np.array(Image.open(tmp_path / "out.png"))
    assert overlay.shape[0] == 675  # 80 x 60 pixels, enlarged to 900 x 675; a legend may add width.


def test_json_may_go_to_standard_output_alone(photo, model, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main.run(["predict", str(photo), "--box", "1,2,30,20", "--model", str(model), "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["regions"][0]["region"] == "box 1,2,30,20"
    assert "box 1,2,30,20" in captured.err
    assert main.run(["check", str(tmp_path / "none.json"), "--json", "-"]) == 1
    (tmp_path / "s.json").write_text('{"images": [], "annotations": []}')
    assert main.run(["check", str(tmp_path / "s.json"), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["contents"]["annotations"] == 0
    assert not (tmp_path / "-").exists()


def test_modes_are_those_of_the_predictor():
    assert get_args(get_args(Mode)[0]) == MODES


@pytest.fixture(scope="module")
def sharing_model(tmp_path_factory):
    return colour_model(tmp_path_factory.mktemp("sharing"), shares=True)


@pytest.mark.parametrize(
    ("mode", "said"), [("shared", "2 masks shared 1 crop(s); --mode exact crops around each\n"), ("exact", "")]
)
def test_predict_says_where_masks_shared_views(photo, sharing_model, capsys, mode, said):
    boxes = ["--box", "10,10,20,20", "--box", "12,12,20,20"]
    assert main.run(["predict", str(photo), *boxes, "--model", str(sharing_model), "--mode", mode]) == 0
    assert capsys.readouterr().err == said


def test_mask_may_be_repeated(photo, model, tmp_path, capsys):
    mask = str(tmp_path / "mask.png")
    assert main.run(["predict", str(photo), "--mask", mask, "--mask", mask, "--model", str(model)]) == 0
    assert capsys.readouterr().out.count("mask.png") == 2


SAM_LIST = [{"segmentation": {"size": [60, 80], "counts": [600, 300, 3900]}, "area": 300, "predicted_iou": 0.9}]
SA_1B = {
    "image": {"image_id": 9, "width": 80, "height": 60, "file_name": "sa_9.jpg"},
    "annotations": [{"id": 77, "segmentation": {"size": [60, 80], "counts": [600, 300, 3900]}, "bbox": [10, 0, 5, 60]}],
}


@pytest.mark.parametrize(("content", "name"), [(SAM_LIST, "segment 1"), (SA_1B, "segment 77")])
def test_predict_reads_what_sam_writes(photo, model, tmp_path, capsys, content, name):
    (tmp_path / "sam.json").write_text(json.dumps(content))
    args = ["predict", photo, "--segments", tmp_path / "sam.json", "--json", tmp_path / "o.json", "--model", model]
    assert main.run([str(arg) for arg in args]) == 0
    (region,) = json.loads((tmp_path / "o.json").read_text())["regions"]
    assert (region["region"], region["area"], region["bbox"]) == (name, 300, [10, 0, 5, 60])


@pytest.mark.parametrize("content", [[], [1], {"image": 3, "annotations": []}, {"image": {}, "annotations": 3}])
def test_what_is_like_sams_but_not_it_is_refused(photo, model, tmp_path, capsys, content):
    (tmp_path / "sam.json").write_text(json.dumps(content))
    fails(["predict", photo, "--segments", tmp_path / "sam.json", "--model", model], capsys, "sam.json")


def test_outputs_are_checked_before_anything_is_written(photo, model, tmp_path, capsys):
    base = ["predict", photo, "--box", "1,2,30,20", "--model", model, "--json", tmp_path / "o.json"]
    fails([*base, "--overlay", tmp_path / "no" / "o.png"], capsys, "the folder", "does not exist")
    fails([*base, "--overlay", photo], capsys, "photo.png: is the input itself")
    fails([*base, "--top", "0"], capsys, "top is 0; give at least 1")
    fails(["predict", photo, "--box", "1,2,30,20", "--json", tmp_path], capsys, "is a folder; give the name of a file")
    assert not (tmp_path / "o.json").exists()


def test_errors_of_boxes_and_polygons_say_which(photo, model, capsys):
    fails(["predict", photo, "--box", "700,10,5,5"], capsys, "--box 700,10,5,5: the box 700, 10, 5, 5 lies outside")
    fails(
        ["predict", photo, "--polygon", "900,900,910,900,905,950"], capsys, "--polygon 900", "the polygon lies outside"
    )


def test_help_of_every_command_needs_no_training_extra(tmp_path):
    """Also of train, whose settings are read by a library of the extra."""
    block = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "cattrs", "timm", "onnx", "accelerate", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from maskwise.cli import main
"""
    for verb in main.COMMANDS:
        command = [sys.executable, "-c", f"{block}\nmain.run(['{verb}', '--help'])"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), verb
        assert f"maskwise {verb}" in done.stdout
    command = [sys.executable, "-c", f"{block}\nsys.exit(main.run(['train', 'recipe.toml']))"]
    (tmp_path / "recipe.toml").write_text("")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "needs the package cattrs; install it with: pip install" in done.stderr


def test_predict_reads_the_segments_of_its_image(photo, model, tmp_path, capsys):
    segments = {
        "images": [{"id": 1, "file_name": "other.png"}, {"id": 2, "file_name": "photo.png"}],
        "annotations": [
            {"id": 5, "image_id": 1, "bbox": [0, 0, 5, 5]},
            {"id": 6, "image_id": 2, "bbox": [4, 4, 20, 20]},
        ],
    }
    (tmp_path / "s.json").write_text(json.dumps(segments))
    assert main.run(["predict", str(photo), "--segments", str(tmp_path / "s.json"), "--model", str(model)]) == 0
    table = capsys.readouterr().out
    assert "segment 6" in table
    assert "segment 5" not in table


def test_a_missing_file_is_named(tmp_path, capsys):
    fails(["predict", tmp_path / "none.jpg", "--box", "0,0,5,5"], capsys, "none.jpg: no such image file")


def test_a_file_that_is_no_image_is_named(tmp_path, capsys):
    (tmp_path / "a.jpg").write_text("hello")
    fails(["predict", tmp_path / "a.jpg", "--box", "0,0,5,5"], capsys, "a.jpg: is not an image", "give a JPEG")


def test_an_image_cut_short_is_named(photo, tmp_path, capsys):
    Image.open(photo).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    fails(["predict", tmp_path / "cut.jpg", "--box", "0,0,5,5"], capsys, "cut.jpg: is damaged or cut short")


def test_a_mask_of_another_size_is_named(photo, tmp_path, capsys):
    Image.fromarray(np.full((10, 10), 255, np.uint8)).save(tmp_path / "m.png")
    args = ["predict", photo, "--mask", tmp_path / "m.png", "--overlay", tmp_path / "o.png"]
    fails(args, capsys, "m.png: the mask is 10 x 10 pixels, the image 80 x 60", "give a mask of the image's size")
    assert not (tmp_path / "o.png").exists()


def test_an_empty_mask_is_named(photo, tmp_path, capsys):
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(tmp_path / "m.png")
    fails(["predict", photo, "--mask", tmp_path / "m.png"], capsys, "m.png: the mask is empty")


def test_a_missing_key_is_named(photo, tmp_path, capsys):
    (tmp_path / "s.json").write_text('{"images": [{"id": 1, "file_name": "photo.png"}], "annotations": [{"id": 3}]}')
    fails(["predict", photo, "--segments", tmp_path / "s.json"], capsys, "s.json: annotations[0] has no 'image_id'")


def test_a_model_of_another_kind_is_named(photo, tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    fails(
        ["predict", photo, "--box", "0,0,5,5", "--model", tmp_path / "m.onnx"],
        capsys,
        "m.onnx: ONNX Runtime cannot load it",
    )


def test_an_output_in_a_missing_folder_is_refused(photo, model, tmp_path, capsys):
    args = ["predict", photo, "--box", "0,0,5,5", "--model", model, "--json", tmp_path / "no" / "o.json"]
    fails(args, capsys, "o.json: the folder", "does not exist")


def test_a_picture_of_no_format_is_refused_before_anything_is_written(photo, model, tmp_path, capsys):
    outputs = ["--json", tmp_path / "o.json", "--overlay", tmp_path / "o.xyz"]
    fails(["predict", photo, "--box", "0,0,5,5", "--model", model, *outputs], capsys, "o.xyz", ".png")
    assert not (tmp_path / "o.json").exists()


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", "500,0,5,5", "0,0,0,5"])
def test_an_impossible_box_is_refused(photo, capsys, box):
    fails(["predict", photo, "--box", box], capsys, box.split(",")[0])


def test_label_writes_the_named_file(photo, model, tmp_path, capsys):
    segments = {
        "images": [{"id": 2, "file_name": "photo.png"}],
        "annotations": [{"id": 6, "image_id": 2, "bbox": [4, 4, 20, 20]}],
    }
    (tmp_path / "s.json").write_text(json.dumps(segments))
    args = ["label", tmp_path, tmp_path / "s.json", "-o", tmp_path / "out.json", "--model", model]
    assert main.run([str(arg) for arg in args]) == 0
    assert "1 annotations" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["annotations"][0]["score"] > 0


@pytest.mark.parametrize("args", [[], ["nonsense"], ["predict"], ["predict", "x.png"], ["label", "--nothing"]])
def test_wrong_usage_exits_with_2(args, capsys):
    try:
        code = main.run(args)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("verb", main.COMMANDS)
def test_help_has_examples(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main.run([verb, "--help"])
    assert stop.value.code == 0
    assert f"maskwise {verb} " in capsys.readouterr().out.split("Examples:")[1]


def test_help_lists_every_command_at_once():
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", "from maskwise.cli.main import main; import sys; sys.argv[1:] = ['--help']; main()"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - started < 2
    for verb in main.COMMANDS:
        assert verb in done.stdout
