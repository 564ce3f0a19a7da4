"""Pages of evaluations and of labelled files: what they show, and in which order."""

import json
import re
from base64 import b64decode

import cv2
import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise import Mask, Predictor, RegionSet, evaluate, write_report
from maskwise.cli.main import run
from maskwise.reports import evaluation_page, html_report
from maskwise.reports.evaluation_page import regions_to_show
from maskwise.reports.html_report import Card, Fact, reliability_svg, thumbnail, write_html_report
from maskwise.tasks.metrics import reliability

HOSTILE = '<script>alert("x")</script>$title'


def cards_of(page):
    """Names, probabilities and kinds of the cards, in the order of the file."""
    pattern = r'<li data-names="(.*?)" data-kind="(.*?)" data-sure="(.*?)">.*?<b[^>]*>(.*?)</b>'
    return [
        (match[1], float(match[2]), match[3].replace("\xa0", " ")) for match in re.findall(pattern, page, re.DOTALL)
    ]


def test_text_of_the_data_is_text(tmp_path):
    card = Card(b"jpeg", HOSTILE, 0.5, 0.5, HOSTILE, HOSTILE, truth='"quoted"')
    facts = [Fact(HOSTILE, HOSTILE, HOSTILE)]
    write_html_report(tmp_path / "a.html", HOSTILE, facts, [card], note=HOSTILE, orders=[("sure", HOSTILE)])
    page = (tmp_path / "a.html").read_text()
    assert page.count("<script>") == 1
    assert "alert(&quot;x&quot;)" in page
    names = re.search(r'data-names="(.*?)"', page)[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">")
    assert json.loads(names) == [HOSTILE, '"quoted"']
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_a_thumbnail_shows_the_region_in_the_middle():
    """A red region of 40 x 20 in an image of 200 x 300: a square of 64 around it, drawn at 180."""
    image = np.zeros((200, 300, 3), dtype=np.uint8)
    image[90:110, 140:180] = (255, 0, 0)
    picture = cv2.imdecode(np.frombuffer(thumbnail(image, Mask.from_box((140, 90, 40, 20), (200, 300))), np.uint8), 1)
    assert picture.shape == (180, 180, 3)
    assert (picture[90, 90] > (-1, -1, 200)).all()  # BGR
    assert picture[90, 90, 0] < 60
    red = (picture[..., 2] > 128) & (picture[..., 1] < 100)
    columns = np.flatnonzero(red.any(axis=0))
    assert columns[[0, -1]] == pytest.approx([90 - 20 / 64 * 180, 90 + 20 / 64 * 180], abs=6)


def test_a_thumbnail_at_the_edge_keeps_to_the_image():
    image = np.zeros((50, 400, 3), dtype=np.uint8)
    picture = cv2.imdecode(np.frombuffer(thumbnail(image, Mask.from_box((0, 0, 100, 10), (50, 400))), np.uint8), 1)
    assert picture.shape == (69, 180, 3)  # 0 to 130 of the width, 0 to 50 of the height.


def test_reliability_by_hand():
    table = reliability(np.array([0.2, 0.1, 0.95, 1.0]), np.array([True, False, True, True]), bins=5)
    assert table.confidence.tolist() == pytest.approx([0.15, 0.975])
    assert (table.accuracy.tolist(), table.counts.tolist()) == ([0.5, 1.0], [2, 2])
    svg = reliability_svg([0.15, 0.975], [0.5, 1.0], [2, 8])
    assert 'cx="76.0" cy="140.0" r="6.0"' in svg  # 40 + 240 x, 260 - 240 y, 2 + 8 sqrt(2 / 8)
    assert 'cx="274.0" cy="20.0" r="10.0"' in svg


@pytest.fixture
def evaluation(tmp_path):
    """Red, green and blue squares; the second is called cup and the third cat, which the model does not know."""
    image = np.zeros((60, 200, 3), dtype=np.uint8)
    masks = np.zeros((4, 60, 200), dtype=bool)
    for place, colour in enumerate(((255, 0, 0), (0, 255, 0), (140, 115, 0), (0, 0, 255))):
        masks[place, 10:50, 50 * place + 5 : 50 * place + 45] = True
        image[masks[place]] = colour
    regions = RegionSet.from_arrays([image], [masks], [["person", "cup", "dog", "cup"]])
    return evaluate(Predictor(colour_model(tmp_path)), regions, data="squares")


def test_the_surest_mistakes_come_first_then_the_least_sure_right_ones(evaluation, tmp_path):
    """The second is surely a dog. The third is a person: logits 40 x 140 / 255 and 40 x 115 / 255, at temperature 2."""
    assert regions_to_show(evaluation).tolist()[:2] == [1, 2]
    assert set(regions_to_show(evaluation).tolist()) == {0, 1, 2, 3}
    write_report(evaluation, tmp_path / "report")
    page = (tmp_path / "report/report.html").read_text()
    assert [kind for kind, _, _ in cards_of(page)] == ["wrong", "wrong", "right", "right"]
    assert [name for _, _, name in cards_of(page)][:2] == ["dog 100.0 %", "person 87.7 %"]
    assert "<dt>wrong names</dt><dd>2<small>of 4 regions in 1 images" in page
    assert 'viewBox="0 0 300 300"' in page


def test_a_page_shows_only_so_many(evaluation, monkeypatch):
    monkeypatch.setattr(evaluation_page, "MAX_CARDS", 3)
    assert len(regions_to_show(evaluation)) == 3


def test_label_writes_a_page(tmp_path):
    """Red is surely known, blue is not, and the third has no file."""
    photos = tmp_path / "photos"
    photos.mkdir()
    image = np.zeros((60, 100, 3), dtype=np.uint8)
    image[10:50, 5:45], image[10:50, 55:95] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(image).save(photos / "a.png")
    boxes = [[5, 10, 40, 40], [55, 10, 40, 40], [0, 0, 9, 9]]
    annotations = [{"id": n, "image_id": 1 + (n == 3), "bbox": box} for n, box in enumerate(boxes, start=1)]
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "no.png"}]
    (tmp_path / "s.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    model = colour_model(tmp_path, known=(8.0, 0.0, 0.0, -4.0))
    flags = ["--model", str(model), "-o", str(tmp_path / "n.json"), "--report", str(tmp_path / "n.html")]
    assert run(["label", str(photos), str(tmp_path / "s.json"), *flags]) == 0
    page = (tmp_path / "n.html").read_text()
    assert {(kind, name) for kind, _, name in cards_of(page)} == {
        ("none of these", "none of these 98.2 %"),
        ("named", "person 100.0 %"),
    }
    assert "<dt>not named</dt><dd>1<" in page
    picture = b64decode(re.search(r"base64,(.*?)\"", page)[1])
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), 1).shape == (
        html_report.SIDE,
        round(57 / 60 * html_report.SIDE),
        3,
    )
