"""What ultralytics, SAM 2 and SAM 3 return goes straight into the predictor; stand-ins have the same shapes."""

from types import SimpleNamespace

import numpy as np
import pytest
import supervision

from colour_model import colour_model
from maskwise import Predictor
from maskwise.errors import MaskError
from maskwise.model.mask_inputs import as_masks
from maskwise.model.tool_results import as_array
from serving import GREEN_BOX, RED_BOX, scene

HW = (60, 80)
RED_XYXY, GREEN_XYXY = [10.0, 10.0, 30.0, 30.0], [40.0, 20.0, 64.0, 50.0]


class Tensor:
    """Behaves like a torch tensor on a GPU that needs a gradient: only detach, then cpu, then numpy work."""

    def __init__(self, array, steps=("detach", "cpu", "numpy"), dtype="torch.float32"):
        self.array, self.steps, self.dtype = np.asarray(array), steps, dtype

    def _step(self, name):
        assert self.steps[0] == name, f"{name} before {self.steps[0]}"
        return Tensor(self.array, self.steps[1:], self.dtype)

    def detach(self):
        return self._step("detach")

    def cpu(self):
        return self._step("cpu")

    def float(self):
        return Tensor(self.array, self.steps, "torch.float32")

    def numpy(self):
        assert self.dtype != "torch.bfloat16", "NumPy has no such type"
        return self._step("numpy").array


def stack(*boxes_xyxy, hw=HW):
    out = np.zeros((len(boxes_xyxy), *hw), dtype=bool)
    for mask, (x0, y0, x1, y1) in zip(out, boxes_xyxy, strict=True):
        mask[int(y0) : int(y1), int(x0) : int(x1)] = True
    return out


TRUE = stack(RED_XYXY, GREEN_XYXY)


def results(data, boxes=(RED_XYXY, GREEN_XYXY), hw=HW):
    masks = None if data is None else SimpleNamespace(data=Tensor(np.asarray(data, dtype=np.float32)))
    return SimpleNamespace(masks=masks, boxes=SimpleNamespace(xyxy=Tensor(np.array(boxes))), orig_shape=hw)


def letterboxed(masks):
    """The scene in a square of 40: half the size, 30 rows in the middle."""
    out = np.zeros((len(masks), 40, 40), dtype=np.float32)
    out[:, 5:35] = masks[:, ::2, ::2]
    return out


