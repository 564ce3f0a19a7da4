"""What the commands do, as calls on arrays in memory."""

import numpy as np
import pytest

from maskwise import Predictor, RegionSet, evaluate, fit_classes
from maskwise.errors import AnnotationError, ImageError, MaskError

RED, BLUE = (220, 30, 30), (30, 30, 220)


def scenes(count):
    """Grey images with a red and a blue square in changing corners; masks and names of both."""
    images, masks, names = [], [], []
    for number in range(count):
        image = np.full((60, 90, 3), 128, dtype=np.uint8)
        red, blue = np.zeros((2, 60, 90), dtype=bool)
        left, right = slice(5, 30), slice(55, 80)
        rows = slice(10 + number % 7, 40)
        red[rows, left if number % 2 else right] = True
        blue[rows, right if number % 2 else left] = True
        image[red], image[blue] = RED, BLUE
        images.append(image)
        masks.append([red, blue])
        names.append(["red", "blue"])
    return images, masks, names


def test_a_model_is_fitted_to_arrays_and_evaluated_on_arrays(tmp_path):
    fit = fit_classes(RegionSet.from_arrays(*scenes(4)), tmp_path / "colours.onnx")
    assert fit.regions == {"red": 4, "blue": 4}
    evaluation = evaluate(Predictor(tmp_path / "colours.onnx"), RegionSet.from_arrays(*scenes(3)))
    assert (evaluation.report.regions, evaluation.report.images, evaluation.report.micro) == (6, 3, 1.0)
    assert [row[:3] for row in evaluation.predictions[:3]] == [[0, 0, "red"], [0, 1, "blue"], [1, 0, "red"]]


def test_refuses_arrays_that_do_not_belong_together():
    images, masks, names = scenes(2)
    with pytest.raises(AnnotationError, match="2 images, masks of 1 and names of 2"):
        RegionSet.from_arrays(images, masks[:1], names)
    with pytest.raises(AnnotationError, match="image 1 has 2 masks and 1 names"):
        RegionSet.from_arrays(images, masks, [["a", "b"], ["a"]])
    with pytest.raises(MaskError, match="image 1, mask 0: the mask is 9 x 7 pixels, the image 90 x 60"):
        RegionSet.from_arrays(images, [masks[0], [np.ones((7, 9), dtype=bool), masks[1][1]]], names)
    with pytest.raises(ImageError, match=r"the image has shape \(60, 90\)"):
        RegionSet.from_arrays([image[..., 0] for image in images], masks, names)


def test_a_predictor_survives_pickle_and_copy():
    import copy
    import pickle

    predictor = Predictor(mode="exact", threads=1)
    (image,), (masks,), _ = scenes(1)
    expected = predictor.probabilities(image, masks)
    for again in (pickle.loads(pickle.dumps(predictor)), copy.copy(predictor), copy.deepcopy(predictor)):
        assert again.mode == "exact"
        np.testing.assert_array_equal(again.probabilities(image, masks), expected)
