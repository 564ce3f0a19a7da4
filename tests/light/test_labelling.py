import json

import pytest
from PIL import Image

from colour_model import colour_model
from interrupting import interrupt_at_seventh_image
from maskwise import Predictor
from maskwise.errors import AnnotationError, InputError, MaskError
from maskwise.tasks.journal import Journal
from maskwise.tasks.labelling import label_coco


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return colour_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def segments(coco_folder):
    """The tiny data set's file without categories, with fields of other tools."""
    content = json.loads((coco_folder / "annotations.json").read_text())
    del content["categories"]
    content["made_by"] = {"tool": "segmenter", "version": 1.25}
    for index, annotation in enumerate(content["annotations"]):
        del annotation["category_id"]
        annotation["stability_score"] = 0.1 * index
        annotation["note"] = "größer"
    content["annotations"].reverse()
    path = coco_folder / "segments.json"
    path.write_text(json.dumps(content))
    return path


def run(segments, model, output, top=2, **more):
    return label_coco(segments, segments.parent / "images", output, Predictor(model), top=top, **more).named_now


def test_refuses_to_write_over_its_own_input(segments, model):
    before = segments.read_bytes()
    with pytest.raises(InputError, match="is the input itself"):
        run(segments, model, segments)
    assert segments.read_bytes() == before


def test_every_annotation_is_named_and_nothing_else_changes(segments, model, tmp_path):
    before = json.loads(segments.read_text())
    named = run(segments, model, tmp_path / "out.json")
    after = json.loads((tmp_path / "out.json").read_text())
    assert named == len(before["annotations"])
    known = {category["id"] for category in after.pop("categories")}
    for old, new in zip(before["annotations"], after["annotations"], strict=True):
        assert new.pop("category_id") in known
        assert 0 < new.pop("score") <= 1
        assert len(new.pop("top_category_ids")) == len(new.pop("top_scores")) == 2
        assert list(new.items()) == list(old.items())
    del before["annotations"], after["annotations"]
    assert after == before


def test_classes_keep_the_ids_that_the_file_gives_them(segments, model, tmp_path):
    content = json.loads(segments.read_text())
    content["categories"] = [{"id": 7, "name": "cup", "supercategory": "kitchen"}, {"id": 18, "name": "zebra"}]
    segments.write_text(json.dumps(content))
    run(segments, model, tmp_path / "out.json")
    categories = json.loads((tmp_path / "out.json").read_text())["categories"]
    assert categories[:2] == content["categories"]
    assert [c["name"] for c in categories] == ["cup", "zebra", "person", "dog"]
    assert len({c["id"] for c in categories}) == 4


def test_killed_run_goes_on_where_it_was(segments, model, tmp_path, monkeypatch):
    run(segments, model, tmp_path / "whole.json")
    interrupt_at_seventh_image(monkeypatch, lambda: run(segments, model, tmp_path / "out.json"))
    assert not (tmp_path / "out.json").exists()
    with open(tmp_path / "out.json.partial", "a") as file:
        file.write('{"image_id": 3, "cla')  # A line cut by the kill.
    images = len(json.loads(segments.read_text())["images"])
    named = run(segments, model, tmp_path / "out.json")
    assert 0 < named < len(json.loads(segments.read_text())["annotations"])
    assert images > 2
    assert (tmp_path / "out.json").read_text() == (tmp_path / "whole.json").read_text()
    assert not (tmp_path / "out.json.partial").exists()


def test_somebodys_notes_are_not_a_journal(segments, model, tmp_path):
    (tmp_path / "out.json.partial").write_text("my notes\nline two\n")
    with pytest.raises(AnnotationError, match="is not a journal of this version of Maskwise; move it away"):
        run(segments, model, tmp_path / "out.json")
    assert (tmp_path / "out.json.partial").read_text() == "my notes\nline two\n"


def interrupt(segments, model, output, monkeypatch, **more):
    """Run until the seventh of eight images is read."""
    interrupt_at_seventh_image(monkeypatch, lambda: run(segments, model, output, **more))
    return len(output.with_name(output.name + ".partial").read_text().splitlines()) - 1


def test_finished_images_survive_a_mended_record_and_nothing_else(segments, model, tmp_path, monkeypatch):
    """Two annotations per image; the mended one belongs to an image that is done."""
    output = tmp_path / "out.json"
    done = interrupt(segments, model, output, monkeypatch)
    assert 0 < done < 8
    first = json.loads((tmp_path / "out.json.partial").read_text().splitlines()[1])
    content = json.loads(segments.read_text())
    of_first = content["annotations"][0]
    assert len(first["classes"]) == 2
    of_first["segmentation"] = None  # Its box is the region now: the same pixels, another outline.
    segments.write_text(json.dumps(content))
    assert run(segments, model, output) == 16 - 2 * (done - 1)