FORMS = {
    "a tensor": Tensor(TRUE),
    "a tensor of bfloat16": Tensor(TRUE.astype(np.float32), dtype="torch.bfloat16"),
    "a list of tensors": [Tensor(mask) for mask in TRUE],
    "logits": np.where(TRUE, 7.5, -3.25),
    "ultralytics": results(TRUE),
    "ultralytics' list for one image": [results(TRUE)],
    "ultralytics, letterboxed": results(letterboxed(TRUE)),
    "ultralytics, boxes alone": results(None),
    "ultralytics, an empty mask": results(TRUE * np.array([1, 0])[:, None, None]),
    "SAM 2, three masks of one point": (TRUE.astype(np.float32), np.array([0.5, 0.9]), np.zeros((2, 256, 256))),
    "SAM 2, logits": (np.where(TRUE, 9.0, -9.0), np.array([0.5, 0.9]), np.zeros((2, 256, 256))),
    "SAM 2, boxes": (TRUE[:, None].astype(np.float32), np.array([[0.5], [0.9]]), np.zeros((2, 1, 256, 256))),
    "SAM 2, three masks of each box": (
        np.stack([[TRUE[1], TRUE[0], TRUE[1]], [TRUE[1], TRUE[0], TRUE[0]]]),
        np.array([[0.2, 0.9, 0.3], [0.8, 0.7, 0.1]]),
        np.zeros((2, 3, 256, 256)),
    ),
    "SAM 2, generate()": [
        {"segmentation": mask, "bbox": box, "area": mask.sum(), "predicted_iou": 0.9, "stability_score": 0.9}
        for mask, box in zip(TRUE, (RED_BOX, GREEN_BOX), strict=True)
    ],
    "SAM 3": {"masks": Tensor(TRUE[:, None]), "boxes": Tensor([RED_XYXY, GREEN_XYXY]), "scores": Tensor([0.9, 0.8])},
    "SAM 3 in transformers": {"masks": [Tensor(mask) for mask in TRUE], "scores": Tensor([0.9, 0.8])},
    "SAM 3, a frame of a video": {"out_binary_masks": TRUE, "out_probs": np.array([0.9, 0.8])},
    "supervision": supervision.Detections(xyxy=np.array([RED_XYXY, GREEN_XYXY]), mask=TRUE),
    "supervision, boxes alone": supervision.Detections(xyxy=np.array([RED_XYXY, GREEN_XYXY])),
}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor(colour_model(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_the_same_two_masks(form):
    masks = as_masks(FORMS[form], HW)
    assert [mask.box_xywh for mask in masks] == [RED_BOX, GREEN_BOX]
    assert [mask.area for mask in masks] == [400, 720]


@pytest.mark.parametrize("form", ["ultralytics", "SAM 2, boxes", "SAM 3"])
def test_the_predictor_takes_them(predictor, form):
    assert [one.name for one in predictor.predict(scene(), FORMS[form])] == ["person", "dog"]


def test_a_margin_at_the_sides_is_cut_off_too():
    # 80 rows x 60 columns in a square of 40: 30 columns from column 5.
    masks = stack([10, 10, 30, 30], [40, 20, 58, 50], hw=(80, 60))
    square = np.zeros((2, 40, 40), dtype=np.float32)
    square[:, :, 5:35] = masks[:, ::2, ::2]
    read = as_masks(results(square, hw=(80, 60)), (80, 60))
    assert [mask.box_xywh for mask in read] == [(10, 10, 20, 20), (40, 20, 18, 30)]


def test_nothing_found_gives_no_answer(predictor):
    for form in (
        results(None, boxes=np.zeros((0, 4))),
        {"masks": Tensor(np.zeros((0, 1, *HW), dtype=bool)), "scores": Tensor([])},
        (np.zeros((0, *HW)), np.zeros(0), np.zeros((0, 256, 256))),
        supervision.Detections.empty(),
    ):
        assert predictor.predict(scene(), form) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([results(TRUE), results(TRUE)], r"results of 2 images; give those of one: results\[0\]"),
        (results(TRUE, hw=(80, 60)), r"results are of an image of 60 x 80 pixels, this one has 80 x 60"),
        (np.stack([TRUE, TRUE]), r"shape \(2, 2, 60, 80\): 2 for each thing; .*multimask_output=False"),
        ({"scores": [1]}, "masks are of type dict"),
        (Tensor(TRUE[:, :50]), "mask 0: the mask is 80 x 50 pixels, the image 80 x 60"),
        (Tensor(TRUE * np.array([1, 0])[:, None, None]), "mask 1: the mask is empty"),
    ],
)
def test_what_is_unclear_is_refused(given, message):
    with pytest.raises(MaskError, match=message):
        as_masks(given, HW)


def test_detections_come_back_named_whatever_their_masks(predictor):
    named = predictor.label_detections(scene(), FORMS["supervision"])
    assert named.data["class_name"].tolist() == ["person", "dog"]
    assert named.class_id.tolist() == [1, 18]
    compact = FORMS["supervision"]
    if hasattr(supervision, "CompactMask"):
        masks = supervision.CompactMask.from_dense(TRUE, compact.xyxy, HW)
        compact = supervision.Detections(xyxy=compact.xyxy, mask=masks)
        assert predictor.label_detections(scene(), compact).data["class_name"].tolist() == ["person", "dog"]


def test_arrays_stay_as_they_are():
    assert as_array(TRUE) is TRUE
