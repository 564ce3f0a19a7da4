"""Every command of the guides and of the README runs, with a model of three colours in place of the built-in one.

The guides to formats and to millions of images have tests of their own.
"""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colour_model import CATEGORIES, colour_model
from maskwise import Mask, Segment, Segmenter
from maskwise.cli import demo, main, serve

ROOT = Path(__file__).parents[2]
OWN_TESTS = {"formats.md", "millions.md"}
PAGES = [ROOT / "README.md", ROOT / "docs/install.md", *sorted((ROOT / "docs/guides").glob("*.md"))]
HW = (60, 150)
COLOURS = {"person": (220, 20, 10), "dog": (15, 210, 30), "cup": (20, 30, 200)}
SQUARES = {name: (5 + 50 * place, 10, 38, 40) for place, name in enumerate(COLOURS)}
GREY_BOX = (5, 52, 60, 8)


def commands_of(page):
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = (line for block in blocks for line in block.splitlines())
    return [line for line in lines if line.startswith("maskwise ") and " COMMAND" not in line]


COMMANDS = sorted({line for page in PAGES if page.name not in OWN_TESTS for line in commands_of(page)})


def write_coco(path, *, named=True, box=None):
    """A person, a dog and a cup in each of four photographs; or a box of nothing in each."""
    ids = {category.name: category.id for category in CATEGORIES}
    annotations = [
        {"id": 10 * image + place, "image_id": image, "bbox": list(box or SQUARES[name]), "iscrowd": 0, "area": 900,
         "segmentation": Mask.from_box(box or SQUARES[name], HW).to_rle(),
         **({"category_id": ids[name]} if named else {})}
        for image in range(4)
        for place, name in enumerate(["person"] if box else SQUARES)
    ]  # fmt: skip
    images = [{"id": n, "file_name": f"{n}.jpg", "height": HW[0], "width": HW[1]} for n in range(4)]
    more = enumerate(("background", "sofa", "aeroplane"), start=90)  # Classes of the guide's examples, without regions.
    classes = [(category.id, category.name) for category in CATEGORIES] + list(more)
    categories = [{"id": number, "name": name} for number, name in classes] if named else []
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return annotations


@pytest.fixture
def folder(tmp_path, monkeypatch):
    model = colour_model(tmp_path, known=(9.0, 9.0, 9.0, -4.0))
    for module in ("model.model_folder", "tasks.listing"):
        monkeypatch.setattr(f"maskwise.{module}.built_in_model", lambda: model)
    (tmp_path / "mine.onnx").write_bytes(model.read_bytes())
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "maps", "masks", "segments"):
        Path(name).mkdir()
    image, labels = np.full((*HW, 3), 90, dtype=np.uint8), np.zeros(HW, dtype=np.uint8)
    for value, (name, (x, y, w, h)) in enumerate(SQUARES.items(), start=1):
        image[y : y + h, x : x + w], labels[y : y + h, x : x + w] = COLOURS[name], value
        Image.fromarray(Mask.from_box((x, y, w, h), HW).to_array()).save(f"masks/{name}.png")
    Path("m.png").write_bytes(Path("masks/dog.png").read_bytes())
    Path("classes.txt").write_text("background\nperson\ndog\ncup\n")
    # The guide clicks at (310, 200): the photograph on its own is larger.
    Image.fromarray(image).resize((600, 400)).save("photo.jpg")
    large = {"segmentation": Mask.from_box((30, 80, 130, 250), (400, 600)).to_rle()}
    Path("sam.json").write_text(json.dumps([large]))
    for mask in Path("masks").iterdir():
        Image.open(mask).resize((600, 400)).save(mask)
    Image.open("m.png").resize((600, 400)).save("m.png")
    for number in range(4):
        Image.fromarray(image).save(f"photos/{number}.jpg", quality=95)
        Image.fromarray(labels).save(f"maps/{number}.png")
        Path(f"segments/{number}.json").write_text(
            json.dumps([{"segmentation": Mask.from_box(SQUARES["cup"], HW).to_rle()}])
        )
    write_coco(Path("segments.json"), named=False)
    write_coco(Path("labels.json"))
    Path("results.json").write_text(json.dumps([{**one, "score": 0.5} for one in write_coco(Path("truth.json"))]))
    write_coco(Path("segments-of-nothing.json"), box=GREY_BOX)
    Path("corrections.json").write_text('[{"annotation_id": 11, "name": "cup"}]')
    Path("examples").symlink_to(ROOT / "examples")
    return tmp_path


def boxes_of(_, image, **more):
    """What a segmenter would find: the squares, and a part of what lies between them."""
    if image.shape[:2] != HW:
        return [Segment(Mask.from_box((30, 80, 130, 250), (image.shape[0], image.shape[1])), 0.9, 0.9)]
    return [Segment(Mask.from_box(box, HW), 0.9, 0.9) for box in (*SQUARES.values(), GREY_BOX)]


def test_the_guides_show_every_command():
    """All but those of training, which docs/training.md shows."""
    shown = {name for page in PAGES for name in re.findall(r"maskwise ([\w-]+)", page.read_text(encoding="utf-8"))}
    assert set(main.COMMANDS) - shown <= {"train", "average", "export", "compare", "import-eppel"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(folder, command, capsys, monkeypatch):
    monkeypatch.setattr(Segmenter, "segment", boxes_of)
    for server in (serve, demo):  # Flags alone: the server has tests of its own.
        monkeypatch.setattr(server.Command, "run", lambda _: None)
    words = shlex.split(command, comments=True)[1:]
    if "--segments" in words and words[words.index("--segments") + 1] == "segments.json":
        assert main.run(["segment", "photo.jpg", "-o", "segments.json"]) == 0  # The command above it in the guide.
    assert main.run(words) == 0, capsys.readouterr().err
    for flag in ("-o", "--overlay", "--json", "--report"):
        if flag in words:
            output = Path(words[words.index(flag) + 1])
            assert output.is_file() or any(output.iterdir()), flag
