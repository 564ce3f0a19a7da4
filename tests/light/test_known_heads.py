"""The head that says "none of these", and models of one's own classes that have it. Numbers are worked out by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise import Predictor, RegionSet, find_nothing, fit_classes
from maskwise.cli.main import run
from maskwise.data.masks import Mask
from maskwise.errors import AnnotationError
from maskwise.tasks import known_heads
from maskwise.tasks.known_heads import choose_known, fit_known

RED, BLUE, GREY, DARK = (230, 20, 20), (20, 20, 230), (120, 120, 120), (30, 30, 30)


def squares(count, colours, rng):
    """Images with a square of each colour, in places of their own; masks."""
    images, masks = [], []
    for _ in range(count):
        image, of_image = np.full((60, 160, 3), 200, dtype=np.uint8), []
        for place, colour in enumerate(colours):
            mask = np.zeros(image.shape[:2], dtype=bool)
            top = int(rng.integers(2, 20))
            mask[top : top + 30, 50 * place + 5 : 50 * place + 40] = True
            image[mask] = np.clip(np.array(colour) + rng.integers(-20, 21, 3), 0, 255)
            of_image.append(mask)
        images.append(image)
        masks.append(of_image)
    return images, masks


def test_both_sides_weigh_the_same(rng):
    """One feature: with equal weights the logit is 0 midway, though one side has ten times as many."""
    weight, bias = fit_known(np.full((100, 1), 3.0), np.full((10, 1), 1.0), 10.0)
    assert weight[0] > 0
    assert -bias / weight[0] == pytest.approx(2.0, abs=0.01)


def test_sides_that_lie_apart_are_told_apart():
    objects, nothing = np.arange(1.0, 21)[:, None], -np.arange(1.0, 11)[:, None]
    head = choose_known(objects, np.arange(20), nothing, 20 + np.arange(10))
    assert (head.auroc, head.named_at_95, head.objects, head.nothing) == (1.0, 0.0, 20, 10)


def test_a_head_is_judged_on_images_that_it_has_not_seen(rng):
    """Every image has features of its own and a side of its own: known images tell all, others nothing."""
    images = np.repeat(np.arange(40), 10)
    features = rng.normal(size=(40, 200))[images] + 0.01 * rng.normal(size=(400, 200))
    objects, nothing = images < 20, images >= 20
    head = choose_known(features[objects], images[objects], features[nothing], images[nothing])
    assert 0.2 < head.auroc < 0.8
    assert ((features @ head.weight + head.bias > 0) == objects).mean() > 0.95


def test_one_image_is_too_few():
    with pytest.raises(AnnotationError, match="the segments of nothing are in fewer than two images"):
        choose_known(np.eye(4), np.arange(4), np.eye(4), np.zeros(4, dtype=int))
    with pytest.raises(AnnotationError, match="the objects are in fewer than two images"):
        choose_known(np.eye(4), np.zeros(4, dtype=int), np.eye(4), np.arange(4))


def test_the_best_strength_is_chosen_and_the_limit_keeps_97_percent(monkeypatch, rng):
    """Logits of 101 objects are 0 to 100: 97 % reach 3. Of two segments of nothing, one lies between 0 and 1."""
    asked = []

    def unseen(objects, _a, nothing, _b, strength):
        asked.append(strength)
        return np.arange(101.0), np.array([-1.0, 0.5 if strength == 0.1 else 50.5])

    monkeypatch.setattr(known_heads, "_known_unseen", unseen)
    head = choose_known(rng.normal(size=(8, 3)), np.arange(8), rng.normal(size=(8, 3)), np.arange(8))
    assert asked == [0.001, 0.01, 0.1, 1.0]
    assert head.strength == 0.1
    assert head.auroc == pytest.approx((101 + 100) / 202)
    assert head.named_at_95 == 0
    assert head.min_known == pytest.approx(1 / (1 + np.exp(-3.0)), abs=1e-4)


@pytest.mark.parametrize("crops", [1, 2])
def test_a_model_of_ones_own_classes_says_none_of_these(tmp_path, rng, crops):
    from maskwise.views.view import ViewSettings

    wide = {} if crops == 1 else {"wide_weight": np.eye(3), "view": ViewSettings(size=64, wide_context=2.0)}
    base = colour_model(tmp_path, **wide)
    names = [["red", "blue"]] * 12
    images, masks = squares(12, (RED, BLUE), rng)
    grey_images, grey_masks = squares(12, (GREY, DARK), rng)
    fit = fit_classes(
        RegionSet.from_arrays(images, masks, names),
        tmp_path / "mine.onnx",
        nothing=RegionSet.from_arrays(grey_images, grey_masks, [["nothing"] * 2] * 12),
        model=base,
    )
    assert fit.known is not None
    assert (fit.known.objects, fit.known.nothing) == (24, 24)
    predictor = Predictor(tmp_path / "mine.onnx")
    assert predictor.info.min_known == fit.known.min_known
    image, own = squares(1, (RED, GREY, BLUE), np.random.default_rng(5))
    predictions = predictor.predict(image[0], own[0])
    assert [one.is_none for one in predictions] == [False, True, False]
    assert [predictions[0].name, predictions[2].name] == ["red", "blue"]
    assert predictions[1].known < 0.5 < min(predictions[0].known, predictions[2].known)
    outputs = predictor.run(image[0], own[0], embeddings=True)
    logits = outputs.embeddings @ fit.known.weight + fit.known.bias
    np.testing.assert_allclose(predictor.predict(image[0], own[0])[1].known, 1 / (1 + np.exp(-logits[1])), atol=1e-3)


def test_without_segments_of_nothing_it_names_everything(tmp_path, rng):
    images, masks = squares(4, (RED, BLUE), rng)
    fit = fit_classes(
        RegionSet.from_arrays(images, masks, [["red", "blue"]] * 4),
        tmp_path / "mine.onnx",
        model=colour_model(tmp_path),
    )
    assert fit.known is None
    assert Predictor(tmp_path / "mine.onnx").info.min_known is None


def write_coco(folder, rng, names, colours, count=6):
    images, masks = squares(count, colours, rng)
    (folder / "photos").mkdir(parents=True)
    annotations = []
    for number, (image, of_image) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray(image).save(folder / f"photos/{number}.png")
        for place, mask in enumerate(of_image):
            box = [int(value) for value in Mask.from_array(mask).box_xywh]
            record = {"id": len(annotations) + 1, "image_id": number, "category_id": place + 1, "bbox": box}
            annotations.append({**record, "segmentation": Mask.from_array(mask).to_rle(), "area": int(mask.sum())})
    coco = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 160, "height": 60} for n in range(count)],
        "annotations": annotations,
        "categories": [{"id": place + 1, "name": name} for place, name in enumerate(names)],
    }
    (folder / "labels.json").write_text(json.dumps(coco))
    return folder


def test_the_command_learns_it_from_a_class_and_from_a_file(tmp_path, rng, capsys):
    base, folder = colour_model(tmp_path), write_coco(tmp_path / "a", rng, ["red", "stuff", "blue"], (RED, GREY, BLUE))
    flags = ["fit", str(folder / "photos"), str(folder / "labels.json"), "--model", str(base)]
    assert run([*flags, "--nothing-class", "stuff", "-o", str(tmp_path / "one.onnx")]) == 0
    assert '"none of these" from 6 regions of nothing: 0.0 % of them are named' in capsys.readouterr().out
    assert Predictor(tmp_path / "one.onnx").classes == ("red", "blue")
    coco = json.loads((folder / "labels.json").read_text())
    nothing = {**coco, "annotations": [one for one in coco["annotations"] if one["category_id"] == 2]}
    (folder / "nothing.json").write_text(json.dumps(nothing))
    more = ["--ignore", "stuff", "--nothing", str(folder / "nothing.json"), "-o", str(tmp_path / "two.onnx")]
    assert run([*flags, *more]) == 0
    one, two = Predictor(tmp_path / "one.onnx"), Predictor(tmp_path / "two.onnx")
    assert one.info.min_known == two.info.min_known
    assert run([*flags, "--nothing-class", "no such", "-o", str(tmp_path / "three.onnx")]) == 1
    assert "class 'no such': the classes here are red, stuff, blue" in capsys.readouterr().err


def test_segments_that_touch_no_labelled_region_are_found(rng):
    images, masks = squares(1, (RED, BLUE), rng)
    found = find_nothing(RegionSet.from_arrays(images, [masks[0][:1]], [["red"]]))
    assert len(found.regions) >= 1
    overlaps = [(region.read_mask().to_array() & masks[0][1]).sum() / masks[0][1].sum() for region in found.regions]
    assert max(overlaps) > 0.9
    assert all(
        (region.read_mask().to_array() & masks[0][0]).sum() < 0.02 * masks[0][0].sum() for region in found.regions
    )
