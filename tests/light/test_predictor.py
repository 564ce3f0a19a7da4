import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import supervision
from PIL import Image

from colour_model import colour_model
from maskwise import Mask, Name, Prediction, Predictor, draw_overlay
from maskwise.errors import ImageError, InputError, MaskError, ModelError
from maskwise.model.mask_inputs import as_masks
from maskwise.model.predictor import AUTO_MIN_MASKS, MAX_SHARED_CROPS, MODES
from maskwise.model.session import open_session

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor(colour_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def masks():
    out = np.zeros((11, 90, 120), dtype=bool)
    for i in range(11):
        out[i, 5 + 3 * i : 30 + 4 * i, 8 * i : 8 * i + 20] = True
    return out


@pytest.fixture(scope="module")
def sharing_model(tmp_path_factory):
    return colour_model(tmp_path_factory.mktemp("sharing"), shares=True)


def masks_of_one_box():
    """A stripe each, and two corners that all have: their views are the same."""
    out = np.zeros((AUTO_MIN_MASKS, 90, 120), dtype=bool)
    out[:, 20, 30] = out[:, 59, 69] = True
    for number, mask in enumerate(out):
        mask[22 + 4 * number : 26 + 4 * number, 30:70] = True
    return out


def test_masks_that_share_a_view_are_named_as_if_each_had_it_alone(sharing_model, image):
    image, masks = image.copy(), masks_of_one_box()
    image[40:] = (250, 20, 20)
    exact = Predictor(sharing_model, mode="exact").probabilities(image, masks)
    assert np.abs(exact[0] - exact[-1]).max() > 1e-3
    for mode in ("shared", "auto"):
        predictor = Predictor(sharing_model, mode=mode)
        assert predictor.run(image, masks).crops == 1
        np.testing.assert_allclose(predictor.probabilities(image, masks), exact, atol=1e-5)


def scattered(count):
    """Small masks all over a large image."""
    corners = np.random.default_rng(0).uniform(0, 900, (count, 2)).tolist()
    return [Mask.from_box((x, y, 20, 20), (1000, 1000)) for x, y in corners]


def test_answers_come_in_the_order_of_the_masks_whatever_they_share(sharing_model):
    image = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    masks, predictor = scattered(60), Predictor(sharing_model, mode="shared")
    order = np.random.default_rng(1).permutation(60)
    straight, mixed = predictor.embed(image, masks), predictor.embed(image, [masks[i] for i in order])
    assert len(np.unique(straight.round(3), axis=0)) > 20
    np.testing.assert_allclose(mixed, straight[order], atol=1e-6)


def test_auto_shares_views_where_there_are_many_masks(sharing_model, image):
    masks, predictor = as_masks(masks_of_one_box(), (90, 120)), Predictor(sharing_model, mode="auto")
    assert [predictor.run(image, masks[:n]).crops for n in (1, AUTO_MIN_MASKS - 1, AUTO_MIN_MASKS)] == [
        1,
        AUTO_MIN_MASKS - 1,
        1,
    ]


def test_shared_mode_bounds_the_number_of_views(sharing_model):
    image, masks = np.zeros((1000, 1000, 3), dtype=np.uint8), scattered(60)
    counts = {mode: Predictor(sharing_model, mode=mode).run(image, masks).crops for mode in MODES}
    assert counts["exact"] == 60
    assert counts["shared"] <= MAX_SHARED_CROPS < counts["auto"] < 60


def test_a_model_whose_masks_act_inside_the_trunk_has_a_view_for_each(predictor, image, masks):
    for mode in MODES:
        assert Predictor(predictor.model_path, mode=mode).run(image, masks).crops == len(masks)


def test_no_answer_depends_on_the_other_masks_unless_asked(sharing_model, image):
    predictor = Predictor(sharing_model)
    assert predictor.mode == "exact"
    masks = masks_of_one_box()
    assert predictor.run(image, masks).crops == len(masks)


def test_refuses_no_threads():
    with pytest.raises(InputError, match="0 threads; give 1 to 1024"):
        Predictor(threads=0)


WRONG_TYPES = """
import numpy as np
from maskwise import Predictor
from maskwise.errors import MaskwiseError
from maskwise.model.mask_inputs import as_masks

calls = [lambda: Predictor(mode="fast"), lambda: as_masks(None, (9, 9)), lambda: as_masks(3, (9, 9))]
for call in calls:
    try:
        call()
    except MaskwiseError as error:
        print(type(error).__name__, error)
"""


def test_refuses_arguments_of_another_type():
    """In a process of its own, where annotations are not checked."""
    done = subprocess.run([sys.executable, "-c", WRONG_TYPES], capture_output=True, text=True, check=True)
    accepted = "accepted are N x height x width, a sequence of arrays, `Mask`s, polygons, COCO run lengths"
    assert done.stdout.splitlines() == [
        "InputError mode 'fast'; accepted are auto, exact, shared",
        f"MaskError masks are of type NoneType; {accepted} or SAM's records, or Detections",
        f"MaskError masks are of type int; {accepted} or SAM's records, or Detections",
    ]


def test_probabilities_are_a_distribution_over_the_classes(predictor, image, masks):
    probabilities = predictor.probabilities(image, masks)
    assert probabilities.shape == (11, len(predictor.classes))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_order_of_masks_is_order_of_answers(predictor, image, masks):
    order = np.random.default_rng(1).permutation(11)
    np.testing.assert_allclose(
        predictor.probabilities(image, masks[order]), predictor.probabilities(image, masks)[order], atol=1e-5
    )


def test_mask_decides_the_answer(predictor, image, masks):
    probabilities = predictor.probabilities(image, masks)
    assert np.abs(probabilities[0] - probabilities[5]).max() > 1e-3


def test_temperature_softens_as_the_file_says(predictor, image, masks):
    logits = predictor.run(image, masks).logits / 2.0  # The temperature of the colour model.
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predictor.probabilities(image, masks), expected, rtol=1e-4)


