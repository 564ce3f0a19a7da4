"""Labelling into shards: every form of input, restarts, faults, and joining."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from colour_model import colour_model
from maskwise import Predictor, errors, join_shards, label_coco, label_shards
from maskwise.cli import main
from maskwise.tasks import block_labeller
from packed import expected, lines_of, names_in, write_lines, write_pairs, write_tar


@pytest.fixture
def predictor(tmp_path):
    return Predictor(colour_model(tmp_path), threads=1)


def shards_in(folder):
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def test_shards_hold_what_the_file_would(coco_folder, tmp_path, predictor):
    segments, images = coco_folder / "annotations.json", coco_folder / "images"
    done = label_shards(images, segments, tmp_path / "out", predictor, top=2, shard_images=3)
    assert (done.images, done.annotations, done.named, done.shards, done.shards_now) == (8, 16, 16, 3, 3)
    assert names_in(tmp_path / "out") == expected(coco_folder)
    label_coco(segments, images, tmp_path / "o.json", predictor, top=2)
    joined = join_shards(tmp_path / "out", tmp_path / "joined.json")
    assert (joined.images, joined.annotations, joined.renumbered) == (8, 16, False)
    assert json.loads((tmp_path / "joined.json").read_text()) == json.loads((tmp_path / "o.json").read_text())


@pytest.mark.parametrize("form", ["pairs", "beside", "list", "lines", "tar", "tars", "tar.gz"])
def test_every_form_says_the_same(form, coco_folder, tmp_path, predictor):
    images, segments, folder = coco_folder / "images", None, tmp_path / "packed"
    if form in ("pairs", "list"):
        write_pairs(coco_folder, folder)
        segments = folder
    if form == "list":
        (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in sorted(images.iterdir())[::-1]))
        images = tmp_path / "list.txt"
    elif form == "beside":
        write_pairs(coco_folder, folder)
        for path in folder.iterdir():
            path.rename(images / path.name)
    elif form == "lines":
        segments = tmp_path / "list.jsonl"
        write_lines(coco_folder, segments)
    elif form.startswith("tar"):
        images = tmp_path / f"a.{form.removesuffix('s')}"
        long_names = f"{'long' * 30}/" if form == "tars" else ""  # Their headers are of another kind.
        write_tar(coco_folder, images, "w:gz" if form == "tar.gz" else "w", long_names)
        images = tmp_path / "*.tar" if form == "tars" else images
    done = label_shards(images, segments, tmp_path / "out", predictor, shard_images=3)
    assert (done.images, done.annotations, done.named) == (8, 16, 16)
    assert done.shards == (1 if form == "tar.gz" else 3)
    names = {Path(name).name: names for name, names in names_in(tmp_path / "out").items()}
    assert names == expected(coco_folder)
    if form == "list":
        assert lines_of(tmp_path / "out")[0]["image"]["file_name"].endswith("007.png")


def test_what_is_done_is_not_done_again(coco_folder, tmp_path, predictor, monkeypatch):
    """A killed run leaves whole shards, and perhaps a damaged one on a disk that lies; only the rest is made."""
    args = (coco_folder / "images", coco_folder / "annotations.json", tmp_path / "out", predictor)
    label_shards(*args, shard_images=3)
    before = shards_in(tmp_path / "out")
    (tmp_path / "out/manifest.json").unlink()
    first, second, _ = sorted((tmp_path / "out").glob("part-*"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-9])
    read, reading = [], block_labeller.read_sample
    monkeypatch.setattr(
        block_labeller,
        "read_sample",
        lambda sample, **more: read.append(sample.location[-7:]) or reading(sample, **more),
    )
    assert label_shards(*args, shard_images=3).shards_now == 2
    assert read == [f"00{number}.png" for number in range(6)]
    assert shards_in(tmp_path / "out") == before


def test_a_mended_image_is_named_and_replaces_its_shard(coco_folder, tmp_path, predictor):
    args = (coco_folder / "images", coco_folder / "annotations.json", tmp_path / "out", predictor)
    good = (coco_folder / "images/004.png").read_bytes()
    (coco_folder / "images/004.png").write_bytes(good[:60])
    done = label_shards(*args, shard_images=3)
    assert (done.images, done.named, done.problems) == (8, 14, 2)
    line = lines_of(tmp_path / "out")[4]
    assert line["names"] == [None, None]
    assert [problem["annotation_id"] for problem in line["problems"]] == [108, 109]
    assert "004.png: is damaged" in line["problems"][0]["message"]
    (coco_folder / "images/004.png").write_bytes(good)
    done = label_shards(*args, shard_images=3)
    assert (done.named, done.problems, done.shards_now) == (16, 0, 1)
    assert len(shards_in(tmp_path / "out")) == 3


def test_a_bad_image_of_a_tar_is_named_by_its_place(coco_folder, tmp_path, predictor):
    (coco_folder / "images/004.png").write_bytes(b"no image")
    write_tar(coco_folder, tmp_path / "a.tar")
    assert label_shards(tmp_path / "a.tar", None, tmp_path / "out", predictor).named == 14
    message = lines_of(tmp_path / "out")[4]["problems"][0]["message"]
    assert message.startswith(f"{tmp_path}/a.tar: 004.png: is not an image")


def test_stop_raises_the_fault_and_keeps_the_shards_before(coco_folder, tmp_path, predictor):
    (coco_folder / "images/004.png").write_bytes(b"x")
    args = (coco_folder / "images", coco_folder / "annotations.json", tmp_path / "out", predictor)
    with pytest.raises(errors.ImageError, match=r"004\.png"):
        label_shards(*args, shard_images=3, on_error="stop")
    assert len(shards_in(tmp_path / "out")) == 1
    assert sorted(path.name[:5] for path in (tmp_path / "out").iterdir()) == ["part-", "run.j"]
    with pytest.raises(errors.AnnotationError, match="the run has not ended"):
        join_shards(tmp_path / "out", tmp_path / "o.json")


def test_nothing_of_the_file_is_lost(coco_folder, tmp_path, predictor):
    """Annotations of no image, faulty ones, an image without annotations, a missing image, one outside the folder."""
    content = json.loads((coco_folder / "annotations.json").read_text())
    content["annotations"][0]["image_id"] = 99
    content["annotations"][3]["segmentation"] = [[1, 2]]
    content["images"][7]["file_name"] = "../7.png"
    (coco_folder / "images/006.png").unlink()
    content["images"].append({"id": 50, "file_name": "none.png"})
    (coco_folder / "s.json").write_text(json.dumps(content, indent=2).replace("\n", "\r\n"))
    done = label_shards(coco_folder / "images", coco_folder / "s.json", tmp_path / "out", predictor, shard_images=4)
    assert (done.images, done.annotations, done.named, done.problems) == (9, 16, 10, 6)
    messages = [one["message"] for line in lines_of(tmp_path / "out") for one in line["problems"]]
    for part in ("not among 'images'", "annotation id 103", "006.png", "leaves the folder"):
        assert any(part in message for message in messages), part
    join_shards(tmp_path / "out", tmp_path / "o.json")
    joined = json.loads((tmp_path / "o.json").read_text())
    assert {one["id"] for one in joined["annotations"]} == set(range(100, 116))
    assert joined["images"][-1] == {"id": 50, "file_name": "none.png"}


def test_other_settings_need_another_folder(coco_folder, tmp_path, predictor):
    args = (coco_folder / "images", coco_folder / "annotations.json", tmp_path / "out", predictor)
    label_shards(*args, shard_images=3)
    with pytest.raises(errors.InputError, match=r"other settings \(top\)"):
        label_shards(*args, shard_images=3, top=1)


@pytest.mark.parametrize("none", ["category", "keep", "drop"])
def test_none_of_these(none, coco_folder, tmp_path):
    """Blue is none of these: it is one of the classes with the probability of 1 / (1 + exp(20 blue - 10))."""
    predictor = Predictor(colour_model(tmp_path, known=(0, 0, -20, 10)), threads=1)
    args = (coco_folder / "images", coco_folder / "annotations.json", tmp_path / "out", predictor)
    done = label_shards(*args, none=none)
    assert (done.annotations, done.named, done.none) == (16, 16, 8)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert (manifest["annotations"], manifest["none"], manifest["run"]["none"]) == (16, 8, none)
    discs = {"category": ["none of these"], "keep": ["none of these"], "drop": []}[none]
    assert names_in(tmp_path / "out")["000.png"] == ["person", *discs]
    assert join_shards(tmp_path / "out", tmp_path / "joined.json").annotations == (8 if none == "drop" else 16)
    label_coco(args[1], args[0], tmp_path / "o.json", predictor, none=none)
    assert json.loads((tmp_path / "joined.json").read_text()) == json.loads((tmp_path / "o.json").read_text())


def test_ids_that_stand_several_times_are_renumbered(tmp_path, predictor):
    """Each file of SAM numbers its own masks from 1."""
    for name, red in (("a", (255, 0, 0)), ("b", (0, 0, 255)), ("c", (0, 255, 0))):
        Image.new("RGB", (8, 6), red).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.json").write_text(json.dumps([{"bbox": [1, 1, 4, 3], "stability_score": 0.9}]))
    label_shards(tmp_path, None, tmp_path / "out", predictor)
    assert names_in(tmp_path / "out") == {"a.png": ["person"], "b.png": ["cup"], "c.png": ["dog"]}
    assert join_shards(tmp_path / "out", tmp_path / "o.json").renumbered
    joined = json.loads((tmp_path / "o.json").read_text())
    assert [(one["id"], one["image_id"]) for one in joined["annotations"]] == [(1, "a.png"), (2, "b.png"), (3, "c.png")]
    assert joined["annotations"][0]["stability_score"] == 0.9


DEADLY = """
import os, signal, sys
from maskwise import Predictor, label_shards
from maskwise.tasks import block_labeller
reading = block_labeller.read_sample
def deadly(sample, **more):
    if sample.location.endswith("004.png") and sample.fault is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return reading(sample, **more)