@pytest.mark.parametrize("changed", ["model", "mode", "top"])
def test_results_of_another_model_mode_or_top_do_not_count(segments, model, tmp_path, monkeypatch, changed):
    output = tmp_path / "out.json"
    interrupt(segments, model, output, monkeypatch)
    other = colour_model(tmp_path, seed=1) if changed == "model" else model
    predictor = Predictor(other, mode="auto" if changed == "mode" else "exact")
    top = 1 if changed == "top" else 2
    assert label_coco(segments, segments.parent / "images", output, predictor, top=top).named_now == 16
    (tmp_path / "again").mkdir()
    label_coco(segments, segments.parent / "images", tmp_path / "again" / "out.json", predictor, top=top)
    assert output.read_text() == (tmp_path / "again" / "out.json").read_text()


def test_a_second_run_on_one_output_is_refused(segments, model, tmp_path):
    with Journal(tmp_path / "out.json.partial"), pytest.raises(InputError, match="another run is writing this output"):
        run(segments, model, tmp_path / "out.json")


def test_refuses_an_image_id_without_a_file(segments, model, tmp_path):
    content = json.loads(segments.read_text())
    content["images"][0]["file_name"] = "gone.jpg"
    segments.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"image id .* is gone\.jpg, which is not in the folder"):
        run(segments, model, tmp_path / "out.json", on_error="stop")


def test_names_the_annotation_whose_mask_is_empty(segments, model, tmp_path):
    content = json.loads(segments.read_text())
    image = content["images"][0]
    annotation = next(a for a in content["annotations"] if a["image_id"] == image["id"])
    size = [image["height"], image["width"]]
    annotation["segmentation"] = {"size": size, "counts": [size[0] * size[1]]}
    segments.write_text(json.dumps(content))
    with pytest.raises(MaskError, match=f"annotation id {annotation['id']}: the mask is empty"):
        run(segments, model, tmp_path / "out.json", on_error="stop")
    assert not (tmp_path / "out.json").exists()


def test_nothing_is_left_of_a_run_that_named_no_image(segments, model, tmp_path):
    """A file that failed at its first image may be mended and run again."""
    good = segments.read_text()
    content = json.loads(good)
    for annotation in content["annotations"]:
        del annotation["segmentation"], annotation["bbox"]
    segments.write_text(json.dumps(content))
    with pytest.raises(MaskError, match="neither 'segmentation' nor 'bbox'"):
        run(segments, model, tmp_path / "out.json", on_error="stop")
    assert not list(tmp_path.glob("out.json*"))
    segments.write_text(good)
    assert run(segments, model, tmp_path / "out.json") == len(content["annotations"])


def test_places_and_numbers_are_checked_first(segments, model, tmp_path):
    with pytest.raises(InputError, match="is a folder; give the name of a file"):
        run(segments, model, tmp_path)
    with pytest.raises(InputError, match="top is 0"):
        run(segments, model, tmp_path / "out.json", top=0)
    segments = segments.rename(segments.with_name("moved.json"))
    (segments.parent / "images").rename(segments.parent / "photos")
    with pytest.raises(AnnotationError, match="images: there is no such folder"):
        run(segments, model, tmp_path / "out.json")
    assert not list(tmp_path.glob("*.partial"))


def test_image_of_another_size_than_the_file_states_is_refused(segments, model, tmp_path):
    """Else the names would be of other places of a resized photograph."""
    content = json.loads(segments.read_text())
    for image in content["images"]:
        image["width"] *= 2
    segments.write_text(json.dumps(content))
    with pytest.raises(MaskError, match=r"is of an image of 96 x 48 pixels by the file, but the image has 48 x 48"):
        run(segments, model, tmp_path / "out.json", on_error="stop")


def test_what_is_neither_annotation_nor_category_is_copied_as_it_stands(segments, model, tmp_path):
    content = segments.read_text()
    segments.write_text(content.replace('"version": 1.25', '"version" :\n 1.250E0, "by": "gr\\u00f6\\u00dfer"'))
    run(segments, model, tmp_path / "out.json")
    assert '"version" :\n 1.250E0, "by": "gr\\u00f6\\u00dfer"' in (tmp_path / "out.json").read_text()


