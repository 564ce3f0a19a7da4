import json

import numpy as np
import pytest

from colour_model import CATEGORIES, colour_model
from maskwise import Mask, Predictor
from maskwise.model.segmenter import Segment
from maskwise.serve.api import WHY, flag
from serving import BOXES, GREEN_BOX, RED_BOX, ColourSegmenter, client_of, mask_png, png, scene


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return colour_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def client(model):
    with client_of(model) as client:
        yield client


PHOTO = {"image": ("scene.png", png(scene()), "image/png")}
BOTH = ["person", "dog"]


def names(answer):
    assert answer.status_code == 200, answer.text
    return [region["names"][0]["name"] for region in answer.json()["regions"]]


def refusal(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()["detail"]


def test_every_form_of_region_is_named(client):
    corners = [40, 20, 64, 20, 64, 50, 40, 50]
    rle = Mask.from_box(GREEN_BOX, (60, 80)).to_rle()
    plain = {"size": [60, 80], "counts": [10 * 60 + 10, 20, (80 - 10) * 60 - 30]}
    regions = [
        {"box": RED_BOX, "id": "the red one"},
        {"polygons": [corners]},
        {"rle": rle},
        {"rle": plain},
        {"prompt": {"points": [[15, 15]]}},
        {"prompt": {"box": GREEN_BOX}},
    ]
    files = [("image", PHOTO["image"]), ("masks", ("red.png", mask_png(RED_BOX)))]
    answer = client.post("/v1/predict", files=files, data={"regions": json.dumps(regions)})
    assert names(answer) == ["person", "person", "dog", "dog", "person", "person", "dog"]
    regions = answer.json()["regions"]
    assert [region["region"] for region in regions] == ["red.png", "the red one", "3", "4", "5", "6", "7"]
    assert regions[0]["bbox"] == list(RED_BOX)
    assert regions[0]["area"] == 400
    assert regions[4]["bbox"] == [10, 10, 1, 20]
    assert regions[5]["predicted_iou"] == 0.9
    assert "predicted_iou" not in regions[0]


def test_answers_are_those_of_the_predictor(client, model):
    image, masks = scene(), [Mask.from_box(box, (60, 80)) for box in (RED_BOX, GREEN_BOX)]
    expected = Predictor(model, mode="exact").predict(image, masks, top=2, embeddings=True)
    answer = client.post("/v1/predict", files=PHOTO, data={"regions": BOXES, "top": 2}).json()
    for region, prediction in zip(answer["regions"], expected, strict=True):
        assert [(name["name"], name["category_id"]) for name in region["names"]] == [
            (name.name, name.category_id) for name in prediction.names
        ]
        np.testing.assert_allclose(
            [name["probability"] for name in region["names"]], [name.probability for name in prediction.names]
        )
    vectors = client.post("/v1/embed", files=PHOTO, data={"regions": BOXES}).json()
    np.testing.assert_allclose(
        [region["embedding"] for region in vectors["regions"]], [one.embedding for one in expected], rtol=1e-6
    )
    assert (answer["model"], answer["width"], answer["height"]) == ("colour", 80, 60)


def test_run_lengths_come_back_if_asked_for(client):
    answer = client.post("/v1/predict", files=PHOTO, data={"regions": BOXES, "segmentation": "true"}).json()
    expected = [Mask.from_box(box, (60, 80)).to_rle() for box in (RED_BOX, GREEN_BOX)]
    assert [region["segmentation"] for region in answer["regions"]] == expected
    assert "segmentation" not in client.post("/v1/predict", files=PHOTO, data={"regions": BOXES}).text


def test_no_region_is_no_mistake(client):
    assert names(client.post("/v1/predict", files=PHOTO)) == []


def test_a_file_of_segments_brings_its_names(client):
    coco = {
        "images": [{"id": 5, "file_name": "a/scene.png", "width": 80, "height": 60}, {"id": 6, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "traffic light"}],
        "annotations": [
            {"id": 9, "image_id": 5, "category_id": 1, "bbox": RED_BOX},
            {"id": 10, "image_id": 5, "bbox": GREEN_BOX},
            {"id": 11, "image_id": 6, "bbox": GREEN_BOX},
        ],
    }
    files = {**PHOTO, "segments": ("truth.json", json.dumps(coco).encode())}
    answer = client.post("/v1/predict", files=files)
    assert names(answer) == BOTH
    first, second = answer.json()["regions"]
    assert (first["region"], first["given"]) == ("segment 9", "traffic light")
    assert "given" not in second


def test_sams_list_is_a_file_of_segments(client):
    sam = [{"segmentation": Mask.from_box(box, (60, 80)).to_rle()} for box in (GREEN_BOX, RED_BOX)]
    files = {**PHOTO, "segments": ("sam.json", json.dumps(sam).encode())}
    assert names(client.post("/v1/predict", files=files)) == ["dog", "person"]


def test_a_kept_photograph_is_encoded_once(model):
    segmenter = ColourSegmenter()
    with client_of(model, segmenter=segmenter) as client:
        kept = client.post("/v1/images", files=PHOTO, data={"prepare": "true"}).json()
        assert (kept["width"], kept["height"]) == (80, 60)
        for point in ([15, 15], [50, 30]):
            regions = json.dumps([{"prompt": {"points": [point]}}])
            answer = client.post("/v1/predict", data={"image_id": kept["image_id"], "regions": regions})
            assert answer.status_code == 200, answer.text
        assert segmenter.encoded == 1
        assert client.post("/v1/images", files=PHOTO).json() == kept
        assert "send it again" in refusal(client.post("/v1/predict", data={"image_id": "0" * 32}), 404)


def test_the_oldest_photographs_are_forgotten(model):
    with client_of(model, kept_megapixels=0.01) as client:
        ids = []
        for shade in range(3):
            pixels = np.full((60, 80, 3), shade, dtype=np.uint8)
            ids.append(client.post("/v1/images", files={"image": ("a.png", png(pixels))}).json()["image_id"])
        found = [client.post("/v1/predict", data={"image_id": one}).status_code for one in ids]
        assert found == [404, 200, 200]


def test_segment_outlines_everything_or_what_prompts_show(client):
    everything = client.post("/v1/segment", files=PHOTO).json()["segments"]
    assert [segment["bbox"] for segment in everything] == [list(RED_BOX), list(GREEN_BOX)]
    assert everything[0]["segmentation"] == Mask.from_box(RED_BOX, (60, 80)).to_rle()
    assert (everything[0]["predicted_iou"], everything[0]["stability_score"], everything[0]["area"]) == (0.9, 0.8, 400)
    prompts = json.dumps([{"points": [[50, 30]]}, {"box": RED_BOX}])
    prompted = client.post("/v1/segment", files=PHOTO, data={"prompts": prompts}).json()["segments"]
    assert [segment["bbox"] for segment in prompted] == [list(GREEN_BOX), list(RED_BOX)]
    assert client.post("/v1/segment", files=PHOTO, data={"prompts": "[]"}).json()["segments"] == []


def test_the_server_says_what_is_none_of_these(tmp_path):
    """Known is what is red."""
    with client_of(colour_model(tmp_path, known=[8, 0, 0, -4])) as client:
        red, green = client.post("/v1/predict", files=PHOTO, data={"regions": BOXES}).json()["regions"]
        assert (red["is_none"], green["is_none"]) == (False, True)
        assert red["known"] > 0.9 > 0.1 > green["known"]
        things = client.post("/v1/name", files=PHOTO, data={"segmentation": "true"}).json()
        assert things["outlines"] == 2
        (only,) = things["things"]
        assert (only["bbox"], only["names"][0]["name"], only["predicted_iou"]) == (list(RED_BOX), "person", 0.9)
        assert only["segmentation"] == Mask.from_box(RED_BOX, (60, 80)).to_rle()


def test_parts_of_a_thing_are_no_things(model):
    class Parts(ColourSegmenter):
        def segment(self, image, *, points_per_side=24):
            inner = Segment(Mask.from_box((12, 12, 8, 8), (60, 80)), 0.7, 0.8)
            return [*super().segment(image), inner]

    with client_of(model, segmenter=Parts()) as client:
        things = client.post("/v1/name", files=PHOTO).json()
        assert (things["outlines"], len(things["things"])) == (3, 2)
        assert {tuple(thing["bbox"]) for thing in things["things"]} == {RED_BOX, GREEN_BOX}


def test_models_are_listed(client):
    (only,) = client.get("/v1/models").json()["models"]
    assert only["name"] == "colour"
    assert [(one["id"], one["name"]) for one in only["classes"]] == [(one.id, one.name) for one in CATEGORIES]


def test_health_and_metrics(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    before = client.get("/metrics").text
    client.post("/v1/predict", files=PHOTO, data={"regions": BOXES})
    after = client.get("/metrics").text

    def named(text):
        return float(text.split("\nmaskwise_named_regions_total ")[1].split()[0])

    assert named(after) == named(before) + 2
    assert 'maskwise_requests_total{method="POST",route="/v1/predict",status="200"}' in after
    client.get("/invented/path")
    assert "invented" not in client.get("/metrics").text


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ("[{}]", "regions[0]: give each region as one of box, polygons, rle and prompt"),
        ('[{"box": [1, 2, 3]}]', "regions[0].box: List should have at least 4 items"),
        ('[{"box": [1, 2, 3, NaN]}]', "regions"),
        ('[{"box": [90, 2, 3, 3]}]', "regions[0]: the box 90, 2, 3, 3 lies outside the image"),
        ('[{"box": [1, 2, 3, 3]}, {"polygons": [[1, 1, 2, 2]]}]', "regions[1].polygons[0]"),
        ('[{"rle": {"size": [80, 60], "counts": "0"}}]', "regions[0]: the mask is 60 x 80 pixels, the image 80 x 60"),
        ('[{"rle": {"size": [60, 80], "counts": [4799]}}]', "regions[0]: the runs cover 4799 pixels"),
        ('[{"prompt": {}}]', "no point that is part of the thing"),
        ('[{"prompt": {"points": [[300, 1]]}}]', "the point 300,1 lies outside the image"),
        ('[{"box": [1, 2, 3, 3], "name": "x"}]', "regions[0].box.name: Extra inputs are not permitted"),
        ("no json", "regions: Invalid JSON"),
        ('{"box": [1, 2, 3, 3]}', "regions"),
    ],
)
def test_faulty_regions_are_refused_with_their_place(client, regions, message):
    assert message in refusal(client.post("/v1/predict", files=PHOTO, data={"regions": regions}), 422)


