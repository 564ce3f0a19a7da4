"""Whole paths through the program, with answers worked out by hand: each test fails on a fault that others let pass."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colour_model import STRENGTH, TEMPERATURE, colour_model
from maskwise import LabelledRegion, Mask, Predictor, RegionSet, evaluate, fit_classes, label_coco
from maskwise.data.mask_pixels import region_pixels_of_colours
from maskwise.data.regions import Category, Regions
from maskwise.errors import MaskError
from maskwise.model import session
from maskwise.tasks.linear_heads import choose_head
from maskwise.tasks.metrics import calibration_error, top_k_accuracy
from maskwise.views.view import ViewSettings

COLOURS = {"dog": (30, 220, 100), "person": (200, 90, 40), "cup": (60, 20, 180)}
"""By the colour model green is a dog, red a person and blue a cup."""


def probabilities_of(rgb):
    """What the colour model makes of a plain colour: person, dog, cup."""
    logits = STRENGTH * np.array(rgb) / 255 / TEMPERATURE
    return np.exp(logits) / np.exp(logits).sum()


def scene(names, side=40):
    """Squares of the colours of some classes, side by side on grey, and their masks."""
    image = np.full((60, 60 * len(names), 3), 128, dtype=np.uint8)
    masks = []
    for place, name in enumerate(names):
        mask = np.zeros(image.shape[:2], dtype=bool)
        mask[10 : 10 + side, 60 * place + 10 : 60 * place + 10 + side] = True
        image[mask] = COLOURS[name]
        masks.append(mask)
    return image, masks


@pytest.mark.parametrize("mode", ["exact", "auto"])
def test_the_network_sees_red_as_red_and_the_file_gets_the_best_class(tmp_path, mode):
    image, masks = scene(["dog", "person", "cup"])
    Image.fromarray(image).save(tmp_path / "a.png")
    boxes = [Mask.from_array(mask).box_xywh for mask in masks]
    annotations = [{"id": i, "image_id": 5, "bbox": list(box), "category_id": 99} for i, box in enumerate(boxes)]
    categories = [{"id": 7, "name": "cup"}, {"id": 18, "name": "zebra"}]
    content = {"images": [{"id": 5, "file_name": "a.png"}], "annotations": annotations, "categories": categories}
    (tmp_path / "s.json").write_text(json.dumps(content))
    predictor = Predictor(colour_model(tmp_path), mode=mode)
    label_coco(tmp_path / "s.json", tmp_path, tmp_path / "o.json", predictor, top=2)
    after = json.loads((tmp_path / "o.json").read_text())
    # cup keeps 7; person's 1 is free; dog's 18 is zebra's, so dog gets the next number after 18.
    assert after["categories"] == [*categories, {"id": 1, "name": "person"}, {"id": 19, "name": "dog"}]
    assert [a["category_id"] for a in after["annotations"]] == [19, 1, 7]
    assert [a["top_category_ids"] for a in after["annotations"]] == [[19, 7], [1, 19], [7, 1]]
    for annotation, name in zip(after["annotations"], ("dog", "person", "cup"), strict=True):
        expected = sorted(probabilities_of(COLOURS[name]), reverse=True)[:2]
        np.testing.assert_allclose(annotation["top_scores"], expected, atol=2e-6)
        assert annotation["score"] == annotation["top_scores"][0]


def test_the_predictor_gives_names_ids_and_probabilities_of_the_colours(tmp_path):
    image, masks = scene(["cup", "dog"])
    predictions = Predictor(colour_model(tmp_path)).predict(image, masks, embeddings=True)
    assert [(p.name, p.category_id) for p in predictions] == [("cup", 47), ("dog", 18)]
    np.testing.assert_allclose(predictions[0].probability, probabilities_of(COLOURS["cup"])[2], atol=1e-5)
    np.testing.assert_allclose(predictions[1].embedding, np.array(COLOURS["dog"]) / 255, atol=1e-5)


def test_ids_that_are_text_work_everywhere(tmp_path):
    from dataclasses import dataclass, field
    from typing import Any

    @dataclass
    class Detections:
        xyxy: np.ndarray
        mask: Any
        class_id: Any = None
        confidence: Any = None
        data: dict[str, Any] = field(default_factory=dict)

    image, masks = scene(["cup", "dog"])
    categories = (Category("p", "person"), Category("d", "dog"), Category("c", "cup"))
    predictor = Predictor(colour_model(tmp_path, categories=categories))
    assert [p.category_id for p in predictor.predict(image, masks)] == ["c", "d"]
    labelled = predictor.label_detections(image, Detections(np.zeros((2, 4)), np.stack(masks)))
    assert labelled.class_id.tolist() == [2, 1]
    assert labelled.data["class_name"].tolist() == ["cup", "dog"]


def test_batches_that_cross_images_name_each_image_as_alone(tmp_path):
    predictor = Predictor(colour_model(tmp_path, batch_size=4), threads=2)
    scenes = [scene(names) for names in (["dog"], ["cup", "person"], [], ["person", "dog", "cup"], ["cup"]) if names]
    scenes.insert(2, (np.zeros((9, 9, 3), dtype=np.uint8), []))
    names = [[p.name for p in of_image] for of_image in predictor.predict_many(scenes)]
    assert names == [["dog"], ["cup", "person"], [], ["person", "dog", "cup"], ["cup"]]


def test_five_of_seven_classes_count_from_the_most_probable():
    row = [0.30, 0.25, 0.20, 0.10, 0.08, 0.05, 0.02]
    assert top_k_accuracy(np.float32([row] * 4), np.array([0, 4, 5, 6])) == 0.5


def test_the_highest_bins_of_calibration_are_apart():
    """0.95 and wrong, 0.90 and right: gaps of 0.95 and 0.10, each of half the regions."""
    probabilities = np.float32([[0.95, 0.05], [0.90, 0.10]])
    np.testing.assert_allclose(calibration_error(probabilities, np.array([1, 0])), (0.95 + 0.10) / 2, atol=1e-6)


def test_cross_validation_leaves_whole_images_out():
    """Both regions of an image are the same; its class is chance: nothing can be known of another image."""
    rng = np.random.default_rng(0)
    embeddings = np.repeat(rng.normal(size=(40, 200)), 2, axis=0)
    targets = np.repeat(rng.permutation(np.arange(40) % 2), 2)
    images = np.repeat(np.arange(40), 2)
    (trial, *_) = choose_head("linear", embeddings, targets, images)
    assert trial.micro < 0.75
    (leaking, *_) = choose_head("linear", embeddings, targets, np.arange(80))
    assert leaking.micro > 0.9


def red_and_blue(images, crowd=None):
    """Region sets of a dog and a cup an image; `crowd` is a class whose regions are crowds."""
    regions = []
    for number in range(images):
        image, masks = scene(["dog", "cup", "person"] if crowd else ["dog", "cup"])
        image = (image.astype(int) + number % 3).astype(np.uint8)
        for place, (mask, name) in enumerate(zip(masks, ("dog", "cup", crowd), strict=False)):
            read = partial(Mask.from_array, mask)
            path = Path(f"image {number}")
            regions.append(LabelledRegion(path, number, place, name, None, name == crowd, read, image=image))
    names = dict.fromkeys(region.name for region in regions)
    return RegionSet(tuple(Category(i, name) for i, name in enumerate(names)), Regions.of(regions))


def test_a_fitted_model_keeps_what_its_model_says_of_crops_and_batches(tmp_path):
    base = colour_model(tmp_path, shares=True, batch_size=3, view=ViewSettings(size=48, context=1.25, min_side=16))
    fit_classes(red_and_blue(4), tmp_path / "mine.onnx", model=base)
    info = Predictor(tmp_path / "mine.onnx").info
    assert (info.shares, info.batch_size) == (True, 3)
    assert info.view == ViewSettings(size=48, context=1.25, min_side=16)


def test_nothing_is_fitted_to_crowds(tmp_path):
    fit = fit_classes(red_and_blue(4, crowd="flock"), tmp_path / "mine.onnx", model=colour_model(tmp_path))
    assert fit.regions == {"dog": 4, "cup": 4}
    assert Predictor(tmp_path / "mine.onnx").classes == ("dog", "cup")


def test_evaluation_keeps_the_order_of_regions_whose_images_alternate(tmp_path):
    (first, of_first), (second, of_second) = scene(["dog", "cup"], side=40), scene(["person", "dog"], side=20)
    plan = [
        (0, first, of_first[1], "cup"),
        (1, second, of_second[0], "person"),
        (0, first, of_first[0], "cup"),
        (1, second, of_second[1], "dog"),
    ]
    regions = [
        LabelledRegion(Path(f"{n}"), n, f"r{place}", name, None, False, partial(Mask.from_array, mask), image)
        for place, (n, image, mask, name) in enumerate(plan)
    ]
    known = RegionSet(tuple(Category(i, name) for i, name in enumerate(COLOURS)), Regions.of(regions))
    evaluation = evaluate(Predictor(colour_model(tmp_path)), known)
    rows = [(row[1], row[2], row[3], row[5]) for row in evaluation.predictions]
    assert rows == [
        ("r0", "cup", "cup", 1600),
        ("r1", "person", "person", 400),
        ("r2", "cup", "dog", 1600),
        ("r3", "dog", "dog", 400),
    ]
    report = evaluation.report
    assert report.micro == 0.75
    # Large is above 96 x 96 pixels. 400 pixels are small, 1,600 medium; Wilson's interval of 2 of 2 and of 1 of 2.
    assert (report.by_size.coco["small"].regions, report.by_size.coco["medium"].regions) == (2, 2)
    np.testing.assert_allclose(report.by_size.coco["small"].micro_ci95, (0.34238, 1.0), atol=1e-4)
    np.testing.assert_allclose(report.by_size.coco["medium"].micro_ci95, (0.09453, 0.90547), atol=1e-4)


@pytest.mark.parametrize(
    ("box", "context", "expected"),
    [
        # 1.5 times 7 is 10.5, rounded to 10 (to even); 1.5 times 9 is 13.5, rounded to 14. Then centred.
        ((50, 40, 7, 5), 1.5, (48, 37, 58, 47)),
        ((50, 40, 9, 5), 1.5, (47, 35, 61, 49)),
        ((0, 90, 11, 9), 1.25, (0, 86, 14, 100)),
    ],
)
def test_an_odd_crop_is_rounded_and_not_cut(box, context, expected):
    view = ViewSettings(size=32, context=context, min_side=1).view(Mask.from_box(box, (100, 100)))
    assert view.box_xyxy == expected


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags : sse avx2 avx512_vnni", False),
        ("x86_64", "flags : sse avx_vnni", False),
        ("x86_64", "flags : sse avx2", True),
        ("AMD64", None, True),
        ("aarch64", "Features : asimd", False),
    ],
)
def test_products_of_8_bits_are_made_exact_only_where_they_may_overflow(
    tmp_path, monkeypatch, machine, flags, expected
):
    monkeypatch.setattr(session, "CPU_FLAGS", tmp_path / "cpuinfo")
    monkeypatch.setattr(session.platform, "machine", lambda: machine)
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(flags)
    assert session.may_overflow() is expected


def test_the_two_logits_of_two_classes_differ_by_what_scikit_learn_decides():
    from sklearn.linear_model import LogisticRegression

    from maskwise.tasks.linear_heads import class_weights, fit_head

    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(30, 4))
    targets = (embeddings[:, 0] + 0.3 * rng.normal(size=30) > 0.4).astype(int)
    scale, centre = embeddings.std(), embeddings.mean(axis=0)
    scaled = (embeddings - centre) / scale
    model = LogisticRegression(C=0.5, max_iter=300).fit(scaled, targets, sample_weight=class_weights(targets))
    logits = fit_head("linear", 0.5, embeddings, targets).logits(embeddings)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], model.decision_function(scaled), atol=1e-3)
    np.testing.assert_allclose(logits.sum(axis=1), 0, atol=1e-9)


def test_a_stack_with_a_further_axis_is_refused_with_the_remedy(tmp_path):
    image, masks = scene(["cup"])
    with pytest.raises(MaskError, match=r"shape \(1, 1, 60, 60\); .* \(masks\[:, 0\]\)"):
        Predictor(colour_model(tmp_path)).predict(image, np.stack(masks)[:, None])
    with pytest.raises(
        MaskError, match=r"shape \(60, 60\); accepted is N x height x width \(for one mask: mask\[None\]"
    ):
        Predictor(colour_model(tmp_path)).predict(image, masks[0])


def test_the_message_about_colours_counts_them():
    colours = np.zeros((4, 6, 3), dtype=np.uint8)
    colours[0, 0], colours[1, 1], colours[2, 2], colours[3, 3] = (9, 0, 0), (0, 90, 0), (0, 0, 200), (0, 90, 200)
    with pytest.raises(MaskError, match="the mask has 5 colours"):
        region_pixels_of_colours(colours, None)
