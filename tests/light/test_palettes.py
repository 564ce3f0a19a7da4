"""Label maps in colours: palettes as tools write them, and the regions by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise import Predictor
from maskwise.cli.main import run
from maskwise.data.label_maps import regions_from_label_maps
from maskwise.data.palettes import Palette, read_palette
from maskwise.errors import AnnotationError
from maskwise.tasks.checking import check_label_maps

EXPECTED = Palette(("sky", "road", "traffic light"), (0x000080, 0x804080, 0xFAAA1E), (0, 1, 2))
FORMS = {
    "camvid.txt": "0 0 128\tsky\n128 64 128\troad\n250 170 30\ttraffic light\n",
    "kaggle.csv": "name,r,g,b\nsky,0,0,128\nroad,128,64,128\ntraffic light,250,170,30\n",
    "numbers_first.csv": "0,0,128,sky\n128,64,128,road\n250,170,30,traffic light",
    "names_first.txt": "# colours of classes\n\nsky 0 0 128\nroad 128 64 128\ntraffic light 250 170 30\n",
    "hex.txt": "\ufeff#000080 sky\n#804080 road\n#FAAA1E traffic light\n",
    "hex_last.txt": "sky;#000080\nroad;#804080\ntraffic light;#faaa1e\n",
    "lists.json": json.dumps({"sky": [0, 0, 128], "road": [128, 64, 128], "traffic light": [250, 170, 30]}),
    "texts.json": json.dumps({"sky": "#000080", "road": "#804080", "traffic light": "#FAAA1E"}),
}


@pytest.mark.parametrize("name", FORMS)
def test_palettes_are_read_in_every_form(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    assert read_palette(tmp_path / name) == EXPECTED


def test_several_colours_may_be_of_one_class(tmp_path):
    (tmp_path / "p.txt").write_text("9 9 9 void\n1 2 3 car\n0 0 0 void\n")
    assert read_palette(tmp_path / "p.txt") == Palette(("void", "car"), (0, 0x010203, 0x090909), (0, 1, 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0 sky", "line 1 is '0 0 sky'; accepted are lines"),
        ("0 0 256 sky", r"'sky' has colour \[0, 0, 256\]"),
        ("0 0 1 sky\nroad", "line 2 is 'road'"),
        ("", "has no colour"),
        ("sky\nroad\n", "has no colour"),
        ("0 0 1 sky\n0 0 1 road", "colour #000001 stands twice"),
        ('{"sky": [1, 2]}', r"'sky' has colour \[1, 2\]"),
        ('{"sky": [1, 2, true]}', "'sky' has colour"),
        ('{"sky"', "is not JSON"),
    ],
)
def test_what_is_no_palette_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_palette(tmp_path / "p.txt")
    with pytest.raises(AnnotationError, match="the palette cannot be read"):
        read_palette(tmp_path / "none.txt")


@pytest.fixture
def folder(tmp_path):
    """Two maps of 10 x 20: sky above, road below, a light, and a colour of no class; one map has a palette itself."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "palette.txt").write_text(FORMS["camvid.txt"])
    colours = np.zeros((10, 20, 3), dtype=np.uint8)
    colours[:5] = (0, 0, 128)
    colours[5:] = (128, 64, 128)
    colours[2:4, 3:6] = (250, 170, 30)
    colours[9, 19] = (1, 2, 3)
    Image.fromarray(colours).save(tmp_path / "labels" / "a_color.png")
    Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE, colors=4).save(tmp_path / "labels" / "b.png")
    for name in "ab":
        Image.new("RGB", (20, 10), (90, 90, 9)).save(tmp_path / "images" / f"{name}.jpg")
    return tmp_path


def test_components_of_a_colour_are_regions(folder):
    regions = regions_from_label_maps(folder / "labels", folder / "images", palette=folder / "palette.txt")
    assert regions.regions.counts() == {"sky": 2, "road": 2, "traffic light": 2}
    assert [category.name for category in regions.categories] == ["sky", "road", "traffic light"]
    light = next(region for region in regions.regions if region.name == "traffic light")
    assert light.read_mask().box_xywh == (3, 2, 3, 2)
    assert light.image_path.name == "a.jpg"
    road = next(region for region in regions.regions if region.name == "road")
    assert road.read_mask().area == 99
    assert regions.notes == (
        f"pixel values #010203 (0.5% of all pixels) have no line in {folder / 'palette.txt'} and are void",
    )


def test_commands_take_a_palette(folder, capsys):
    flags = [str(folder / "images"), "--label-maps", str(folder / "labels"), "--palette", str(folder / "palette.txt")]
    model = str(colour_model(folder))
    assert run(["fit", *flags, "--model", model, "-o", str(folder / "m.onnx"), "--min-area", "1"]) == 0
    assert Predictor(folder / "m.onnx").info.training["regions"] == {"sky": 2, "road": 2, "traffic light": 2}
    assert run(["evaluate", *flags, "--model", str(folder / "m.onnx"), "-o", str(folder / "out")]) == 0
    assert json.loads((folder / "out" / "report.json").read_text())["regions"] == 6
    capsys.readouterr()
    assert run(["check", str(folder / "labels"), str(folder / "images"), "--palette", str(folder / "palette.txt")]) == 1
    assert "#010203 (0.5% of all pixels)" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        run(["evaluate", *flags, "--classes", "c.txt"])
    assert stopped.value.code == 2


def test_neither_or_both_lists_are_refused(folder):
    for more in ({}, {"classes_file": "c.txt", "palette": "p.txt"}):
        with pytest.raises(AnnotationError, match="either a list of classes or a palette"):
            regions_from_label_maps(folder / "labels", folder / "images", **more)


def test_a_map_of_numbers_has_no_colours(folder):
    Image.fromarray(np.full((10, 20), 300, dtype=np.uint16)).save(folder / "labels" / "b.png")
    check = check_label_maps(folder / "labels", folder / "images", palette=folder / "palette.txt")
    assert any("has numbers and no colours" in problem.message for problem in check.problems)
