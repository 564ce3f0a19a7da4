import gc
import json
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from maskwise.data import coco_index
from maskwise.data.coco_file import read_coco
from maskwise.data.coco_index import id_column, value_of
from maskwise.data.coco_regions import regions_from_coco
from maskwise.data.segment_files import read_segments
from maskwise.errors import AnnotationError, InputError


def content_of(folder):
    return json.loads((folder / "annotations.json").read_text())


def write(folder, content, **layout):
    path = folder / "other.json"
    path.write_text(json.dumps(content, **layout))
    return path


def described(found):
    return [(r.image_path.name, r.image_id, r.region_id, r.name, r.area, r.crowd) for r in found.regions]


# The law: the same as pycocotools and the plain JSON.


def test_regions_are_those_of_pycocotools_in_the_order_of_its_images(data_root, capsys):
    annotations = data_root / "coco" / "annotations" / "instances_val2017.json"
    found = regions_from_coco(annotations, data_root / "coco" / "val2017").regions
    coco = COCO(annotations)
    capsys.readouterr()  # It prints.
    expected = [annotation for image in coco.dataset["images"] for annotation in coco.imgToAnns[image["id"]]]
    assert len(found) == len(expected) == 1833
    for region, annotation in zip(found, expected, strict=True):
        assert (region.region_id, region.image_id) == (annotation["id"], annotation["image_id"])
        assert region.image_path.name == coco.imgs[region.image_id]["file_name"]
        assert region.name == coco.cats[annotation["category_id"]]["name"]
        assert (region.area, region.crowd) == (annotation["area"], bool(annotation["iscrowd"]))
    for region, annotation in list(zip(found, expected, strict=True))[::30]:
        np.testing.assert_array_equal(region.read_mask().to_array(), coco.annToMask(annotation) > 0)


def test_record_of_an_annotation_is_its_own_piece_of_the_file(data_root):
    path = data_root / "coco" / "annotations" / "instances_val2017.json"
    coco = read_coco(path, labelled=True)
    for row, annotation in enumerate(json.loads(path.read_text())["annotations"]):
        assert json.loads(coco.record(row)) == annotation


@pytest.mark.parametrize(
    "rewritten",
    [
        lambda content: json.dumps(content, indent=4).encode(),
        lambda content: b"\xef\xbb\xbf" + json.dumps(content).encode(),
        lambda content: json.dumps(content).encode("utf-16"),
        lambda content: json.dumps(dict(reversed(content.items()))).replace(": ", " :\r\n\t").encode(),
        lambda content: (
            b'{"annotations": [{"id": "an earlier list of this name"}], ' + json.dumps(content).encode()[1:]
        ),
        lambda content: json.dumps({"info": [{"annotations": ["}", '\\"']}]} | content).encode(),
    ],
)
def test_layout_of_the_json_does_not_matter(coco_folder, rewritten):
    expected = regions_from_coco(coco_folder / "annotations.json", coco_folder / "images")
    path = coco_folder / "other.json"
    path.write_bytes(rewritten(content_of(coco_folder)))
    found = regions_from_coco(path, coco_folder / "images")
    assert described(found) == described(expected)
    for one, other in zip(found.regions, expected.regions, strict=True):
        np.testing.assert_array_equal(one.read_mask().bits, other.read_mask().bits)


@pytest.mark.parametrize("id_of", [lambda n: f"é{n}", lambda n: n if n % 2 else str(n), lambda n: n + 2**63, float])
def test_ids_may_be_anything_that_json_has_for_it(coco_folder, id_of):
    content = content_of(coco_folder)
    for image in content["images"]:
        image["id"] = id_of(image["id"])
    for annotation in content["annotations"]:
        annotation |= {"id": id_of(annotation["id"]), "image_id": id_of(annotation["image_id"])}
    found = regions_from_coco(write(coco_folder, content), coco_folder / "images").regions
    assert [region.region_id for region in found] == [annotation["id"] for annotation in content["annotations"]]
    assert [region.image_id for region in found] == [annotation["image_id"] for annotation in content["annotations"]]
    assert found[3].read_mask().area == 256


def test_whole_ids_take_eight_bytes():
    assert id_column([3, 2**63 - 1]).dtype == np.int64
    assert value_of(id_column([3, 2**63]), 1) == 2**63


