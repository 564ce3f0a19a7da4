"""Masks from files of every kind, and where images lie."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from maskwise import read_coco
from maskwise.data.image_paths import find_each_image, rows_of_image
from maskwise.data.mask_files import read_instances, read_masks
from maskwise.data.segmentations import is_empty, mask_of_segmentation
from maskwise.errors import AnnotationError, MaskError

HW = (6, 9)
FIRST, SECOND = np.zeros((2, *HW), dtype=bool)
FIRST[1:3, 1:4], SECOND[2:6, 6:8] = True, True


def areas(named):
    return [mask.area for _, mask in named]


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    for number in range(11):
        Image.fromarray(FIRST if number == 10 else SECOND).save(tmp_path / f"{number}.png")
    (tmp_path / "metadata.csv").write_text("id,area\n")
    named = read_masks(tmp_path, HW)
    assert [name for name, _ in named] == [f"{number}.png" for number in range(11)]
    assert areas(named) == [8] * 10 + [6]


@pytest.mark.parametrize("shape", [(2, 1, *HW), (2, *HW)])
def test_stacks_are_read(tmp_path, shape):
    stack = np.stack([FIRST, SECOND])
    np.save(tmp_path / "m.npy", np.asfortranarray(stack.reshape(shape)))
    np.savez_compressed(tmp_path / "m.npz", masks=stack.reshape(shape).astype(np.uint8))
    assert areas(read_masks(tmp_path / "m.npy", HW)) == areas(read_masks(tmp_path / "m.npz", HW)) == [6, 8]


def test_a_stack_of_another_size_or_of_objects_is_refused_by_its_header(tmp_path):
    np.save(tmp_path / "m.npy", np.zeros((2, 5, 5), dtype=bool))
    with pytest.raises(MaskError, match=r"m\.npy: has shape \(2, 5, 5\); accepted are N x height x width"):
        read_masks(tmp_path / "m.npy", HW)
    np.save(tmp_path / "o.npy", np.full(HW, None), allow_pickle=True)
    with pytest.raises(MaskError, match=r"o\.npy: has 54 values of type object"):
        read_masks(tmp_path / "o.npy", HW)
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(MaskError, match=r"x\.npz: is not a NumPy file of masks"):
        read_masks(tmp_path / "x.npz", HW)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_id_is_a_region(tmp_path, dtype):
    top = 200 if dtype == np.uint8 else 24_002
    Image.fromarray(np.where(FIRST, 1, np.where(SECOND, top, 0)).astype(dtype)).save(tmp_path / "ids.png")
    named = read_instances(tmp_path / "ids.png", HW)
    assert [name for name, _ in named] == ["id 1", f"id {top}"]
    np.testing.assert_array_equal(named[0][1].to_array(), FIRST)
    np.testing.assert_array_equal(named[1][1].to_array(), SECOND)


def test_every_colour_is_a_region(tmp_path):
    colours = np.zeros((*HW, 3), dtype=np.uint8)
    colours[FIRST], colours[SECOND] = (220, 20, 60), (0, 0, 9)
    Image.fromarray(colours).save(tmp_path / "c.png")
    named = read_instances(tmp_path / "c.png", HW)
    assert [name for name, _ in named] == ["colour #000009", "colour #dc143c"]
    np.testing.assert_array_equal(named[1][1].to_array(), FIRST)


SQUARE = [1, 1, 5, 1, 5, 4, 1, 4]
RLE = {"size": [6, 9], "counts": [10, 2, 4, 2, 4, 2, 30]}  # Down the columns: rows 4 and 5 of columns 1 to 3.


@pytest.mark.parametrize(
    "form",
    [SQUARE, [SQUARE], [[1, 1], [5, 1], [5, 4], [1, 4]], [[[1, 1], [5, 1], [5, 4], [1, 4]]], [SQUARE, [7.0, 3.0]]],
)
def test_a_polygon_may_be_flat_nested_or_pairs(form):
    assert mask_of_segmentation(form, HW).box_xywh == (1, 1, 4, 3)


@pytest.mark.parametrize("form", [RLE, [RLE]])
def test_run_lengths_may_stand_in_a_list(form):
    assert mask_of_segmentation(form, HW).box_xywh == (1, 4, 3, 2)


@pytest.mark.parametrize("form", [FIRST, FIRST.tolist(), FIRST.astype(int).tolist()])
def test_a_picture_may_be_an_array_or_nested_lists(form):
    np.testing.assert_array_equal(mask_of_segmentation(form, HW).to_array(), FIRST)


def test_run_lengths_of_another_size_are_refused_before_they_are_read():
    with pytest.raises(MaskError, match=r"the mask is 1000000000 x 1000000000 pixels, the image 9 x 6"):
        mask_of_segmentation({"size": [10**9, 10**9], "counts": [0, 10**18]}, HW)


def test_what_says_nothing_is_empty():
    assert all(map(is_empty, (None, [], [[]], {}, [[], []])))
    assert not any(map(is_empty, ([SQUARE], RLE, "x", 0)))


def coco_of(folder, names):
    content = {"images": [{"id": i, "file_name": name} for i, name in enumerate(names)], "annotations": []}
    (folder / "c.json").write_text(json.dumps(content))
    return read_coco(folder / "c.json", labelled=False)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("a.jpg", "a.jpg"),
        ("images/a.jpg", "a.jpg"),
        ("images/1/a.jpg", "1/a.jpg"),
        ("/home/annotator/images/a.jpg", "a.jpg"),
        ("sub\\a.jpg", "sub/a.jpg"),
        ("caf%C3%A9%20b.jpg", "café b.jpg"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("a.jpg", "deep/down/a.jpg"),
        ("100%.jpg", "100%.jpg"),
    ],
)
def test_a_file_name_is_found_where_there_is_one_candidate(tmp_path, name, there):
    touch(tmp_path / "im", there, "other.jpg")
    (path,) = find_each_image(coco_of(tmp_path, [name]), tmp_path / "im", [0])
    assert path == os.path.join(tmp_path / "im", there)


def test_two_candidates_are_a_problem_and_not_a_guess(tmp_path):
    touch(tmp_path / "im", "cam1/f.jpg", "cam2/f.jpg")
    good, bad = find_each_image(coco_of(tmp_path, ["cam2/f.jpg", "f.jpg"]), tmp_path / "im", [0, 1])
    assert good == os.path.join(tmp_path / "im", "cam2/f.jpg")
    assert "image id 1 is f.jpg, which could be" in str(bad)


def test_two_images_never_share_a_file(tmp_path):
    touch(tmp_path / "im", "f.jpg")
    both = find_each_image(coco_of(tmp_path, ["cam1/f.jpg", "cam2/f.jpg"]), tmp_path / "im", [0, 1])
    assert all("cam1/f.jpg, cam2/f.jpg would all be" in str(problem) for problem in both)


def test_a_name_that_leaves_the_folder_is_refused_unless_allowed(tmp_path):
    touch(tmp_path, "im/a.jpg", "secret.jpg")
    coco = coco_of(tmp_path, ["../secret.jpg"])
    (problem,) = find_each_image(coco, tmp_path / "im", [0])
    assert isinstance(problem, AnnotationError)
    assert "--allow-outside" in str(problem)
    assert find_each_image(coco, tmp_path / "im", [0], allow_outside=True) == [str(tmp_path / "secret.jpg")]


def test_a_photograph_is_told_from_others_of_its_name_by_its_folders(tmp_path):
    coco = coco_of(tmp_path, ["cam1/f.jpg", "cam2/f.jpg", "g.jpg"])
    assert rows_of_image(coco, tmp_path / "cam2" / "f.jpg") == [1]
    assert rows_of_image(coco, tmp_path / "anywhere" / "g.jpg") == [2]
    assert rows_of_image(coco, tmp_path / "h.jpg") == []
    with pytest.raises(AnnotationError, match=r"several images are called f\.jpg \(cam1/f\.jpg, cam2/f\.jpg\)"):
        rows_of_image(coco, tmp_path / "cam3" / "f.jpg")
    assert rows_of_image(coco_of(tmp_path, ["x.jpg"]), tmp_path / "y.jpg") == [0]
