import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import supervision

from maskwise import Mask, Predictor
from maskwise.errors import ImageError, MaskError, ModelError
from maskwise.modelfile import open_model
from tiny_model import tiny_model

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor(tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def masks():
    out = np.zeros((11, 90, 120), dtype=bool)
    for i in range(11):
        out[i, 5 + 3 * i : 30 + 4 * i, 8 * i : 8 * i + 20] = True
    return out


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
    logits = predictor._run(image, masks, "logits") / 2.0  # tiny_model writes temperature 2.
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
        open_model(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("name", "text"), [("a.onnx", "cannot load"), ("a.safetensors", "maskwise export"), ("none.onnx", "no such")]
)
def test_refuses_a_model_file_of_another_kind(tmp_path, name, text):
    if not name.startswith("none"):
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(ModelError, match=text):
        open_model(tmp_path / name)


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
    command = [sys.executable, "-c", "from maskwise.cli import main; main()", "predict", str(EXAMPLES / f"{photo}.jpg")]
    subprocess.run(
        [*command, "--mask", str(EXAMPLES / f"{photo}-{mask}.png"), "--json", str(tmp_path / "out.json")],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    assert json.loads((tmp_path / "out.json").read_text())["regions"][0]["names"][0]["name"] == name
