"""Hostile and unlucky input: each ends in one line, before anything large is made."""

import io
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from maskwise import Mask, load_image
from maskwise.cli import main
from maskwise.data.atomic_files import check_output, write_json
from maskwise.data.coco_file import read_coco
from maskwise.errors import AnnotationError, InputError, MaskError, ModelError
from maskwise.model.model_file import METADATA_KEY, ModelInfo
from maskwise.progress import Progress


def coco(folder, annotation, **image):
    content = {
        "images": [{"id": 1, "file_name": "a.png", **image}],
        "annotations": [{"id": 1, "image_id": 1, **annotation}],
    }
    (folder / "c.json").write_text(json.dumps(content))
    return read_coco(folder / "c.json", labelled=False)


def test_a_box_of_huge_numbers_is_clipped():
    assert Mask.from_box((-1e308, 2, 1.5e308, 3), (8, 9)).box_xywh == (0, 2, 9, 3)
    with pytest.raises(MaskError, match="outside the image"):
        Mask.from_box((1e308, 0, 1e308, 5), (8, 9))


def test_a_stated_size_is_refused_before_a_mask_of_it_is_made(tmp_path):
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    huge = coco(tmp_path, {"bbox": [0, 0, 60_000, 60_000]}, height=60_000, width=60_000)
    with pytest.raises(
        MaskError, match=r"annotation id 1 is of an image of 60000 x 60000 pixels by the file; accepted"
    ):
        huge.read_mask(0, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [], "annotations": [], "info": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deep"),
        (b'{"images": [], "annotations": [], "\xff": 1}', "is not UTF-8 text near byte 35"),
        (b'{"images": [], "annotations": [], "x": "\xc3', "is not UTF-8|is not JSON"),
    ],
)
def test_json_that_is_none_is_refused_in_a_line(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        read_coco(tmp_path / "a.json", labelled=False)


def test_one_long_name_does_not_make_every_row_long(tmp_path):
    images = [{"id": i, "file_name": "b"} for i in range(60_000)]
    images[5]["file_name"] = "x" * 200_000
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": []}))
    file = read_coco(tmp_path / "a.json", labelled=False, cache=tmp_path / "cache")
    assert file.index.file_name.nbytes < 1_000_000
    assert (file.file_name(4), len(file.file_name(5))) == ("b", 200_000)


def test_outputs_are_plain_files_and_links_are_followed(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="is not a plain file, and is not replaced"):
        check_output(tmp_path / "fifo")
    with pytest.raises(InputError, match=r"cannot be written .File name too long"):
        check_output(tmp_path / ("a" * 300))
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_json(tmp_path / "link.json", [1], indent=None)
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "[1]\n"


def test_a_name_that_is_not_utf8_can_be_written(tmp_path):
    write_json(tmp_path / "a.json", {"image": os.fsdecode(b"\xff.jpg")})
    assert json.loads((tmp_path / "a.json").read_bytes())["image"] == "\udcff.jpg"


GOOD = {
    "name": "m",
    "categories": [{"id": 1, "name": "a"}, {"id": "two", "name": "b"}],
    "view": {"size": 64},
    "format": "maskwise-region-classifier",
    "format_version": 2,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, "temperature is 0, not 0.001 to 1000"),
        ({"temperature": "hot"}, "malformed"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"batch_size": -3}, "batch_size is -3, not 1 to 4096"),
        ({"batch_size": True}, "batch_size is True"),
        ({"view": {"size": 10**9}}, "view.size is 1000000000"),
        ({"categories": []}, "categories is empty"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "a name stands twice"),
        ({"categories": [{"id": [1], "name": "a"}]}, "malformed"),
        ({"categories": 7}, "incomplete or malformed"),
        ({"shares": 1}, "malformed"),
        ({"name": 5}, "malformed"),
        ({"unknown": 5}, "incomplete or malformed"),
    ],
)
def test_every_field_of_a_models_metadata_is_checked(change, message):
    assert ModelInfo.from_metadata({METADATA_KEY: json.dumps(GOOD)}, "m.onnx").categories[1].id == "two"
    with pytest.raises(ModelError, match=f"m.onnx: .*{message}"):
        ModelInfo.from_metadata({METADATA_KEY: json.dumps(GOOD | change)}, "m.onnx")


@pytest.mark.parametrize("text", ["[", "[]", "3"])
def test_metadata_that_is_no_object_is_refused(text):
    with pytest.raises(ModelError, match=r"m\.onnx: its metadata is not"):
        ModelInfo.from_metadata({METADATA_KEY: text}, "m.onnx")


def test_a_full_disk_behind_standard_output_is_one_line(tmp_path):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "maskwise", "--help"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        b"maskwise: cannot write to standard output (No space left on device)\n",
    )


def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m maskwise --help | head -c 0; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_an_interruption_says_how_far_it_got(monkeypatch, capsys):
    class Command:
        def run(self):
            error = KeyboardInterrupt()
            error.add_note("3 of 8 images are done and kept; repeat the command to go on")
            raise error

    monkeypatch.setattr("maskwise.cli.options.parse_flags", lambda *_args, **_more: Command())
    assert main.run(["label"]) == 130
    assert capsys.readouterr().err == (
        "maskwise label: interrupted; 3 of 8 images are done and kept; repeat the command to go on\n"
    )


def test_progress_without_a_terminal_is_a_line_a_minute(monkeypatch, capsys):
    now = iter([0.0, 10.0, 61.0, 61.0, 62.0, 125.0, 125.0])
    monkeypatch.setattr("maskwise.progress.time.monotonic", lambda: next(now))
    with Progress(9, "label", "images", initial=2) as progress:
        for _ in range(4):
            progress.update()
    assert capsys.readouterr().err == "label: 4 of 9 images\nlabel: 6 of 9 images\n"


def test_memory_of_a_picture_is_bounded_by_its_format(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (8000, 8000)).save(buffer, "WEBP", lossless=True)
    (tmp_path / "a.webp").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match=r"has too many pixels \(8000 x 8000; accepted are 60,000,000"):
        load_image(tmp_path / "a.webp")
