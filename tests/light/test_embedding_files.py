import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from colour_model import colour_model
from interrupting import interrupt_at_seventh_image
from maskwise import Mask, Predictor, embed_coco, load_image
from maskwise.data.vector_records import VectorRecords
from maskwise.errors import InputError, MaskError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return colour_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def segments(coco_folder):
    """Sixteen annotations of eight images, shuffled, without categories."""
    content = json.loads((coco_folder / "annotations.json").read_text())
    content["annotations"] = content["annotations"][5:] + content["annotations"][:5]
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace("003", '0,"ü\n3')
    (coco_folder / "images/003.png").rename(coco_folder / 'images/0,"ü\n3.png')
    path = coco_folder / "segments.json"
    path.write_text(json.dumps(content))
    return path


def expected(segments, model):
    """The vectors of each annotation, embedded alone, by id."""
    content = json.loads(segments.read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    predictor = Predictor(model)
    vectors = {}
    for one in content["annotations"]:
        image = load_image(segments.parent / "images" / names[one["image_id"]])
        mask = Mask.from_polygons(one["segmentation"], image.shape[:2])
        vectors[one["id"]] = (predictor.embed(image, [mask])[0], one["image_id"], names[one["image_id"]])
    return vectors


def run(segments, model, output, **more):
    return embed_coco(segments, segments.parent / "images", output, Predictor(model), **more)


def check(rows, wanted):
    """Check annotation id, image id, file name and vector of every row."""
    assert [row[0] for row in rows] == list(wanted)
    for (_, *ids, vector), (true, *true_ids) in zip(rows, wanted.values(), strict=True):
        assert ids == true_ids
        np.testing.assert_allclose(vector, true, atol=1e-6)


def test_npy_with_ids_beside_it(segments, model, tmp_path):
    done = run(segments, model, tmp_path / "v.npy")
    assert (done.annotations, done.embedded, done.embedded_now, done.features) == (16, 16, 16, 3)
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.dtype == np.float32
    with open(tmp_path / "v.npy.ids.csv", newline="", encoding="utf-8") as file:
        ids = list(csv.DictReader(file))
    assert [int(one["row"]) for one in ids] == list(range(16))
    columns = ((int(one["annotation_id"]), int(one["image_id"]), one["file_name"]) for one in ids)
    check([(*one, vector) for one, vector in zip(columns, vectors, strict=True)], expected(segments, model))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco", "v.npy", "v.npy.ids.csv"]


def test_npz_and_parquet_hold_ids_and_vectors(segments, model, tmp_path):
    for name in ("v.npz", "v.parquet"):
        run(segments, model, tmp_path / name)
    with np.load(tmp_path / "v.npz", allow_pickle=False) as archive:
        columns = [archive[key].tolist() for key in ("annotation_ids", "image_ids", "file_names")]
        check(list(zip(*columns, archive["vectors"], strict=True)), expected(segments, model))
    table = pq.read_table(tmp_path / "v.parquet").to_pylist()
    keys = ("annotation_id", "image_id", "file_name", "vector")
    check([tuple(row[key] for key in keys) for row in table], expected(segments, model))


def test_ids_that_are_text_stay_text(segments, model, tmp_path):
    content = json.loads(segments.read_text())
    content["annotations"][0]["id"] = "x-1"
    segments.write_text(json.dumps(content))
    run(segments, model, tmp_path / "v.npz")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as archive:
        assert archive["annotation_ids"][:2].tolist() == ["x-1", "106"]
        assert archive["image_ids"][0] == 2


def test_faulty_records_have_no_row(segments, model, tmp_path):
    content = json.loads(segments.read_text())
    content["annotations"][2] |= {"segmentation": [[1, 1]], "bbox": None}
    segments.write_text(json.dumps(content))
    (segments.parent / "images/000.png").write_bytes(b"no image")
    done = run(segments, model, tmp_path / "v.npz")
    assert (done.annotations, done.embedded, len(done.problems)) == (16, 13, 3)
    bad = {content["annotations"][2]["id"], 100, 101}
    assert {
        one["annotation_id"] for one in json.loads((tmp_path / "v.npz.problems.json").read_text())["problems"]
    } == bad
    with np.load(tmp_path / "v.npz", allow_pickle=False) as archive:
        assert archive["vectors"].shape == (13, 3)
        assert not bad & set(archive["annotation_ids"].tolist())
    with pytest.raises(MaskError, match="annotation id 107"):
        run(segments, model, tmp_path / "w.npz", on_error="stop")


def interrupt(segments, model, output, monkeypatch):
    """Run until the seventh of eight images is read."""
    caught = interrupt_at_seventh_image(monkeypatch, lambda: run(segments, model, output))
    assert "images are done and kept" in caught.__notes__[0]
    assert not output.exists()


def test_an_interrupted_run_resumes(segments, model, tmp_path, monkeypatch):
    interrupt(segments, model, tmp_path / "v.npz", monkeypatch)
    done = run(segments, model, tmp_path / "v.npz")
    assert 0 < done.embedded_now < 16
    run(segments, model, tmp_path / "w.npz")
    with np.load(tmp_path / "v.npz") as resumed, np.load(tmp_path / "w.npz") as whole:
        np.testing.assert_array_equal(resumed["vectors"], whole["vectors"])
    assert not (tmp_path / "v.npz.partial").exists()


def test_rows_that_moved_do_not_get_their_neighbours_vectors(segments, model, tmp_path, monkeypatch):
    """Two images of the same pixels and outlines, then their annotations in turn: the same images in other rows."""
    content = json.loads(segments.read_text())
    pair = [one for one in content["annotations"] if one["image_id"] == 1]
    images = [{"id": number, "file_name": f"{number}.png"} for number in (1, 2)]
    for image in images:
        shutil.copy(segments.parent / "images/001.png", segments.parent / "images" / image["file_name"])
    rows = [{**one, "id": 10 * number + n, "image_id": number} for number in (1, 2) for n, one in enumerate(pair)]
    segments.write_text(json.dumps({"images": images, "annotations": rows}))
    with monkeypatch.context() as patch:
        patch.setattr(VectorRecords, "delete", lambda self: None)
        run(segments, model, tmp_path / "v.npz")
    rows[1], rows[2] = rows[2], rows[1]
    segments.write_text(json.dumps({"images": images, "annotations": rows}))
    run(segments, model, tmp_path / "v.npz")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as archive:
        columns = [archive[key].tolist() for key in ("annotation_ids", "image_ids", "file_names")]
        check(list(zip(*columns, archive["vectors"], strict=True)), expected(segments, model))


def test_vectors_of_another_model_do_not_count(segments, model, tmp_path, monkeypatch):
    interrupt(segments, model, tmp_path / "v.npz", monkeypatch)
    assert run(segments, colour_model(tmp_path, seed=1), tmp_path / "v.npz").embedded_now == 16


def test_a_torn_record_does_not_count(tmp_path):
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    with VectorRecords(tmp_path / "p", 2, 3) as records:
        for row in (0, 1):
            records.put(row, f"key {row}", vectors[row])
    content = bytearray((tmp_path / "p").read_bytes())
    content[32 + 5] ^= 1  # In the vector of row 0.
    (tmp_path / "p").write_bytes(content)
    with VectorRecords(tmp_path / "p", 2, 3) as records:
        assert not records.recall(0, "key 0")
        assert not records.recall(1, "key 0")
        assert records.recall(1, "key 1")
        ((rows, chunk),) = records.chunks()
        assert rows.tolist() == [1]
        np.testing.assert_array_equal(chunk, vectors[1:])


def test_a_second_run_on_one_output_is_refused(segments, model, tmp_path):
    with VectorRecords(tmp_path / "v.npz.partial", 2, 3), pytest.raises(InputError, match="another run is writing"):
        run(segments, model, tmp_path / "v.npz")


def test_an_unknown_suffix_is_refused(segments, model, tmp_path):
    with pytest.raises(InputError, match=r"v\.csv: unknown suffix; accepted are \.npy, \.npz, \.parquet"):
        run(segments, model, tmp_path / "v.csv")
