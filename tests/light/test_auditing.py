"""Labels that look wrong: found, ranked, shown and corrected; with a model whose answers are known."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise import Mask, Predictor, RegionSet, apply_corrections, audit
from maskwise.cli.main import run
from maskwise.errors import AnnotationError
from maskwise.model.segmenter import Segment, Segmenter
from maskwise.tasks.corrections import Corrected, Correction

RED, GREEN, BLUE, MIXED = (255, 0, 0), (0, 255, 0), (0, 0, 255), (140, 115, 0)


def scene(colours):
    """Squares of 40 pixels side by side, and their masks."""
    image, masks = np.zeros((60, 50 * len(colours), 3), dtype=np.uint8), []
    for place, colour in enumerate(colours):
        mask = np.zeros(image.shape[:2], dtype=bool)
        mask[10:50, 50 * place + 5 : 50 * place + 45] = True
        image[mask] = colour
        masks.append(mask)
    return image, masks


def test_wrong_names_come_by_how_much_more_another_one_fits(tmp_path):
    """Red is a person, green a dog, blue a cup. Mixed is a person with 87.7 %: logits 40 x (140, 115) / 255, halved."""
    image, masks = scene((RED, GREEN, MIXED, BLUE))
    regions = RegionSet.from_arrays([image], [masks], [["person", "cup", "dog", "cup"]])
    result = audit(regions, Predictor(colour_model(tmp_path)))
    assert result.how == "model"
    assert [(one.annotation_id, one.given, one.suggested) for one in result.suspicions] == [
        (1, "cup", "dog"),
        (2, "dog", "person"),
    ]
    assert [region.region_id for region in result.outlines] == [1, 2]
    assert result.suspicions[0].score == pytest.approx(1.0, abs=1e-3)
    assert result.suspicions[1].probability == pytest.approx(0.877, abs=2e-3)
    assert result.suspicions[1].given_probability == pytest.approx(0.123, abs=2e-3)
    assert result.suspicions[1].score == pytest.approx(1 - 0.123, abs=2e-3)


def test_what_looks_like_none_of_the_classes_is_said_so(tmp_path):
    """Known by its red alone: blue has a logit of -4."""
    image, masks = scene((RED, BLUE))
    regions = RegionSet.from_arrays([image], [masks], [["dog", "cup"]])
    result = audit(regions, Predictor(colour_model(tmp_path, known=(8.0, 0.0, 0.0, -4.0))))
    known = 1 / (1 + np.exp(-4.0))
    nothing = known * 0.01 / (known * 0.01 + (1 - known) * 0.99)  # One label in a hundred stands on nothing.
    assert {(one.kind, one.given) for one in result.suspicions} == {("name", "dog"), ("none", "cup")}
    by_kind = {one.kind: one for one in result.suspicions}
    assert by_kind["none"].score == pytest.approx(nothing, abs=1e-2)
    assert by_kind["none"].suggested is None
    assert by_kind["name"].score == pytest.approx(1, abs=1e-3)


def test_regions_outlined_twice_and_tiny_ones_are_listed(tmp_path):
    image, masks = scene((RED, RED, RED))
    again, moved, tiny = masks[0].copy(), np.roll(masks[1], 4, axis=1), np.zeros_like(masks[0])
    again[10, 5:25] = False  # 20 of 1,600 pixels: IoU 0.9875.
    tiny[30, 140:144] = True
    regions = RegionSet.from_arrays([image], [[*masks, again, moved, tiny]], [["person"] * 6])
    found = audit(regions, Predictor(colour_model(tmp_path))).suspicions
    # `moved` shares 36 of 40 columns: 36 / 44, below 0.9.
    assert {(one.kind, one.annotation_id, one.other_id) for one in found} == {("duplicate", 3, 0), ("tiny", 5, None)}
    by_kind = {one.kind: one.score for one in found}
    assert by_kind["duplicate"] == pytest.approx(0.9875)
    assert by_kind["tiny"] == pytest.approx(1 - 4 / 16)


def test_classes_of_ones_own_are_judged_by_heads_of_other_images(tmp_path):
    """Ten images of a warm and a cold square; one label is swapped. The model knows neither name."""
    images, masks, names = [], [], []
    for number in range(10):
        image, of_image = scene((RED, BLUE) if number % 2 else (BLUE, RED))
        images.append(image)
        masks.append(of_image)
        names.append(["warm", "cold"] if number % 2 else ["cold", "warm"])
    names[4][0] = "warm"
    result = audit(RegionSet.from_arrays(images, masks, names), Predictor(colour_model(tmp_path)))
    assert result.how == "cross-validated"
    first = result.suspicions[0]
    assert (first.image_id, first.annotation_id, first.given, first.suggested) == (4, 0, "warm", "cold")
    assert first.probability > 0.8
    assert len(result.suspicions) == 1


class Outlines(Segmenter):
    """A segmenter that finds given outlines, with the same score."""

    def __init__(self, *masks):
        self.segments = [Segment(Mask.from_array(mask), 0.98, 0.98) for mask in masks]

    def segment(self, image, **_):
        return self.segments


def test_things_without_a_label_are_found(tmp_path):
    """Of five squares the first two are labelled; the fourth is a class that the labels do not have."""
    image, masks = scene((RED, GREEN, GREEN, BLUE, RED))
    regions = RegionSet.from_arrays([image], [masks[:2]], [["person", "dog"]])
    half_covered = masks[1] | np.roll(masks[1], 26, axis=1)
    little_covered = masks[4] | (masks[0] & (np.arange(image.shape[1]) < 14))  # 9 of 49 columns: 18 %.
    segmenter = Outlines(masks[0], half_covered, masks[2], masks[3], little_covered)
    result = audit(regions, Predictor(colour_model(tmp_path)), segmenter=segmenter)
    found = {one.suggested: one for one in result.suspicions}
    assert set(found) == {"dog", "person"}
    assert all((one.kind, one.annotation_id, one.given) == ("unlabelled", None, None) for one in found.values())
    assert Mask.from_rle(found["dog"].segmentation).area == 1600
    assert found["dog"].score == pytest.approx(0.98, abs=1e-3)
    outlines = [region.read_mask().area for region in result.outlines]
    assert sorted(outlines) == [1600, 1600 + 9 * 40]
    assert len(result.regions) == 2


def test_the_model_must_know_the_names_to_find_what_has_no_label(tmp_path):
    image, masks = scene((RED, BLUE))
    regions = RegionSet.from_arrays([image] * 6, [masks] * 6, [["warm", "cold"]] * 6)
    with pytest.raises(AnnotationError, match="maskwise fit"):
        audit(regions, Predictor(colour_model(tmp_path)), segmenter=Outlines(masks[0]))


@pytest.fixture
def coco(tmp_path):
    image, masks = scene((RED, GREEN, BLUE))
    (tmp_path / "photos").mkdir()
    Image.fromarray(image).save(tmp_path / "photos/<i>.png")
    annotations = [
        {"id": 10 + place, "image_id": 1, "category_id": 7, "bbox": [int(v) for v in Mask.from_array(mask).box_xywh],
         "segmentation": Mask.from_array(mask).to_rle(), "area": 1600, "note": place}
        for place, mask in enumerate(masks)
    ]  # fmt: skip
    images = [{"id": 1, "file_name": "<i>.png", "width": 150, "height": 60}]
    content = {"info": {"year": 2020}, "images": images, "annotations": annotations}
    content["categories"] = [{"id": 7, "name": "person"}, {"id": 9, "name": "dog"}]
    (tmp_path / "labels.json").write_text(json.dumps(content))
    return tmp_path


def test_the_command_writes_a_folder_and_applies_corrections(coco, capsys):
    model = colour_model(coco)
    flags = [str(coco / "photos"), str(coco / "labels.json")]
    assert run(["audit", *flags, "-o", str(coco / "audit"), "--model", str(model)]) == 0
    assert "3 regions, 2 suspicions (judge: model)" in capsys.readouterr().out
    record = json.loads((coco / "audit/audit.json").read_text())
    assert [(one["annotation_id"], one["suggested"]) for one in record["suspicions"]] == [(11, "dog"), (12, "cup")]
    lines = (coco / "audit/audit.csv").read_text().splitlines()
    assert lines[0].startswith("kind,score,annotation_id,image_id,file_name,given,suggested")
    assert lines[1].startswith("name,1.0,11,1,<i>.png,person,dog")
    page = (coco / "audit/audit.html").read_text()
    assert "<i>" not in page.replace("<i class", "")
    proposed = re.findall(r'data-proposed="(.*?)"', page)
    corrections = [json.loads(one.replace("&quot;", '"')) for one in proposed]
    assert corrections == [{"annotation_id": 11, "name": "dog"}, {"annotation_id": 12, "name": "cup"}]
    corrections.append({"annotation_id": 10, "name": None})
    (coco / "corrections.json").write_text(json.dumps(corrections))
    assert run(["audit", *flags, "--apply", str(coco / "corrections.json"), "-o", str(coco / "fixed.json")]) == 0
    before, after = (json.loads((coco / name).read_text()) for name in ("labels.json", "fixed.json"))
    assert [one["id"] for one in after["annotations"]] == [11, 12]
    assert [one["category_id"] for one in after["annotations"]] == [9, 10]
    assert after["categories"] == [*before["categories"], {"id": 10, "name": "cup"}]
    assert [one["note"] for one in after["annotations"]] == [1, 2]
    assert (after["info"], after["images"]) == (before["info"], before["images"])


def test_what_has_no_label_becomes_an_annotation(coco):
    new = np.zeros((60, 150), dtype=bool)
    new[2:7, 100:103] = True
    corrections = [
        Correction(name="cup", image_id=1, segmentation=Mask.from_array(new).to_rle()),
        Correction(name="dog", annotation_id=12),
    ]
    done = apply_corrections(coco / "labels.json", corrections, coco / "fixed.json")
    assert done == Corrected(renamed=1, removed=0, added=1)
    after = json.loads((coco / "fixed.json").read_text())
    added = after["annotations"][-1]
    assert (added["id"], added["image_id"], added["category_id"], added["area"]) == (13, 1, 10, 15)
    assert added["bbox"] == [100, 2, 3, 5]
    assert np.array_equal(Mask.from_rle(added["segmentation"]).to_array(), new)
    assert after["categories"][-1] == {"id": 10, "name": "cup"}
    corrections = [Correction(name="cup", image_id=2, segmentation=Mask.from_array(new).to_rle())]
    with pytest.raises(AnnotationError, match="has no image 2"):
        apply_corrections(coco / "labels.json", corrections, coco / "fixed.json")


def test_corrections_of_another_file_are_refused(coco, capsys):
    with pytest.raises(AnnotationError, match="has no annotation 99"):
        apply_corrections(coco / "labels.json", [Correction(annotation_id=99, name="dog")], coco / "fixed.json")
    half = '[{"image_id": 1, "name": "dog"}]'  # Neither of an annotation nor a new one.
    (coco / "corrections.json").write_text(half)
    flags = ["--apply", str(coco / "corrections.json"), "-o", str(coco / "fixed.json")]
    assert run(["audit", str(coco / "photos"), str(coco / "labels.json"), *flags]) == 1
    assert "is not what the page of an audit saves" in capsys.readouterr().err
    assert not (coco / "fixed.json").exists()


def test_the_page_shows_only_so_many(coco):
    flags = [str(coco / "photos"), str(coco / "labels.json"), "--model", str(colour_model(coco)), "--limit", "1"]
    assert run(["audit", *flags, "-o", str(coco / "audit")]) == 0
    assert (coco / "audit/audit.html").read_text().count("<li ") == 1