def test_index_keeps_no_object_of_an_annotation(data_root):
    """Dicts and lists would take kilobytes each."""
    path = data_root / "coco" / "annotations" / "instances_train2017.json"
    read_coco(path, labelled=True)  # What is made once.
    gc.collect()
    tracemalloc.start()
    coco = read_coco(path, labelled=True)
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 64 * len(coco.index.start)


# Files that are not of COCO's form.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"images": [],\n "annotations": [1}', "is not JSON .*line 2 column 19"),
        (b'{"images": [], "annotations": [', "is not JSON .*line 1 column 32"),
        (b'{"images": [], "annotations": [], "info": 1e}', "is not JSON .*invalid number"),
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"3", "is a JSON value; a COCO file is an object"),
        (b'{"images": [], "annotations": [], "categories": {}}', "has no list 'categories'"),
        (b'{"images": [], "annotations": [{"id": null, "image_id": 1}]}', r"annotations\[0\] is not of COCO's form"),
        (
            b'{"images": [{"id": 1, "file_name": 7}], "annotations": []}',
            r"images\[0\] is not of COCO's form .*file_name",
        ),
        (
            b'{"images": [{"id": 1, "file_name": "\xff"}], "annotations": []}',
            "is not UTF-8 text near byte 36",
        ),
    ],
)
def test_refuses_by_place_or_record(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(AnnotationError, match=rf"a\.json: {message}"):
        read_coco(path, labelled=False)


def test_record_far_into_the_file_is_called_by_its_own_number(coco_folder, monkeypatch):
    monkeypatch.setattr(coco_index, "CHUNK", 3)
    content = content_of(coco_folder)
    del content["annotations"][10]["id"]
    with pytest.raises(AnnotationError, match=r"annotations\[10\] has no 'id'"):
        read_coco(write(coco_folder, content), labelled=False)


def test_chunks_do_not_show(coco_folder, monkeypatch):
    expected = regions_from_coco(coco_folder / "annotations.json", coco_folder / "images")
    monkeypatch.setattr(coco_index, "CHUNK", 3)
    found = regions_from_coco(coco_folder / "annotations.json", coco_folder / "images")
    assert described(found) == described(expected)
    assert all(region.read_mask().area == 256 for region in found.regions)


def test_file_that_changes_after_it_was_opened_is_noticed(coco_folder):
    path = write(coco_folder, content_of(coco_folder))
    regions = regions_from_coco(path, coco_folder / "images").regions
    content = content_of(coco_folder)
    content["annotations"].reverse()
    write(coco_folder, content)
    with pytest.raises(AnnotationError, match="has changed since it was opened"):
        regions[0].read_mask()
    path.write_text("{}")
    with pytest.raises(AnnotationError, match="annotation id 100 cannot be read"):
        regions[0].read_mask()


def test_segments_of_a_large_file_are_not_taken_for_sams(coco_folder):
    path = write(coco_folder, {"image": "of another tool", **content_of(coco_folder)})
    assert len(read_segments(path, "000.png").index.start) == 16


# Files of images.


def test_images_may_lie_in_folders_of_folders(coco_folder):
    content = content_of(coco_folder)
    for number, image in enumerate(content["images"]):
        folder = ("images", "images/../images", "./images")[number % 3]
        image["file_name"] = f"{folder}/{image['file_name']}"
    found = regions_from_coco(write(coco_folder, content), coco_folder).regions
    assert {region.image_path.resolve() for region in found} == set((coco_folder / "images").resolve().iterdir())


def test_files_are_not_asked_for_one_by_one(coco_folder, monkeypatch):
    monkeypatch.setattr("os.path.isfile", lambda path: pytest.fail(f"asked for {path}"))
    assert len(regions_from_coco(coco_folder / "annotations.json", coco_folder / "images").regions) == 16


def test_folder_of_an_images_name_is_no_file(coco_folder):
    (coco_folder / "images" / "003.png").unlink()
    (coco_folder / "images" / "003.png").mkdir()
    with pytest.raises(AnnotationError, match=r"image id 3 is 003\.png, which is not in the folder"):
        regions_from_coco(coco_folder / "annotations.json", coco_folder / "images")


def test_two_ids_of_one_file_are_one_image(coco_folder):
    content = content_of(coco_folder)
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    found = regions_from_coco(write(coco_folder, content), coco_folder / "images").regions
    assert [len(numbers) for numbers in found.by_image()] == [4] + [2] * 6


# Kept indexes.


def read_twice(path, cache, monkeypatch):
    """Descriptions of the regions, the second time from the kept index alone."""
    first = read_coco(path, labelled=True, cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr(coco_index, "index_of", lambda *_: pytest.fail("made again"))
        second = read_coco(path, labelled=True, cache=cache)
    for column in vars(first.index):
        np.testing.assert_array_equal(getattr(first.index, column), getattr(second.index, column))
    return second


def test_kept_index_says_the_same(coco_folder, tmp_path, monkeypatch):
    path = write(coco_folder, content_of(coco_folder))
    coco = read_twice(path, tmp_path / "cache", monkeypatch)
    assert coco.mask(0, (48, 48)).area == 256
    moved = path.rename(coco_folder / "moved.json")  # It goes by what a file holds, not by its name.
    assert read_twice(moved, tmp_path / "cache", monkeypatch).path == moved
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_kept_index_is_not_taken_for_a_file_of_other_content(coco_folder, tmp_path):
    """Not even if size and time are the same."""
    path = write(coco_folder, content_of(coco_folder))
    read_coco(path, labelled=True, cache=tmp_path / "cache")
    before, text = path.stat(), path.read_text()
    path.write_text(text.replace('"id": 100,', '"id": 900,', 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert read_coco(path, labelled=True, cache=tmp_path / "cache").ids(0) == (0, 900)


@pytest.mark.parametrize("damaged", [lambda b: b"", lambda b: b"not an index", lambda b: b[: len(b) // 2]])
def test_damaged_index_is_made_anew(coco_folder, tmp_path, monkeypatch, damaged):
    path = coco_folder / "annotations.json"
    read_coco(path, labelled=True, cache=tmp_path)
    (kept,) = tmp_path.glob("*.npz")
    kept.write_bytes(damaged(kept.read_bytes()))
    read_twice(path, tmp_path, monkeypatch)


def test_labels_are_checked_in_a_kept_index_too(coco_folder, tmp_path):
    content = content_of(coco_folder)
    del content["categories"]
    path = write(coco_folder, content)
    read_coco(path, labelled=False, cache=tmp_path / "cache")
    with pytest.raises(AnnotationError, match="has no list 'categories'"):
        read_coco(path, labelled=True, cache=tmp_path / "cache")


def test_environment_may_name_the_folder_and_nothing_is_kept_elsewhere(coco_folder, tmp_path, monkeypatch):
    path = coco_folder / "annotations.json"
    before = sorted(tmp_path.rglob("*"))
    read_coco(path, labelled=True)
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setenv("MASKWISE_CACHE", str(tmp_path / "named"))
    read_coco(path, labelled=True)
    assert [file.suffix for file in (tmp_path / "named").iterdir()] == [".npz"]


def test_folder_that_cannot_be_made_is_refused(coco_folder):
    with pytest.raises(InputError, match="cannot be made a folder"):
        read_coco(coco_folder / "annotations.json", labelled=True, cache=Path(coco_folder / "images" / "000.png"))


def test_regions_may_be_sent_to_other_processes(coco_folder):
    """As a data loader's workers get them."""
    regions = regions_from_coco(coco_folder / "annotations.json", coco_folder / "images").regions
    sent = pickle.loads(pickle.dumps(regions))
    assert [region.region_id for region in sent] == [region.region_id for region in regions]
    np.testing.assert_array_equal(sent[5].read_mask().bits, regions[5].read_mask().bits)


def test_ids_that_fit_64_bits_are_numbers():
    for ids in ([127, 1000], [2**63 - 1], [-(2**63)]):
        assert id_column(ids).dtype == np.int64
    for ids in ([2**63], [-(2**63) - 1], [1, "1"]):
        assert [value_of(id_column(ids), row) for row in range(len(ids))] == ids
        assert id_column(ids).dtype.kind == "S"


def test_every_repeated_id_is_listed():
    problems = []
    coco_index._note_repeated(Path("a.json"), np.array([9, 5, 7, 9, 7, 9]), problems)
    assert [problem.annotation_id for problem in problems] == [7, 9, 9]
