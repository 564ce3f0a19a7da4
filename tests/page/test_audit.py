"""The page of an audit in a browser: answers, keys, the file of corrections; pictures go to out/page/."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise import Mask, Predictor, Segment, Segmenter, audit, regions_from_coco, write_audit
from maskwise.cli.main import run

FOUR = [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")]
COLOURS = {"person": (230, 30, 20), "dog": (20, 220, 40), "cup": (30, 40, 210)}


class Outline(Segmenter):
    """A segmenter that finds one outline."""

    def __init__(self, mask):
        self.mask = mask

    def segment(self, image, **_):
        return [Segment(self.mask, 0.9, 0.9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labels person, person and cup on red, green and blue (the second is a dog), and a green thing without a label."""
    folder = tmp_path_factory.mktemp("audit")
    image, boxes = np.zeros((80, 240, 3), dtype=np.uint8), [(10 + 60 * place, 15, 40, 50) for place in range(4)]
    for (x, y, w, h), name in zip(boxes, ("person", "dog", "cup", "dog"), strict=True):
        image[y : y + h, x : x + w] = COLOURS[name]
    (folder / "photos").mkdir()
    Image.fromarray(image).save(folder / "photos/one.png")
    masks = [Mask.from_box(box, (80, 240)) for box in boxes]
    annotations = [
        {"id": 5 + place, "image_id": 1, "category_id": category, "bbox": list(masks[place].box_xywh), "area": 2000,
         "segmentation": masks[place].to_rle(), "iscrowd": 0}
        for place, category in enumerate((1, 1, 2))
    ]  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(("person", "cup", "dog"), start=1)]
    images = [{"id": 1, "file_name": "one.png", "width": 240, "height": 80}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(content))
    regions = regions_from_coco(folder / "labels.json", folder / "photos")
    found = audit(regions, Predictor(colour_model(folder)), segmenter=Outline(masks[3]))
    write_audit(found, folder / "audit", title="labels.json")
    return folder


@pytest.fixture
def visit(open_file, folder):
    return partial(open_file, folder / "audit/audit.html")


def saved(page, path):
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(path)
    return json.loads(path.read_text())


def test_answers_are_kept_saved_and_applied(visit, folder):
    page = visit()
    assert page.inner_text("#count") == "0 of 2 answered, 0 corrections"
    wrong = page.locator("#rows > li", has_text="another name fits better")
    missing = page.locator("#rows > li", has_text="no label")
    wrong.locator("[data-answer=accept]").click()
    missing.locator("input").fill("cup")
    missing.locator("input").press("Enter")
    page.reload()
    assert page.inner_text("#count") == "2 of 2 answered, 2 corrections"
    corrections = saved(page, folder / "corrections.json")
    assert {"annotation_id": 6, "name": "dog"} in corrections
    assert [one["name"] for one in corrections if "segmentation" in one] == ["cup"]
    flags = ["--apply", str(folder / "corrections.json"), "-o", str(folder / "fixed.json")]
    assert run(["audit", str(folder / "photos"), str(folder / "labels.json"), *flags]) == 0
    fixed = json.loads((folder / "fixed.json").read_text())
    assert [(one["id"], one["category_id"]) for one in fixed["annotations"]] == [(5, 1), (6, 3), (7, 2), (8, 2)]
    assert fixed["annotations"][-1]["bbox"] == [190, 15, 40, 50]
    assert page.problems == []


def test_the_keyboard_is_enough(visit, folder):
    page = visit()
    page.keyboard.press("j")
    page.keyboard.press("a")  # And on to the next.
    page.keyboard.press("r")
    assert page.inner_text("#count") == "2 of 2 answered, 1 corrections"
    assert len(saved(page, folder / "keys.json")) == 1


@pytest.mark.parametrize(("width", "scheme"), FOUR)
def test_it_fits_and_is_easy_to_read(visit, check_look, width, scheme):
    page = visit(width, scheme)
    assert page.locator("#rows img").count() == 2
    check_look(page, width, f"audit-{width}-{scheme}")