def test_file_without_annotations_gains_only_categories(segments, model, tmp_path):
    segments.write_text('{"images": [], "annotations": []}')
    assert run(segments, model, tmp_path / "out.json") == 0
    after = json.loads((tmp_path / "out.json").read_text())
    assert (after["images"], after["annotations"]) == ([], [])
    assert [c["name"] for c in after["categories"]] == ["person", "dog", "cup"]


def test_faulty_records_stay_unnamed_and_are_listed(segments, model, tmp_path):
    """A missing image, a damaged one, an orphan, an empty mask, a record without an image: nine of sixteen remain."""
    content = json.loads(segments.read_text())
    images = {image["id"]: image for image in content["images"]}
    images[0]["file_name"] = "gone.jpg"
    (segments.parent / "images" / images[1]["file_name"]).write_bytes(b"no image")
    by_image = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    by_image[2][0]["image_id"] = 77
    by_image[3][1].update(segmentation=[], bbox=None)
    del by_image[4][0]["image_id"]
    segments.write_text(json.dumps(content))
    done = label_coco(segments, segments.parent / "images", tmp_path / "out.json", Predictor(model))
    assert (done.annotations, done.named, done.named_now) == (16, 9, 9)
    listed = json.loads((tmp_path / "out.json.problems.json").read_text())["problems"]
    texts = " ".join(problem["message"] for problem in listed)
    assert len(listed) == len(done.problems) == 7
    for text in ("gone.jpg, which is not in", "is not an image", "image id 77", "neither", "has no 'image_id'"):
        assert text in texts
    after = json.loads((tmp_path / "out.json").read_text())["annotations"]
    named = [annotation for annotation in after if "score" in annotation]
    assert len(named) == 9
    assert [a["id"] for a in after] == [a["id"] for a in content["annotations"]]
    assert not (tmp_path / "out.json.partial").exists()


def test_what_is_missing_is_filled_in_and_what_is_there_stays(segments, model, tmp_path):
    content = json.loads(segments.read_text())
    for image in content["images"]:
        del image["width"], image["height"]
    for annotation in content["annotations"][1:]:
        del annotation["area"], annotation["iscrowd"], annotation["bbox"]
    content["annotations"][0].update(area=12.5, iscrowd=1, bbox=[1, 2, 3, 4])
    segments.write_text(json.dumps(content))
    run(segments, model, tmp_path / "out.json")
    after = json.loads((tmp_path / "out.json").read_text())
    assert all((image["width"], image["height"]) == (48, 48) for image in after["images"])
    first, second = after["annotations"][:2]
    assert (first["area"], first["iscrowd"], first["bbox"]) == (12.5, 1, [1, 2, 3, 4])
    assert (second["area"], second["iscrowd"], second["bbox"][2:]) == (256, 0, [16, 16])


def test_values_of_other_tools_are_copied_byte_for_byte(segments, model, tmp_path):
    text = segments.read_text().replace('"note"', '"big": 1e999, "long": 123456789012345678901234567890, "note"', 1)
    segments.write_text(text)
    run(segments, model, tmp_path / "out.json")
    assert '"big": 1e999, "long": 123456789012345678901234567890' in (tmp_path / "out.json").read_text()


@pytest.mark.parametrize("interrupted", [False, True])
def test_copies_of_an_image_are_all_named(model, tmp_path, monkeypatch, interrupted):
    """Two files of the same bytes with the same outlines, and one of them once more under another id."""
    images, annotations = [], []
    for number, name in enumerate(("a.png", "b.png", "a.png")):
        Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / name)
        images.append({"id": number, "file_name": name})
        for box in ([5, 5, 20, 20], [500, 500, 3, 3]):  # The second one is faulty.
            annotations.append({"id": len(annotations), "image_id": number, "bbox": box})
    segments = tmp_path / "s.json"
    segments.write_text(json.dumps({"images": images, "annotations": annotations}))
    if interrupted:
        with monkeypatch.context() as patch:
            patch.setattr("maskwise.tasks.labelling.write_named_coco", None)
            with pytest.raises(TypeError):
                label_coco(segments, tmp_path, tmp_path / "o.json", Predictor(model))
    done = label_coco(segments, tmp_path, tmp_path / "o.json", Predictor(model))
    assert (done.named, done.named_now) == (3, 0 if interrupted else 3)
    content = json.loads((tmp_path / "o.json").read_text())
    assert ["category_id" in annotation for annotation in content["annotations"]] == [True, False] * 3
    problems = json.loads((tmp_path / "o.json.problems.json").read_text())["problems"]
    assert [(problem["image_id"], problem["annotation_id"]) for problem in problems] == [(0, 1), (1, 3), (2, 5)]