block_labeller.read_sample = deadly
images, segments, output, model = sys.argv[1:]
label_shards(images, segments, output, Predictor(model, threads=1), shard_images=3)
"""


def test_an_image_that_ends_processes_is_left_out_in_the_end(coco_folder, tmp_path, predictor):
    """Two processes die on its block, two more on the image alone; the fifth goes on without it."""
    args = [coco_folder / "images", coco_folder / "annotations.json", tmp_path / "out", predictor.model_path]
    codes = [subprocess.run([sys.executable, "-c", DEADLY, *map(str, args)], check=False).returncode for _ in range(5)]
    assert codes == [-signal.SIGKILL] * 4 + [0]
    names = names_in(tmp_path / "out")
    assert names.pop("004.png") == [None, None]
    wanted = expected(coco_folder)
    del wanted["004.png"]
    assert names == wanted
    assert "ends the process" in lines_of(tmp_path / "out")[4]["problems"][0]["message"]
    assert not list((tmp_path / "out").glob("trying-*"))


def test_the_command_writes_shards_and_joins_them(coco_folder, tmp_path, predictor, capsys):
    model = ["--model", str(predictor.model_path), "--threads", "1"]
    inputs = [str(coco_folder / "images"), str(coco_folder / "annotations.json")]
    assert main.run(["label", *inputs, "-o", str(tmp_path / "out"), "--shard-images", "3", *model]) == 0
    assert "8 images, 16 annotations, 16 named, 3 shards, 3 written in this run" in capsys.readouterr().out
    assert main.run(["join", str(tmp_path / "out"), "-o", str(tmp_path / "o.json")]) == 0
    assert "8 images, 16 annotations" in capsys.readouterr().out
    for wrong in (["-o", "o.json"], ["x.json", "-o", "o.json", "--shard-images", "9"], ["-o", "out", "--overlay", "x"]):
        with pytest.raises(SystemExit, match="2"):
            main.run(["label", inputs[0], *wrong, *model])


def test_a_changed_shard_is_not_joined(coco_folder, tmp_path, predictor):
    label_shards(coco_folder / "images", coco_folder / "annotations.json", tmp_path / "out", predictor)
    shard = next((tmp_path / "out").glob("part-*"))
    shard.write_text(shard.read_text().replace('"person"', '"parson"'))
    with pytest.raises(errors.AnnotationError, match="not as the manifest says"):
        join_shards(tmp_path / "out", tmp_path / "o.json")
    assert not os.path.exists(tmp_path / "o.json")
