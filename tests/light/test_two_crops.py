"""Models that see a narrow and a wide crop of every region, with a network whose answers are known by hand."""

import numpy as np
import pytest

from colour_model import colour_model
from maskwise import Mask, Predictor
from maskwise.data.coco_regions import regions_from_coco
from maskwise.errors import SettingsError
from maskwise.model.predictor import AUTO_MIN_MASKS
from maskwise.tasks.evaluation import evaluate
from maskwise.tasks.fitting import fit_classes
from maskwise.views.view import ViewSettings
from two_objects import write_two_objects

VIEW = ViewSettings(size=40, context=2.0, min_side=4, wide_context=4.0, wide_min_side=4)
NARROW = np.array([[3.0, 0.0, 0.0], [0.0, 5.0, 1.0], [0.0, 0.0, 7.0]])
WIDE = np.array([[0.0, 11.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 13.0]])


@pytest.fixture
def model(tmp_path):
    return colour_model(tmp_path, weight=NARROW, wide_weight=WIDE, view=VIEW, shares=True)


def scene(count=1):
    """Squares of 10 x 10 pixels on black, 100 pixels apart; each of another colour."""
    image, masks = np.zeros((100, 100 * count, 3), dtype=np.uint8), []
    for place in range(count):
        image[45:55, 100 * place + 45 : 100 * place + 55] = (255, 51 + 10 * place, 102)
        masks.append(Mask.from_box((100 * place + 45, 45, 10, 10), image.shape[:2]))
    return image, masks


def test_logits_of_both_crops_are_added_and_embeddings_stand_side_by_side(model):
    """The square fills a quarter of the narrow crop and a sixteenth of the wide one."""
    image, masks = scene()
    outputs = Predictor(model, mode="exact").run(image, masks, embeddings=True)
    colour = np.array([1.0, 0.2, 0.4])
    np.testing.assert_allclose(outputs.embeddings, [[*(colour / 4), *(colour / 16)]], atol=0.01)
    np.testing.assert_allclose(outputs.logits[0], NARROW @ colour / 4 + WIDE @ colour / 16, atol=0.05)
    assert outputs.crops == 2
    assert not outputs.shared


def test_many_masks_get_their_own_rows(model):
    image, masks = scene(5)
    outputs = Predictor(model, mode="exact").run(image, masks[::-1], embeddings=True)
    greens = np.array([0.2 + 10 / 255 * place for place in range(5)])[::-1]
    np.testing.assert_allclose(outputs.embeddings[:, 1], greens / 4, atol=0.01)
    np.testing.assert_allclose(outputs.embeddings[:, 4], greens / 16, atol=0.01)
    assert outputs.crops == 10


@pytest.mark.parametrize("mode", ["auto", "shared"])
def test_both_kinds_of_crops_are_shared(model, mode):
    image = scene()[0]
    near = [Mask.from_box((44 + place, 45, 10, 10), image.shape[:2]) for place in range(AUTO_MIN_MASKS)]
    outputs = Predictor(model, mode=mode).run(image, near)
    assert outputs.shared
    assert 2 <= outputs.crops < 2 * len(near)


def test_classes_of_ones_own_are_fitted_to_both_crops(model, tmp_path):
    objects = write_two_objects(tmp_path / "coco", images=12)
    regions = regions_from_coco(objects / "annotations.json", objects / "images")
    fit_classes(regions, tmp_path / "mine.onnx", model=model)
    fitted = Predictor(tmp_path / "mine.onnx", mode="exact")
    assert fitted.info.view == VIEW
    image, masks = scene(3)
    outputs = fitted.run(image, masks, embeddings=True)
    assert outputs.embeddings.shape == (3, 6)
    assert outputs.logits.shape == (3, 2)
    others = write_two_objects(tmp_path / "others", images=10, seed=1)
    found = evaluate(fitted, regions_from_coco(others / "annotations.json", others / "images"))
    assert found.report.micro == 1.0


def test_settings_of_two_crops():
    narrow, wide = VIEW.crops
    assert (narrow.context, narrow.min_side, narrow.wide_context) == (2.0, 4, 0)
    assert (wide.context, wide.size, wide.crops) == (4.0, 40, (wide,))
    mask = Mask.from_box((45, 45, 10, 10), (100, 100))
    assert narrow.view(mask).box_xyxy == (40, 40, 60, 60)
    assert wide.view(mask).box_xyxy == (30, 30, 70, 70)
    for wrong in (
        {"kind": "whole", "wide_context": 2.0},
        {"wide_context": 0.5},
        {"wide_context": 2, "wide_min_side": 0},
    ):
        with pytest.raises(SettingsError, match="wide_context"):
            ViewSettings(**wrong)
