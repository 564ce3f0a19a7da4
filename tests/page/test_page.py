import csv
import json
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from maskwise import Mask, load_image
from maskwise.data.segment_files import read_segments

EXAMPLES = Path(__file__).parents[2] / "examples"
COFFEE = (600, 400)
SPOON, CUP_BOX = (372, 290), ((170, 14), (412, 312))
FOUR = [(1440, 900, "light"), (1440, 900, "dark"), (390, 844, "light"), (390, 844, "dark")]


def overlap(annotation, path):
    """Return the IoU of an annotation with a mask picture."""
    one, other = Mask.from_rle(annotation["segmentation"]).to_array(), Mask.from_file(path).to_array()
    return (one & other).sum() / (one | other).sum()


def test_click_box_rename_download_and_open_again(visit, tmp_path):
    page = visit().open_example("coffee.jpg", COFFEE).click(*SPOON)
    assert page.names == ["spoon"]
    assert page.page.inner_text("#status").startswith("spoon, ")
    page.tool("box").drag(*CUP_BOX)
    assert page.names == ["spoon", "cup"]
    page.item(2).locator("[data-role=rename]").click()
    page.page.fill("input.rename", "espresso cup")
    page.page.keyboard.press("Enter")
    assert page.names == ["spoon", "espresso cup"]
    page.shot("two-things")

    content, named = page.annotations()
    assert content["images"] == [{"id": 1, "file_name": "coffee.jpg", "width": 600, "height": 400}]
    assert overlap(named["espresso cup"], EXAMPLES / "coffee-cup.png") > 0.85
    assert named["espresso cup"]["category_id"] not in named["spoon"]["top_category_ids"]
    assert "score" not in named["espresso cup"]
    assert named["spoon"]["score"] == named["spoon"]["top_scores"][0]
    path = tmp_path / "again.json"
    path.write_text(json.dumps(content))
    coco = read_segments(path, EXAMPLES / "coffee.jpg")
    assert [coco.mask(row, (400, 600)).area for row in (0, 1)] == [one["area"] for one in content["annotations"]]

    again = visit().open_file(EXAMPLES / "coffee.jpg", COFFEE)
    again.page.set_input_files("#mask-files", path)
    again.page.wait_for_selector("#things li:nth-child(2)")
    again.wait()
    assert again.names == ["spoon", "espresso cup"]
    assert again.annotations()[0] == content


def test_shift_adds_and_alt_takes_away(visit):
    page = visit().open_example("coffee.jpg", COFFEE).click(*SPOON)
    before = page.annotations()[0]["annotations"][0]
    page.click(420, 110, "Shift")
    assert len(page.names) == 1
    more = page.annotations()[0]["annotations"][0]
    assert more["area"] > before["area"]
    page.click(420, 110, "Alt")
    assert len(page.names) == 1
    assert Mask.from_rle(page.annotations()[0]["annotations"][0]["segmentation"]).to_array()[110, 420] == 0


def test_a_second_click_on_the_same_thing_selects_it(visit):
    page = visit().open_example("coffee.jpg", COFFEE).click(*SPOON)
    page.item(1).locator("[data-role=select]").click()
    assert page.selected == []
    page.click(SPOON[0] + 2, SPOON[1] + 2)
    assert (page.names, page.selected) == (["spoon"], ["spoon"])


def test_brush_and_polygon_are_drawn_as_they_are(visit):
    page = visit().open_example("coffee.jpg", COFFEE).tool("polygon")
    corners = [(500, 300), (580, 300), (580, 380), (500, 380)]
    for corner in (*corners, corners[0]):
        page.click(*corner)
    page.tool("brush").drag((40, 200), (120, 200))
    polygon, stroke = page.annotations()[0]["annotations"]
    assert polygon["bbox"] == pytest.approx([500, 300, 80, 80], abs=2)
    assert polygon["area"] == pytest.approx(6400, rel=0.05)
    x, _, width, height = stroke["bbox"]
    assert x + width / 2 == pytest.approx(80, abs=2)
    assert width == pytest.approx(80 + height, abs=3)
    page.item(2).locator("[data-role=select]").click()  # No longer selected, and selected again.
    page.item(2).locator("[data-role=select]").click()
    page.page.check("input[value=take]", force=True)
    page.drag((40, 200), (60, 200))
    assert page.annotations()[0]["annotations"][1]["area"] < stroke["area"]


def test_take_out_undo_and_redo(visit):
    page = visit().open_example("coffee.jpg", COFFEE).click(*SPOON)
    page.item(1).locator("[data-role=remove]").click()
    assert page.names == []
    page.page.keyboard.press("Control+z")
    assert page.names == ["spoon"]
    page.page.click("#undo")
    assert page.names == []
    page.page.click("#redo")
    assert page.names == ["spoon"]