def test_faulty_files_are_refused_by_their_own_names(client):
    cases = {
        "image": ("../photo.jpg", b"no picture", "photo.jpg: is not an image"),
        "masks": ("m.png", png(np.zeros((60, 80), dtype=np.uint8)), "m.png: the mask is empty"),
        "segments": ("s.json", b"{", "s.json: is not JSON"),
    }
    for field, (name, content, message) in cases.items():
        answer = client.post("/v1/predict", files={**PHOTO, field: (name, content)})
        detail = refusal(answer, 422)
        assert detail.startswith(message), detail
        assert "/tmp" not in detail
    small = ("small.png", png(np.full((6, 8), 255, dtype=np.uint8)))
    assert "8 x 6 pixels, the photograph 80 x 60" in refusal(
        client.post("/v1/predict", files={**PHOTO, "masks": small}), 422
    )


def test_one_photograph_is_needed_and_only_one(client):
    for data, files in (({}, None), ({"image_id": "0" * 32}, PHOTO)):
        assert "either as the file `image` or as `image_id`" in refusal(
            client.post("/v1/predict", data=data, files=files), 422
        )


def test_misspelt_fields_are_refused(client):
    detail = refusal(client.post("/v1/predict", files=PHOTO, data={"region": BOXES}), 422)
    assert "field 'region'" in detail
    assert "regions, segmentation, segments, top" in detail


