"""`label --overlay`: a picture for every image, drawn from the written file."""

import json

import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise.cli.main import run
from maskwise.reports.drawing import GREY, class_colour
from maskwise.reports.overlay_folder import write_overlays

KNOWN = (8.0, 0.0, 0.0, -4.0)


@pytest.fixture
def photos(tmp_path):
    """Two photographs of one name in two folders, with a red (known) and a blue (unknown) square; one is broken."""
    images, annotations = [], []
    for number, name in enumerate(("a/x.png", "b/x.png", "broken.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((1000, 1400, 3), dtype=np.uint8)
        pixels[100:400, 100:500] = (255, 0, 0)
        pixels[500:900, 700:1200] = (0, 0, 255)
        Image.fromarray(pixels).save(path)
        images.append({"id": number, "file_name": name})
        for box in ([100, 100, 400, 300], [700, 500, 500, 400]):
            annotations.append({"id": len(annotations), "image_id": number, "bbox": box})
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    (tmp_path / "s.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return tmp_path / "photos"


def test_every_image_is_drawn_with_its_names(photos, tmp_path, capsys):
    model = colour_model(tmp_path, known=KNOWN)
    flags = ["label", str(photos), str(tmp_path / "s.json"), "-o", str(tmp_path / "o.json"), "--model", str(model)]
    assert run([*flags, "--overlay", str(tmp_path / "drawn")]) == 0
    assert "2 pictures" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a_x.png", "b_x.png"]
    with Image.open(tmp_path / "drawn" / "a_x.png") as picture:
        pixels = np.asarray(picture)
    assert pixels[250, 100].tolist() == list(class_colour("person"))  # The outline of the red square.
    assert pixels[700, 700].tolist() == list(GREY)
    assert pixels[850, 950].tolist() == [0, 0, 255]  # Not tinted.
    assert pixels[390, 300].tolist() != [255, 0, 0]


def test_a_file_without_names_is_drawn_in_grey(photos, tmp_path):
    assert write_overlays(tmp_path / "s.json", photos, tmp_path / "drawn") == 2
    with Image.open(tmp_path / "drawn" / "b_x.png") as picture:
        assert np.asarray(picture)[250, 100].tolist() == list(GREY)