def test_everything_is_named(visit):
    page = visit().open_example("cat.jpg", (451, 300))
    page.page.click("#everything")
    page.wait()
    page.shot("everything")
    assert "cat" in page.names
    cats = [one for one in page.annotations()[0]["annotations"] if one["category_id"] == 17]
    assert max(overlap(cat, EXAMPLES / "cat-cat.png") for cat in cats) > 0.7
    page.page.keyboard.press("Control+z")
    assert page.names == []


def test_masks_from_elsewhere_are_named(visit):
    page = visit().open_file(EXAMPLES / "coffee.jpg", COFFEE)
    page.page.set_input_files("#mask-files", [EXAMPLES / "coffee-cup.png", EXAMPLES / "coffee-spoon.png"])
    page.page.wait_for_selector("#things li:nth-child(2)")
    assert page.wait().names == ["cup", "spoon"]
    assert overlap(page.annotations()[1]["spoon"], EXAMPLES / "coffee-spoon.png") == 1


def test_the_table_and_the_picture_hold_what_is_seen(visit, tmp_path):
    page = visit().open_example("coffee.jpg", COFFEE).click(*SPOON)
    table = page.download("#save-csv")
    rows = list(csv.DictReader(Path(table.path()).read_text("utf-8-sig").splitlines()))
    assert [(row["name"], row["renamed"]) for row in rows] == [("spoon", "no")]
    assert float(rows[0]["probability"]) > 0.5
    picture = page.download("#save-png")
    assert picture.suggested_filename == "coffee-named.png"
    drawn = load_image(picture.path())
    assert drawn.shape == (800, 1200, 3)
    plain = np.asarray(Image.open(EXAMPLES / "coffee.jpg").resize((1200, 800)))
    change = np.abs(drawn.astype(int) - plain).mean(axis=2)
    assert change[2 * SPOON[1] - 20 : 2 * SPOON[1] + 20, 2 * SPOON[0] - 20 : 2 * SPOON[0] + 20].mean() > 15
    assert change[20:100, 20:100].mean() < 3


def tab_to(page, test, most=60):
    """Press Tab until what has the focus passes a test of JavaScript on `e`."""
    for _ in range(most):
        page.page.keyboard.press("Tab")
        if page.page.evaluate(f"(e => {test})(document.activeElement)"):
            return
    pytest.fail(f"Tab never leads to {test}")


def test_keys_alone_do_everything(visit):
    page = visit()
    press = page.page.keyboard.press
    tab_to(page, "e.dataset.example === 'coffee.jpg'")
    press("Enter")
    page.opened(COFFEE)
    tab_to(page, "e.id === 'canvas'")
    press("ArrowRight")  # The pointer appears in the middle of the photograph: 300, 200.
    scale = page.at(1, 0)[0] - page.at(0, 0)[0]
    for key, way in (("ArrowRight", SPOON[0] - 300), ("ArrowDown", SPOON[1] - 200)):
        for _ in range(round(way * scale / 10)):
            press(key)
    press("Enter")
    page.wait()
    assert page.names == ["spoon"]
    tab_to(page, "e.dataset.role === 'rename'")
    press("Enter")
    page.page.keyboard.type("teaspoon")
    press("Enter")
    assert page.names == ["teaspoon"]
    assert page.page.evaluate("document.activeElement.dataset.role") == "rename"
    tab_to(page, "e.dataset.role === 'remove'")
    press("Enter")
    assert page.names == []
    press("Control+z")
    assert page.names == ["teaspoon"]
    tab_to(page, "e.value === 'click' && e.name === 'tool'")
    press("ArrowRight")
    assert page.page.evaluate("document.activeElement.value") == "box"
    tab_to(page, "e.id === 'canvas'")
    press("Enter")  # The first corner; the pointer starts in the middle again.
    for _ in range(3):
        press("Shift+ArrowDown")
        press("Shift+ArrowRight")
    press("Enter")
    page.wait()
    assert len(page.names) == 2
    tab_to(page, "e.id === 'save-coco'")
    with page.page.expect_download() as download:
        press("Enter")
    assert len(json.loads(Path(download.value.path()).read_text())["annotations"]) == 2


@pytest.mark.parametrize(("width", "height", "scheme"), FOUR)
def test_nothing_is_hard_to_use(visit, width, height, scheme):
    page = visit(width, height, scheme, has_touch=width < 500)
    name = f"{width}-{scheme}"
    page.shot(f"{name}-start")
    findings = serious(page)
    page.open_example("coffee.jpg", COFFEE).click(*SPOON)
    page.page.wait_for_timeout(300)
    page.shot(f"{name}-work")
    assert findings + serious(page) == []
    wide = page.page.evaluate("document.scrollingElement.scrollWidth")
    assert wide <= width
    for button in page.page.locator("button:visible, .segments label").all():
        box = button.bounding_box()
        assert min(box["width"], box["height"]) >= 24, button
        assert box["x"] + box["width"] <= width, button.inner_text()


