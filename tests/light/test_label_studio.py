"""The ML backend of Label Studio: shapes there and back, configurations, which regions, which names, whose images."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from colour_model import colour_model
from maskwise import Mask, Predictor
from maskwise.data.brush_rle import brush_runs, mask_of_brush
from maskwise.data.label_studio_regions import mask_of_region, region_values
from maskwise.data.regions import Category
from maskwise.errors import ImageError, InputError, MaskError, SettingsError
from maskwise.integrations.label_studio import names_of, results_of_task
from maskwise.integrations.label_studio_config import read_labelling
from maskwise.serve.label_studio_images import LabelStudio
from maskwise.serve.reading import TooLargeError
from serving import GREEN_BOX, RED_BOX, client_of, png, scene

HW = (60, 80)
LABELS = '<Label value="Person"/><Label value="dog"/>'
CONFIG = f'<View><Image name="i" value="$u"/><BrushLabels name="b" toName="i">{LABELS}</BrushLabels></View>'
SDK_RUNS = [0, 0, 0, 60, 57, 27, 254, 31, 0, 143, 254, 248, 4, 127, 241, 128, 0]
"""What label_studio_sdk.converter.brush.mask2rle (label-studio-sdk 2.1.2) makes of 3 rows x 5 columns, 255 at rows 1
and 2 of column 3."""


def box_region(box, **fields):
    x, y, w, h = box
    value = {"x": x * 100 / 80, "y": y * 100 / 60, "width": w * 100 / 80, "height": h * 100 / 60}
    return {"id": "r", "type": "rectanglelabels", "to_name": "i", "value": value, **fields}


def test_brushes_go_there_and_back(rng):
    for share in (0.02, 0.5, 0.98):
        bits = rng.random((37, 53)) < share
        mask = Mask.from_array(bits)
        np.testing.assert_array_equal(mask_of_brush(brush_runs(mask), (37, 53)).to_array(), bits)


def test_the_brush_of_label_studios_own_converter_is_read():
    assert mask_of_brush(SDK_RUNS, (3, 5)).box_xywh == (3, 1, 1, 2)
    assert mask_of_brush(SDK_RUNS, (3, 5)).area == 2


def bits_of(*fields):
    text = "".join(f"{value:0{size}b}" for value, size in fields)
    return list(int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8)))


HEAD = ((24, 32), (7, 5), (2, 4), (3, 4), (7, 4), (15, 4))


def test_a_list_of_values_is_read_too():
    # 2 x 3 pixels: a run of 8 zeros, then 8 values one by one, then a run of 8 of 255.
    values = [(255, 8)] * 4 + [(127, 8)] * 4
    eight = (0, 2), (7, 3)
    runs = bits_of(*HEAD, (1, 1), *eight, (0, 8), (0, 1), *eight, *values, (1, 1), *eight, (255, 8))
    assert mask_of_brush(runs, (2, 3)).to_array().tolist() == [[False, False, True], [False, True, True]]


def test_runs_may_end_within_a_pixel():
    # 5 zeros; 8 values, of which those at 7 and 11 are opacities; 11 of 255.
    values = [(0, 8), (0, 8), (128, 8), (9, 8), (9, 8), (9, 8), (127, 8), (255, 8)]
    first, last = ((1, 1), (0, 2), (4, 3), (0, 8)), ((1, 1), (1, 2), (10, 4), (255, 8))
    runs = bits_of(*HEAD, *first, (0, 1), (0, 2), (7, 3), *values, *last)
    assert mask_of_brush(runs, (2, 3)).to_array().tolist() == [[False, True, False], [True, True, True]]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "cut short"),
        (bits_of(*HEAD, (1, 1), (0, 2), (7, 3)), "cut short"),
        (bits_of(*HEAD, (0, 1), (3, 2), (9, 16), (0, 8)), "cut short"),
        (bits_of((25, 32), *HEAD[1:]), "25 values of 8 bits, an image of 3 x 2 needs 24"),
        (bits_of(*HEAD, (1, 1), (3, 2), (65535, 16), (0, 8)), "the mask is empty"),
        ([0, 256, 0], "no list of whole numbers"),
        ("abc", "no list of whole numbers"),
        (None, "no list of whole numbers"),
    ],
)
def test_broken_brushes_are_refused(runs, message):
    with pytest.raises(MaskError, match=message):
        mask_of_brush(runs, (2, 3))


@pytest.mark.parametrize("kind", ["brush", "polygon", "rectangle"])
def test_regions_are_masks_and_masks_are_regions(kind):
    (value,) = region_values(Mask.from_box(GREEN_BOX, HW), kind)
    mask = mask_of_region({"type": f"{kind}labels", "value": value}, HW)
    assert (mask.box_xywh, mask.area) == (GREEN_BOX, 720)


def test_a_rectangle_has_the_pixels_that_rounded_percent_mean():
    value = {"x": 12.5, "y": 33.333, "width": 60, "height": 16.667}
    assert mask_of_region({"type": "rectangle", "value": value}, HW).box_xywh == (10, 20, 48, 10)


def test_a_rectangle_is_turned_around_its_first_corner():
    # 40 x 12 pixels at (40, 6), turned clockwise by a quarter: 12 pixels to the left, 40 down.
    value = {"x": 50, "y": 10, "width": 50, "height": 20, "rotation": 90}
    assert mask_of_region({"type": "rectangle", "value": value}, HW).box_xywh == (28, 6, 12, 40)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"type": "ellipse", "value": {}}, "a region of type 'ellipse'; accepted are brush, polygon, rectangle"),
        ({"type": "rectangle", "value": {"x": 1, "y": 2, "width": 3}}, "a rectangle lacks numbers"),
        ({"type": "polygon", "value": {"points": [[1, 2], [3]]}}, "not pairs of numbers"),
        ({"type": "polygon", "value": {}}, "not pairs of numbers"),
        (box_region(RED_BOX, image_rotation=90), "rotated in Label Studio"),
        ({"type": "brush", "value": {"rle": []}, "original_width": 60, "original_height": 80}, "of 60 x 80 pixels"),
    ],
)
def test_other_regions_are_refused(region, message):
    with pytest.raises(MaskError, match=message):
        mask_of_region(region, HW)


def test_a_configuration_says_where_names_go():
    labelling = read_labelling(
        """<View><Image name="i" value="$u"/><Rectangle name="r" toName="i"/>
        <PolygonLabels name="p" toName="i"><Label value="Vessel" predicted_values="cup, bowl"/><Label value="x"
        alias="Dog"/></PolygonLabels><BrushLabels name="other" toName="j"><Label value="no"/></BrushLabels>
        <Choices name="c" toName="i" perRegion="true"><Choice value="person"/></Choices></View>"""
    )
    assert (labelling.image, labelling.key) == ("i", "u")
    assert labelling.options == {"cup": "Vessel", "bowl": "Vessel", "x": "x", "dog": "x", "person": "person"}
    assert [labelling.shape_for(kind).name for kind in ("rectangle", "polygon", None)] == ["r", "p", "p"]
    assert labelling.shape_for("brush") is None
    assert (labelling.choices.name, labelling.choices.key) == ("c", "choices")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("<View>", "is not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><View/>', "declares entities"),
        ("<View/>", 'has no <Image value="\\$'),
        ('<View><Image name="i" value="$u"/></View>', "has no tag for regions"),
    ],
)
def test_other_configurations_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        read_labelling(config)


def test_the_regions_are_those_that_the_annotator_sees_else_the_latest():
    one, two, three, four, five = (box_region(RED_BOX, id=str(number)) for number in range(1, 6))
    task = {
        "annotations": [{"result": [one]}, {"result": [two]}, {"result": [five], "was_cancelled": True}],
        "predictions": [{"result": [three]}],
    }
    assert results_of_task(task, None) == [two]
    assert results_of_task(task, {"result": [four]}) == [four]
    assert results_of_task({**task, "drafts": [{"result": [five]}]}, {"result": []}) == [five]
    assert results_of_task({**task, "annotations": []}, {"result": [{"type": "choices", "value": {}}]}) == [three]
    assert results_of_task({"annotations": "no", "predictions": [3]}, None) == []


def test_classes_of_one_option_count_together_and_others_may_win(tmp_path):
    categories = [(1, "person"), (2, "cup"), (3, "bowl")]
    # Red, green and blue count for the three classes as they are; the temperature is 2.
    model = colour_model(tmp_path, weight=np.eye(3) * 20, categories=[Category(*one) for one in categories])
    image = np.zeros((20, 40, 3), dtype=np.uint8)
    image[:, :20] = (204, 178, 178)  # Logits over 2: 8, 7, 7: person 57.6 %, cup and bowl 21.2 % each.
    image[:, 20:] = (204, 153, 153)  # 8, 6, 6: 78.7 %, 10.6 % each.
    outputs = Predictor(model).run(image, [Mask.from_box((x, 0, 20, 20), (20, 40)) for x in (0, 20)])
    head = (
        '<View><Image name="i" value="$u"/><Brush name="b" toName="i"/><Choices name="c" toName="i" perRegion="true">'
    )
    config = '<Choice value="vessel" predicted_values="cup,bowl"/><Choice value="person"/></Choices></View>'
    first, second = names_of(outputs, read_labelling(head + config))
    assert (first.option, second.option) == ("person", "person")
    assert first.score == pytest.approx(0.576, abs=0.02)
    assert first.runners_up == (("vessel", pytest.approx(0.424, abs=0.02)),)
    only = '<Choice value="vessel" predicted_values="cup,bowl"/></Choices></View>'
    assert names_of(outputs, read_labelling(head + only)) == [None, None]  # More probably a person.


class Server(BaseHTTPRequestHandler):
    """A Label Studio that has a picture, a page that leads elsewhere, and something endless."""

    seen: list

    def do_GET(self):
        self.seen.append((self.path, self.headers.get("Authorization")))
        status, body = 200, png(scene())
        if "moved" in self.path:
            status = 302
        elif "secret" in self.path and self.headers.get("Authorization") is None:
            status = 401
        elif "large" in self.path:
            body = bytes(3_000_000)
        self.send_response(status)
        self.send_header("Location", "http://127.0.0.1:1/")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, sent["refresh"], self.headers.get("Authorization")))
        body = json.dumps({"access": "short-lived"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def studio(**fields):
    seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Studio", (Server,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield LabelStudio(f"http://127.0.0.1:{server.server_port}", **fields), seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_images_come_from_the_server_with_its_token(tmp_path):
    with studio(key="legacy") as (source, seen):
        path = source.save("/data/upload/1/a%20b.png?x=1", tmp_path, 1)
        assert path == tmp_path / "a b.png"
        assert path.read_bytes() == png(scene())
        source.save(f"{source.url}/data/secret.png", tmp_path, 1)
        source.save("/data/local-files/?d=deep/er/c.png", tmp_path, 1)
    assert seen == [
        ("/data/upload/1/a%20b.png?x=1", "Token legacy"),
        ("/data/secret.png", "Token legacy"),
        ("/data/local-files/?d=deep/er/c.png", "Token legacy"),
    ]
    assert (tmp_path / "c.png").exists()
    with studio(key="per.son.al") as (source, seen):
        source.save("/data/secret.png", tmp_path, 1)
    assert seen == [
        ("/api/token/refresh", "per.son.al", None),
        ("/data/secret.png", "Bearer short-lived"),
    ]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("http://169.254.169.254/data/x.png", "the image is at http://169.254.169.254; accepted are images at"),
        ("http://127.0.0.1:1/data/x.png", "the image is at http://127.0.0.1:1"),
        ("//evil.example/data/x.png", "the image is at ://evil.example"),
        ("file:///etc/passwd", "the image is at file://"),
        ("s3://bucket/x.png", "the image is at s3://bucket"),
        ("/api/users", "is no image of a task"),
        ("/data/../api/users", "is no image of a task"),
        ("/data/%2e%2e/api/users", "is no image of a task"),
        ("/data/moved.png", "Label Studio answers 302"),
        ("/data/secret.png", "answers 401; give an access token with --label-studio-key-file"),
        (None, "the task has no image"),
        ({"a": 1}, "the task has no image"),
    ],
)
def test_other_images_are_refused(reference, message, tmp_path):
    with studio() as (source, seen), pytest.raises(ImageError, match=message):
        source.save(reference, tmp_path, 1)
    assert all(path.startswith("/data/") and ".." not in path for path, _ in seen)


def test_large_images_are_refused(tmp_path):
    with studio() as (source, _), pytest.raises(TooLargeError, match="larger than 2 MB"):
        source.save("/data/large.png", tmp_path, 2)


def test_a_server_that_does_not_answer_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"cannot be read from http://127.0.0.1:9 .*is it running"):
        LabelStudio("http://127.0.0.1:9").save("/data/x.png", tmp_path, 1)


def test_files_of_the_local_storage_are_read_directly_but_no_others(tmp_path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "b.png").write_bytes(b"1")
    (tmp_path / "secret.png").write_bytes(b"2")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    source = LabelStudio("http://localhost:9", files=root)
    assert source.save("/data/local-files/?d=a/b.png", tmp_path, 1).read_bytes() == b"1"
    for inside in ("../secret.png", "a/../../secret.png", "link.png", "a", "nothing.png", str(tmp_path / "secret.png")):
        with pytest.raises(ImageError, match="is no file in"):
            source.save(f"/data/local-files/?d={inside}", tmp_path, 1)


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "http://", "http://a@b", "http://a/?b=c"])
def test_other_addresses_are_refused(url):
    with pytest.raises(SettingsError, match="give the address of the server"):
        LabelStudio(url)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return colour_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def client(model, tmp_path):
    (tmp_path / "scene.png").write_bytes(png(scene()))
    with client_of(model, label_studio=LabelStudio("http://localhost:9", files=tmp_path)) as client:
        yield client


def task(*results, number=1, image="/data/local-files/?d=scene.png"):
    return {"id": number, "data": {"u": image}, "predictions": [{"result": list(results)}]}


def ask(client, *tasks, config=CONFIG, **params):
    return client.post("/predict", json={"tasks": list(tasks), "label_config": config, "params": params})


def test_a_region_without_a_name_comes_back_as_it_was(client):
    config = '<View><Image name="i" value="$u"/><RectangleLabels name="b" toName="i"><Label value="dog"/>'
    config += "</RectangleLabels></View>"
    red, green = box_region(RED_BOX, id="1", from_name="b"), box_region(GREEN_BOX, id="2", from_name="b")
    (prediction,) = ask(client, task(red, green), config=config).json()["results"]
    assert prediction["result"][0] == red
    assert prediction["result"][1]["value"]["rectanglelabels"] == ["dog"]
    assert prediction["score"] == prediction["result"][1]["score"] > 0.9
    assert prediction["model_version"].startswith("maskwise ")


def test_a_broken_region_is_left_out_but_not_all(client):
    broken = {"id": "2", "type": "brushlabels", "to_name": "i", "value": {"rle": [1]}}
    (prediction,) = ask(client, task(box_region(RED_BOX, id="1"), broken)).json()["results"]
    assert [one["id"] for one in prediction["result"]] == ["1"]
    answer = ask(client, task(broken))
    assert (answer.status_code, answer.json()["detail"][:20]) == (422, "region 2: the brush'")


def test_a_broken_task_gets_no_prediction_if_there_are_others(client):
    broken = task(box_region(RED_BOX), number=2, image="http://elsewhere/x.png")
    answer = ask(client, broken, task(box_region(GREEN_BOX)))
    assert [len(one) for one in answer.json()["results"]] == [0, 3]
    assert ask(client, broken).json()["detail"].startswith("the image is at http://elsewhere")


def test_setup_refuses_a_configuration_without_a_name_of_the_model(client):
    strange = CONFIG.replace("Person", "quasar").replace("dog", "pulsar")
    answer = client.post("/setup", json={"schema": strange, "project": "1.2"})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("none of the configuration's names is one of the model's (person, dog,")
    assert client.post("/setup", json={"schema": CONFIG}).json()["model_version"].startswith("maskwise ")


def test_too_many_regions_are_refused(model, tmp_path):
    (tmp_path / "scene.png").write_bytes(png(scene()))
    source = LabelStudio("http://localhost:9", files=tmp_path)
    with client_of(model, label_studio=source, max_masks=2) as client:
        answer = ask(client, task(*(box_region(RED_BOX, id=str(number)) for number in range(3))))
        assert (answer.status_code, answer.json()["detail"][:22]) == (413, "the task has 3 regions")


def test_the_routes_are_there_only_if_asked_for(model):
    with client_of(model) as client:
        assert client.get("/health").status_code == 404
        assert client.post("/predict", json={}).status_code == 404


def test_the_token_is_the_password_of_basic_authentication(model, tmp_path):
    from maskwise.serve.settings import Access

    token = "a-token-that-is-long"
    with client_of(model, access=Access(token=token), label_studio=LabelStudio("http://localhost:9")) as client:
        for given, status in ((f"any:{token}", 200), ("any:wrong", 401), (token, 401), (f"{token}:any", 401)):
            header = {"Authorization": "Basic " + base64.b64encode(given.encode()).decode()}
            assert client.get("/versions", headers=header).status_code == status
        for header in ("Basic ???", "Basic " + base64.b64encode(b"\xff:\xff").decode(), "Digest x", token):
            assert client.get("/versions", headers={"Authorization": header}).status_code == 401
        assert client.get("/versions", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert client.post("/predict", json={}).status_code == 401
        assert client.get("/health").json()["status"] == "UP"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (
            f'<Rectangle name="r" toName="i"/><Labels name="l" toName="i">{LABELS}</Labels>',
            [("r", "rectangle", None), ("l", "labels", ["Person"]), ("r", "rectangle", None), ("l", "labels", ["dog"])],
        ),
        (
            f'<Polygon name="p" toName="i"/><PolygonLabels name="l" toName="i">{LABELS}</PolygonLabels>',
            [("l", "polygonlabels", ["Person"]), ("l", "polygonlabels", ["dog"])],
        ),
        (
            f'<RectangleLabels name="l" toName="i">{LABELS}</RectangleLabels>',
            [("l", "rectanglelabels", ["Person"]), ("l", "rectanglelabels", ["dog"])],
        ),
    ],
)
def test_things_become_what_the_configuration_has(client, tags, expected):
    config = f'<View><Image name="i" value="$u"/>{tags}</View>'
    (prediction,) = ask(client, task(), config=config).json()["results"]
    records = sorted(prediction["result"], key=lambda one: mask_of_region(one, HW).box_xywh)
    assert [(one["from_name"], one["type"], one["value"].get(one["type"])) for one in records] == expected
    boxes = [mask_of_region(one, HW).box_xywh for one in records]
    assert sorted(set(boxes)) == [RED_BOX, GREEN_BOX]
    assert len({one["id"] for one in records}) == 2
