"""`maskwise segment`: photographs to a COCO file of segments."""

import json

import numpy as np
import pytest
from PIL import Image

from maskwise import Mask, Segment, Segmenter, label_coco, read_coco, segment_photos
from maskwise.cli.main import run
from maskwise.errors import ImageError, InputError
from maskwise.tasks.segmenting import Prompts


class LeftHalf(Segmenter):
    """A segmenter that sees the left half of every photograph, and at a click the pixel itself."""

    def __init__(self):
        pass

    def segment(self, image, *, points_per_side):
        assert points_per_side == 24
        height, width = image.shape[:2]
        return [Segment(Mask.from_box((0, 0, width // 2, height), (height, width)), 0.91234, 0.5)]

    def encode(self, image):
        return image.shape[:2]

    def prompt(self, encoded, *, points=(), box_xywh=None):
        box = box_xywh or (*points[0], 1, 1)
        return Segment(Mask.from_box(box, encoded), 1.0, 1.0)


@pytest.fixture
def photos(tmp_path):
    """Two photographs, one of them in a sub-folder, and three files that are none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    Image.new("RGB", (8, 6), "red").save(folder / "b.png")
    Image.new("RGB", (4, 10), "red").save(folder / "more" / "ä.jpg")
    (folder / "a.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    (folder / "._b.png").write_text("what macOS leaves")
    return folder


def test_a_folder_becomes_a_coco_file_and_bad_images_are_listed(photos, tmp_path):
    output = tmp_path / "out.json"
    done = segment_photos(photos, output, LeftHalf())
    content = json.loads(output.read_text(encoding="utf-8"))
    assert content["images"] == [
        {"id": 2, "file_name": "b.png", "width": 8, "height": 6},
        {"id": 3, "file_name": "more/ä.jpg", "width": 4, "height": 10},
    ]
    assert content["categories"] == []
    first, second = content["annotations"]
    assert first == {
        "id": 1,
        "image_id": 2,
        "segmentation": Mask.from_box((0, 0, 4, 6), (6, 8)).to_rle(),
        "bbox": [0, 0, 4, 6],
        "area": 24,
        "iscrowd": 0,
        "predicted_iou": 0.9123,
        "stability_score": 0.5,
    }
    assert (second["id"], second["image_id"], second["bbox"]) == (2, 3, [0, 0, 2, 10])
    assert (done.images, done.segments, len(done.problems)) == (2, 2, 1)
    problems = json.loads((tmp_path / "out.json.problems.json").read_text())["problems"]
    assert len(problems) == 1
    assert "a.jpg: is not an image" in problems[0]["message"]
    (photos / "a.jpg").unlink()
    segment_photos(photos, output, LeftHalf())
    assert json.loads((tmp_path / "out.json.problems.json").read_text()) == {"problems": []}


def test_the_file_is_one_that_label_reads(photos, tmp_path):
    output = tmp_path / "out.json"
    segment_photos(photos, output, LeftHalf())
    coco = read_coco(output, labelled=False)
    assert coco.mask(0, (6, 8)).area == 24
    done = label_coco(output, photos, tmp_path / "named.json")
    assert (done.annotations, done.named) == (2, 2)


def test_stop_ends_at_the_first_bad_image_and_writes_nothing(photos, tmp_path):
    with pytest.raises(ImageError, match=r"a\.jpg: is not an image"):
        segment_photos(photos, tmp_path / "out.json", LeftHalf(), on_error="stop")
    assert not (tmp_path / "out.json").exists()


def test_refuses_what_has_no_photograph(photos, tmp_path):
    output = tmp_path / "out.json"
    with pytest.raises(ImageError, match="no such image file"):
        segment_photos(tmp_path / "none.jpg", output, LeftHalf())
    with pytest.raises(ImageError, match="is not an image"):
        segment_photos(photos / "a.jpg", output, LeftHalf())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image in this folder"):
        segment_photos(tmp_path / "empty", output, LeftHalf())
    (tmp_path / "empty" / "a.png").write_text("x")
    with pytest.raises(ImageError, match="none of the 1 images can be read"):
        segment_photos(tmp_path / "empty", output, LeftHalf())
    with pytest.raises(InputError, match="is the input itself"):
        segment_photos(photos / "b.png", photos / "b.png", LeftHalf())
    with pytest.raises(InputError, match="belong to one photograph"):
        segment_photos(photos, output, LeftHalf(), prompts=Prompts(boxes=((0, 0, 1, 1),)))
    assert not output.exists()


def test_clicks_and_boxes_are_one_segment_each(photos, tmp_path):
    output = tmp_path / "out.json"
    prompts = Prompts(clicks=(((3, 2),), ((5, 1), (6, 1))), boxes=((1, 2, 3, 4),))
    segment_photos(photos / "b.png", output, LeftHalf(), prompts=prompts)
    content = json.loads(output.read_text())
    assert [record["bbox"] for record in content["annotations"]] == [[3, 2, 1, 1], [5, 1, 1, 1], [1, 2, 3, 4]]
    assert content["images"][0]["file_name"] == "b.png"


def test_the_command_outlines_what_is_clicked(tmp_path, capsys):
    image = np.full((120, 200, 3), (40, 160, 60), dtype=np.uint8)
    image[30:80, 110:180] = (220, 60, 40)
    Image.fromarray(image).save(tmp_path / "a.png")
    output = tmp_path / "out.json"
    flags = ["--point", "150,40", "--box", "106,26,78,58", "--threads", "1"]
    assert run(["segment", str(tmp_path / "a.png"), "-o", str(output), *flags]) == 0
    assert capsys.readouterr().out == f"{output}: 2 segments in 1 image(s)\n"
    for record in json.loads(output.read_text())["annotations"]:
        assert record["bbox"] == pytest.approx([110, 30, 70, 50], abs=2)
        assert record["area"] == pytest.approx(70 * 50, rel=0.05)


def test_the_command_counts_bad_images_and_exits_0(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("maskwise.model.segmenter.Segmenter", lambda **_: LeftHalf())
    output = tmp_path / "out.json"
    assert run(["segment", str(photos), "-o", str(output)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{output}: 2 segments in 2 image(s)\n"
    assert printed.err.startswith(f"1 image(s) left out: {output}.problems.json; the first: ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--point", "1,2,3"], "--point 1,2,3: give x,y"),
        (["--point", "a,b"], "--point a,b: give numbers"),
        (["--box", "1,2,3"], "--box 1,2,3: give x,y,width,height"),
        (["--points-per-side", "0"], "0 points per side; give 1 to 128"),
        (["--point", "9,9"], "the point 9,9 lies outside the image of width 8 and height 6"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(photos, tmp_path, capsys, flags, message):
    assert run(["segment", str(photos / "b.png"), "-o", str(tmp_path / "out.json"), *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_a_click_in_a_folder_is_wrong_usage(photos, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        run(["segment", str(photos), "-o", str(tmp_path / "out.json"), "--point", "1,1"])
    assert exit_info.value.code == 2
    assert "belong to one photograph" in capsys.readouterr().err


def test_a_broken_photograph_alone_is_an_error(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert run(["segment", str(tmp_path / "a.png"), "-o", str(tmp_path / "s.json")]) == 1
    assert "a.png: is not an image" in capsys.readouterr().err
    assert not (tmp_path / "s.json").exists()