def serious(page):
    """Return what axe-core finds serious or critical."""
    found = Axe().run(page.page).response["violations"]
    bad = [one for one in found if one["impact"] in ("serious", "critical")]
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in bad]


def test_touch_works_without_modifier_keys(visit):
    page = visit(390, 844, has_touch=True).open_example("coffee.jpg", COFFEE)
    page.page.touchscreen.tap(*page.at(*SPOON))
    page.page.wait_for_selector("#things li")
    before = page.wait().annotations()[0]["annotations"][0]["area"]
    page.page.check("input[value=add]", force=True)
    page.page.evaluate("scrollTo(0, 0)")
    page.page.touchscreen.tap(*page.at(420, 110))
    page.page.wait_for_timeout(200)
    assert len(page.wait().names) == 1
    assert page.annotations()[0]["annotations"][0]["area"] > before


def test_what_goes_wrong_is_said_in_plain_words(visit, tmp_path):
    page = visit().open_example("coffee.jpg", COFFEE)
    (tmp_path / "notes.json").write_text("{")
    page.page.set_input_files("#mask-files", tmp_path / "notes.json")
    page.page.wait_for_selector("#messages p")
    assert page.page.inner_text("#messages p").startswith("Notes.json: is not JSON")
    page.page.click("#messages button")
    page.page.set_input_files("#mask-files", EXAMPLES / "cat-cat.png")
    page.page.wait_for_selector("#messages p")
    assert "give a mask of the photograph's size" in page.page.inner_text("#messages p")
    (tmp_path / "photo.tif").write_bytes(b"II*\0")
    page.page.set_input_files("#photo-file", tmp_path / "photo.tif")
    page.page.get_by_text("cannot show photo.tif").wait_for()
    assert page.wait().names == []
    page.problems.clear()  # Chromium notes the refusals' statuses.


def test_a_forgotten_photograph_is_sent_again(visit):
    page = visit().open_example("coffee.jpg", COFFEE)
    forgotten = []

    def forget(route):
        if not forgotten:
            forgotten.append(True)
            route.fulfill(status=404, json={"detail": "this photograph is no longer kept"})
        else:
            route.continue_()

    page.page.route("**/v1/predict", forget)
    assert page.click(*SPOON).names == ["spoon"]
    page.problems.clear()


def test_masks_and_colours_are_those_of_the_package(visit):
    page = visit()
    from maskwise.reports.drawing import class_colour

    for name in ("cup", "dining table", "Čaj", ""):
        colour = page.page.evaluate("async n => (await import('/page/colours.js')).classColour(n)", name)
        assert np.abs(np.array(colour) - class_colour(name)).max() <= 1, name
    rng = np.random.default_rng(0)
    for _ in range(20):
        bits = rng.random((17, 23)) < rng.choice([0.05, 0.5, 0.95])
        bits[3, 4] = True
        mask = Mask.from_array(bits)
        both = page.page.evaluate(
            """async ([rle, box]) => {
                const masks = await import('/page/masks.js'), mask = masks.maskOfRle(rle, box);
                const path = masks.tracedOutline(mask);
                return [[...mask.bits], masks.rleOfMask(mask, rle.size[1], rle.size[0]), path];
            }""",
            [mask.to_rle(), list(mask.box_xywh)],
        )
        assert both[0] == mask.bits.ravel().tolist()
        assert (Mask.from_rle(both[1]).to_array() == bits).all()
        assert both[2].startswith("M")


def test_the_outline_goes_around_the_thing(visit):
    page = visit()
    filled = page.page.evaluate(
        """async () => {
            const { outlineOf } = await import('/page/masks.js');
            const mask = { x: 2, y: 1, w: 6, h: 6, bits: new Uint8Array(36).fill(1) };
            for (const hole of [14, 15, 20, 21]) mask.bits[hole] = 0;
            const context = new OffscreenCanvas(10, 10).getContext('2d'), found = [];
            for (let y = 0; y < 10; y++) for (let x = 0; x < 10; x++)
                found.push(context.isPointInPath(outlineOf(mask), x + 0.5, y + 0.5, 'evenodd') ? 1 : 0);
            return found;
        }"""
    )
    expected = np.zeros((10, 10), dtype=int)
    expected[1:7, 2:8] = 1
    expected[3:5, 4:6] = 0
    np.testing.assert_array_equal(np.reshape(filled, (10, 10)), expected)
