"""Labelling through Ray Data."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
import ray
import ray.data
from pyarrow import parquet

from colour_model import colour_model
from maskwise import Predictor, errors, join_shards, label_shards
from maskwise.data import locations
from maskwise.tasks import ray_pool
from packed import by_image, expected, names_in, write_lines, write_tar

ALONE = {**os.environ, "RAY_ADDRESS": "local"}
"""Ray starts on its own, whatever cluster this machine has or has had."""


def test_ray_says_the_same(coco_folder, tmp_path):
    """Also of a faulty record. In a process of its own: Ray leaves threads and warnings behind."""
    content = json.loads((coco_folder / "annotations.json").read_text())
    content["annotations"][3]["segmentation"] = [[1, 2]]
    segments, model = coco_folder / "segments.json", colour_model(tmp_path)
    segments.write_text(json.dumps(content))
    script = """
import sys
from maskwise import Predictor, errors, label_coco
segments, images, model, output, engine = sys.argv[1:]
label_coco(segments, images, output, Predictor(model, threads=1), top=2, engine=engine)
try:
    label_coco(segments, images, output, Predictor(model, threads=1), engine=engine, on_error="stop")
except errors.MaskError as error:
    print(error)
"""
    said = []
    for engine in ("local", "ray"):
        args = [segments, segments.parent / "images", model, tmp_path / f"{engine}.json", engine]
        command = [sys.executable, "-c", script, *map(str, args)]
        run = subprocess.run(command, check=True, capture_output=True, text=True, env=ALONE, timeout=300)
        said.append(run.stdout)
    assert said[0].startswith(f"{segments}: annotation id 103: ")
    assert said[1] == said[0]
    assert (tmp_path / "ray.json").read_text() == (tmp_path / "local.json").read_text()
    problems = [(tmp_path / f"{engine}.json.problems.json").read_text() for engine in ("local", "ray")]
    assert problems[0] == problems[1]


def test_dead_workers_and_machines_lose_and_double_nothing(coco_folder, tmp_path):
    """A worker and a machine are killed while they name a block; one image is damaged; the bytes are those of local."""
    (coco_folder / "images/004.png").write_bytes(b"no image")
    images, segments, model = coco_folder / "images", coco_folder / "annotations.json", colour_model(tmp_path)
    script = Path(__file__).with_name("shards_with_ray.py")
    command = [sys.executable, str(script), str(images), str(segments), str(tmp_path), str(model)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    said = json.loads((tmp_path / "said.json").read_text())
    (worker, first), (machine, second) = said["killed"]
    assert (worker, machine) == ("worker", "machine")
    again = Counter(said["read"])
    assert set(again) == {0, 1, 2, 3}
    assert again[first] > 1
    assert again[second] > 1
    assert said["again"] == [2]  # The second run made only the shard that was taken away.
    assert said["now"] == [4, 1]
    label_shards(images, segments, tmp_path / "local", Predictor(model, threads=1), shard_images=2)
    shards = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("local", "ray")]
    assert shards[0] == shards[1]
    names = names_in(tmp_path / "ray")
    assert names == {**expected(coco_folder), "004.png": [None, None]}


@pytest.mark.parametrize(
    ("threads", "device", "needs", "size"),
    [(None, "cpu", {"num_cpus": 1}, 9), (4, "cpu", {"num_cpus": 4}, 2), (2, "cuda", {"num_cpus": 2, "num_gpus": 1}, 3)],
)
def test_workers_fill_the_cluster(threads, device, needs, size, monkeypatch):
    """Of nine cores and three GPUs; the pool starts full and goes on with a single worker."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 9.0, "GPU": 3.0})
    arguments = ray_pool.pool(threads, device)
    compute = arguments.pop("compute")
    assert arguments == needs
    assert (compute.min_size, compute.initial_size, compute.max_size) == (1, size, size)