def test_too_large_is_refused(model):
    with client_of(model, max_masks=2, max_megapixels=0.01, max_upload_mb=0.1, memory_mb=1) as client:
        three = json.dumps([{"box": RED_BOX}] * 3)
        assert "more than 2 regions" in refusal(client.post("/v1/predict", files=PHOTO, data={"regions": three}), 413)
        sam = json.dumps([{"segmentation": Mask.from_box(RED_BOX, (60, 80)).to_rle()}] * 3).encode()
        assert "more than 2 regions" in refusal(
            client.post("/v1/predict", files={**PHOTO, "segments": ("s.json", sam)}), 413
        )
        big = {"image": ("big.png", png(np.zeros((101, 100, 3), dtype=np.uint8)))}
        assert "0.0101 megapixels" in refusal(client.post("/v1/predict", files=big), 413)
        assert "too large" in refusal(client.post("/v1/predict", files={"image": ("a.png", b"x" * 100_001)}), 413)

        def pieces():
            yield b"x" * 60_000
            yield b"x" * 60_000

        headers = {"content-type": "multipart/form-data; boundary=b"}
        assert "too large" in refusal(client.post("/v1/predict", content=pieces(), headers=headers), 413)


def test_large_masks_are_counted_together(model):
    with client_of(model, memory_mb=0.02) as client:  # Half of it, 10,000 pixels, for masks.
        whole = json.dumps([{"box": [0, 0, 80, 60]}] * 3)
        assert "too many pixels together" in refusal(
            client.post("/v1/predict", files=PHOTO, data={"regions": whole}), 413
        )
        assert client.get("/metrics").text.count("maskwise_request_bytes 0.0") == 1


def test_every_refusal_is_documented(client):
    document = client.get("/openapi.json").json()
    for path in ("/v1/predict", "/v1/embed", "/v1/name", "/v1/segment"):
        assert set(document["paths"][path]["post"]["responses"]) == {"200", *map(str, WHY)}


def test_a_fault_of_ours_says_nothing_of_the_inside(model):
    class Broken(ColourSegmenter):
        def segment(self, image, *, points_per_side=24):
            raise ZeroDivisionError("secret")

    with client_of(model, segmenter=Broken()) as client:
        assert "secret" not in refusal(client.post("/v1/segment", files=PHOTO), 500)
        assert client.get("/healthz").status_code == 200


def test_the_page_and_its_examples_are_served(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "Maskwise" in page.text
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "http" not in policy
    assert client.get("/page/app.js").status_code == 200
    assert client.get("/examples/coffee.jpg").headers["content-type"] == "image/jpeg"
    for path in ("/examples/coffee-cup.png", "/examples/..%2Fpyproject.toml", "/page/..%2Fapi.py", "/docs"):
        assert client.get(path).status_code == 404, path


def test_a_form_says_true_or_false_and_nothing_else():
    assert [flag("true"), flag("false"), flag(True), flag(False)] == [True, False, True, False]
    for value in (1, 0, "1", "yes", None, ["true"]):
        with pytest.raises(ValueError, match="give true or false"):
            flag(value)