def test_predictions_run_from_the_most_probable_down(predictor, image, masks):
    for prediction, row in zip(
        predictor.predict(image, masks, top=2), predictor.probabilities(image, masks), strict=True
    ):
        assert len(prediction.names) == 2
        assert prediction.probability == pytest.approx(row.max())
        assert prediction.name == predictor.classes[row.argmax()]
        assert prediction.names[0].probability >= prediction.names[1].probability


def test_masks_arrays_and_detections_say_the_same(predictor, image, masks):
    expected = predictor.probabilities(image, masks)
    as_objects = predictor.probabilities(image, [Mask.from_array(mask) for mask in masks])
    xyxy = np.array([[0, 0, 5, 5]] * 11, dtype=float)
    as_detections = predictor.probabilities(image, supervision.Detections(xyxy=xyxy, mask=masks))
    np.testing.assert_array_equal(as_objects, expected)
    np.testing.assert_array_equal(as_detections, expected)


def test_detections_come_back_named(predictor, image, masks):
    detections = supervision.Detections(xyxy=np.array([[3.0, 4.0, 50.0, 60.0]]))
    named = predictor.label_detections(image, detections)
    assert named.data["class_name"][0] == predictor.predict(image, [Mask.from_box((3, 4, 47, 56), (90, 120))])[0].name
    assert 0 < named.confidence[0] <= 1
    assert detections.class_id is None


def test_no_mask_gives_no_answer(predictor, image):
    assert predictor.predict(image, np.zeros((0, 90, 120), dtype=bool)) == []
    assert predictor.embed(image, []).shape == (
        0,
        predictor.embed(image, [Mask.from_box((0, 0, 5, 5), (90, 120))]).shape[1],
    )


def test_refuses_a_mask_of_another_size(predictor, image):
    with pytest.raises(MaskError, match=r"mask 0: the mask is 100 x 90 pixels, the image 120 x 90"):
        predictor.predict(image, np.ones((1, 90, 100), dtype=bool))


def test_refuses_an_empty_mask_by_its_index(predictor, image, masks):
    masks = masks.copy()
    masks[3] = False
    with pytest.raises(MaskError, match="mask 3: the mask is empty"):
        predictor.predict(image, masks)


def test_refuses_an_image_that_is_not_bytes(predictor, masks):
    with pytest.raises(ImageError, match="float64"):
        predictor.predict(np.zeros((90, 120, 3)), masks)


def test_refuses_an_onnx_file_of_another_kind(tmp_path):
    import onnx

    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "other", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="not a Maskwise model"):
        open_session(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("name", "text"), [("a.onnx", "cannot load"), ("a.safetensors", "maskwise export"), ("none.onnx", "no such")]
)
def test_refuses_a_model_file_of_another_kind(tmp_path, name, text):
    if not name.startswith("none"):
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(ModelError, match=text):
        open_session(tmp_path / name)


@pytest.mark.parametrize("value", [0, 255, 90, None], ids=["black", "white", "grey", "noise"])
def test_built_in_model_is_not_sure_of_a_region_without_content(value):
    shape = (240, 320, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = noise if value is None else np.full(shape, value, np.uint8)
    boxes = ((0, 0, 320, 240), (10, 20, 30, 25), (100, 50, 150, 40), (200, 100, 20, 120), (300, 220, 4, 4))
    masks = [Mask.from_box(box, shape[:2]) for box in boxes]
    predictions = Predictor().predict(image, masks)
    assert max(one.probability for one in predictions) < 0.5
    if value is not None:  # Noise looks like nothing that the model has seen, and it may take it for a thing.
        assert max(one.known for one in predictions) < 0.3


@pytest.mark.parametrize(
    ("photo", "mask", "name"),
    [
        ("coffee", "cup", "cup"),
        ("coffee", "spoon", "spoon"),
        ("coffee", "table", "dining table"),
        ("cat", "cat", "cat"),
    ],
)
def test_embedded_model_names_the_bundled_photographs(tmp_path, photo, mask, name):
    """Through the command line, in a process of its own, as a newcomer would."""
    command = [sys.executable, "-m", "maskwise", "predict", str(EXAMPLES / f"{photo}.jpg")]
    subprocess.run(
        [*command, "--mask", str(EXAMPLES / f"{photo}-{mask}.png"), "--json", str(tmp_path / "out.json")],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    assert json.loads((tmp_path / "out.json").read_text())["regions"][0]["names"][0]["name"] == name


def test_images_may_be_paths_bytes_or_images_of_pillow(tmp_path):
    predictor = Predictor(colour_model(tmp_path))
    Image.new("RGB", (30, 20), (255, 0, 0)).save(tmp_path / "red.png")
    masks = np.ones((1, 20, 30), dtype=bool)
    for image in (tmp_path / "red.png", (tmp_path / "red.png").read_bytes(), Image.open(tmp_path / "red.png")):
        assert [one.name for one in predictor.predict(image, masks)] == ["person"]
        assert draw_overlay(image, masks, predictor.predict(image, masks)).shape[2] == 3


def test_a_notebook_shows_bars_and_escapes_names():
    names = (Name("<b>cup", 47, 0.75), Name("dog", 18, 0.25))
    shown = Prediction(names)._repr_html_()
    assert "&lt;b&gt;cup" in shown
    assert "<b>" not in shown
    assert (shown.count("<tr>"), shown.count("width:75px"), shown.count("25%")) == (2, 1, 1)
    assert "none of these" in Prediction(names, is_none=True)._repr_html_()
    assert "none of these" not in shown