@pytest.mark.parametrize("form", ["json", "structs", "paths"])
def test_parquet_in_and_out(form, coco_folder, tmp_path):
    """Rows as people keep them: bytes and JSON; what Hugging Face writes, and lists of structs; paths."""
    rows = []
    for name, records in by_image(coco_folder).items():
        content = (coco_folder / "images" / name).read_bytes()
        image = {"json": content, "structs": {"bytes": content, "path": name}, "paths": f"images/{name}"}[form]
        annotations = records if form == "structs" else json.dumps(records)
        rows.append({"image_id": len(rows), "file_name": name, "image": image, "annotations": annotations})
    parquet.write_table(pa.Table.from_pylist(rows), coco_folder / "a.parquet", row_group_size=3)
    predictor = Predictor(colour_model(tmp_path), threads=1)
    done = label_shards(coco_folder / "a.parquet", None, tmp_path / "out", predictor, kind="parquet")
    assert (done.images, done.annotations, done.named, done.shards) == (8, 16, 16, 3)
    table = pa.concat_tables(map(parquet.read_table, sorted((tmp_path / "out").glob("*.parquet")))).to_pylist()
    pairs = [(file, name) for file, names in expected(coco_folder).items() for name in names]
    assert [(row["file_name"], row["name"]) for row in table] == pairs
    assert table[0]["annotation_id"] == "100"
    assert table[0]["score"] > 0.9
    assert join_shards(tmp_path / "out", tmp_path / "o.json").annotations == 16
    label_shards(coco_folder / "a.parquet", None, tmp_path / "lines", predictor)
    join_shards(tmp_path / "lines", tmp_path / "o2.json")
    assert (tmp_path / "o.json").read_text() == (tmp_path / "o2.json").read_text()
    assert label_shards(coco_folder / "a.parquet", None, tmp_path / "out", predictor, kind="parquet").shards_now == 0


@pytest.mark.parametrize("form", ["coco", "lines", "tar"])
def test_everything_may_be_in_an_object_store(form, coco_folder, tmp_path):
    """In fsspec's store in memory; the same as from the disk, and no image is missed because of its place."""
    store = fsspec.filesystem("memory")
    store.put(str(coco_folder), f"/{tmp_path.name}/in", recursive=True)
    root, predictor = f"memory://{tmp_path.name}", Predictor(colour_model(tmp_path), threads=1)
    write_lines(coco_folder, tmp_path / "l.jsonl")
    write_tar(coco_folder, tmp_path / "t.tar")
    for name in ("l.jsonl", "t.tar"):
        store.put(str(tmp_path / name), f"/{tmp_path.name}/{name}")
    store.rm_file(f"/{tmp_path.name}/in/images/003.png")
    images, segments = {
        "coco": (f"{root}/in/images", f"{root}/in/annotations.json"),
        "lines": (f"{root}/in/images", f"{root}/l.jsonl"),
        "tar": (f"{root}/*.tar", None),
    }[form]
    done = label_shards(images, segments, f"{root}/out", predictor, shard_images=3)
    assert (done.images, done.named) == (8, 16 if form == "tar" else 14)
    store.get(f"/{tmp_path.name}/out", str(tmp_path / "out"), recursive=True)
    names = names_in(tmp_path / "out")
    wanted = expected(coco_folder)
    assert names == (wanted if form == "tar" else {**wanted, "003.png": [None, None]})
    assert label_shards(images, segments, f"{root}/out", predictor, shard_images=3).shards_now == 0
    assert join_shards(f"{root}/out", tmp_path / "o.json").annotations == 16


def test_a_network_that_fails_is_no_fault_of_an_image(coco_folder, tmp_path, monkeypatch):
    """It ends the run, which resumes; a note in the results would never be mended."""
    store = fsspec.filesystem("memory")
    store.put(str(coco_folder), f"/{tmp_path.name}/in", recursive=True)

    def fail(*_):
        raise TimeoutError("no answer")

    monkeypatch.setattr(type(store), "cat_file", fail)
    with pytest.raises(TimeoutError, match="no answer"):
        locations.read_file(f"memory://{tmp_path.name}/in/images/001.png")
    with pytest.raises(errors.InputError, match="nowhere://"):
        locations.read_file("nowhere://bucket/a.jpg")
