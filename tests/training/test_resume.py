"""Runs that are killed, run out of disk, or have unreadable images."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from children import Child, FullDisk, StopInTheMiddleOfWrite, full_log, write_recipe
from test_loop import interrupt, same_weights, settings
from tiny_model import tiny_model

from maskwise.errors import InputError, MaskError
from maskwise.tasks.calibration import fit_temperature
from maskwise.training import loop
from maskwise.training.batches import read_batches
from maskwise.training.checkpoint import load_checkpoint
from maskwise.training.data import MAX_TRIES, ResumableBatchSampler, SampleRequest, TrainingRegions, read_data
from maskwise.training.loop import train
from maskwise.training.settings import AugmentSettings, TeacherSettings
from two_objects import write_two_objects


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return write_two_objects(tmp_path_factory.mktemp("data") / "two", images=40, side=32)


def varied(objects, **more):
    """A run in which samples, weights and dropout are random."""
    run = {"checkpoint_every": 2, "log_every": 1, "export": "fp32"} | more.pop("run", {})
    return settings(objects, network={"dropout": 0.3}, augment=AugmentSettings(), average=0.9, run=run, **more)


def same_end(one, other):
    """Check that two finished runs are equal in weights, temperature and record, except for seconds."""
    one, other = (load_checkpoint(folder / loop.FINAL) for folder in (one, other))
    assert one.step == other.step
    same_weights(one, other)
    assert one.temperature == other.temperature
    assert one.record | {"seconds": 0} == other.record | {"seconds": 0}


def temporaries(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# Killed.


def test_run_killed_at_random_moments_ends_like_the_uninterrupted_one(objects, tmp_path):
    run, rng = varied(objects, steps=24), np.random.default_rng(0)
    recipe, folder = write_recipe(run, tmp_path / "run.toml"), tmp_path / "broken"
    train(run, tmp_path / "uninterrupted")
    steps = []
    for _ in range(5):
        steps.append(_step_of(folder))
        child = Child(recipe, folder)
        while child.process.is_alive() and _step_of(folder) == steps[-1]:  # Some progress: the moments differ.
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        assert child.kill() or _step_of(folder) == 24
    assert len(set(steps)) >= 4, steps
    train(run, folder)
    same_end(folder, tmp_path / "uninterrupted")
    assert not temporaries(folder)


def _step_of(folder):
    path = folder / loop.CHECKPOINT
    return load_checkpoint(path).step if path.is_file() else 0


@pytest.mark.parametrize(("write", "step"), [(1, 0), (3, 4), (5, 8)], ids=["first", "third", "final"])
def test_run_killed_while_it_writes_resumes_from_the_last_whole_checkpoint(objects, tmp_path, write, step):
    run = varied(objects, steps=8)
    recipe, folder = write_recipe(run, tmp_path / "run.toml"), tmp_path / "broken"
    child = Child(recipe, folder, StopInTheMiddleOfWrite(write))
    assert child.reached.wait(60)
    assert child.kill()
    (leftover,) = temporaries(folder)
    assert (folder / leftover).stat().st_size > 1000
    assert _step_of(folder) == step
    assert not (folder / loop.FINAL).exists()
    train(run, folder)
    train(run, tmp_path / "uninterrupted")
    same_end(folder, tmp_path / "uninterrupted")
    assert not temporaries(folder)


def test_log_of_a_resumed_run_has_every_step_once(objects, tmp_path, monkeypatch):
    run = varied(objects, steps=6)
    train(run, tmp_path / "uninterrupted")
    interrupt(run, tmp_path / "broken", monkeypatch, after=5)  # One step after its last checkpoint.
    time.sleep(1)  # TensorBoard reads its files by name, which has whole seconds, then a number that sorts as text.
    train(run, tmp_path / "broken")
    curves = [curve(tmp_path / name) for name in ("broken", "uninterrupted")]
    assert curves[0] == curves[1]
    assert list(curves[0]) == [1, 2, 3, 4, 5, 6]


def curve(folder, name="train/loss"):
    """Return a curve as TensorBoard shows it: value by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder / "tensorboard"))
    log.Reload()
    return {event.step: event.value for event in log.Scalars(name)}


# Out of disk.


def test_full_disk_is_one_line_and_leaves_the_last_checkpoint(objects, tmp_path):
    run = varied(objects, steps=8)
    recipe, folder = write_recipe(run, tmp_path / "run.toml"), tmp_path / "broken"
    code, errors = Child(recipe, folder, FullDisk(3)).end()
    assert code == 1
    said = [line for line in errors.splitlines() if line.startswith("maskwise train: ")]
    assert len(said) == 1
    assert "checkpoint.safetensors: cannot be written" in said[0]
    assert "File too large" in said[0]
    assert "Traceback" not in errors
    assert not temporaries(folder)
    assert _step_of(folder) == 4
    train(run, folder)
    train(run, tmp_path / "uninterrupted")
    same_end(folder, tmp_path / "uninterrupted")


def test_log_on_a_full_disk_stops_the_run_in_one_line(objects, tmp_path):
    recipe = write_recipe(varied(objects, steps=8), tmp_path / "run.toml")
    code, errors = Child(recipe, tmp_path / "run", full_log).end()
    assert code == 1
    assert "the log cannot be written (No space left on device); make room" in errors
    assert "Traceback" not in errors


# Unreadable images.


def cut(path):
    path.write_bytes(path.read_bytes()[:400])


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


@pytest.fixture
def broken(tmp_path):
    """12 images; three training images and one held-out image cannot be read. Also gives their paths."""
    folder = write_two_objects(tmp_path / "data", images=12, side=32)
    split = read_data(settings(folder).data)
    train_images, held_out = (
        list(dict.fromkeys(region.image_path for region in part)) for part in (split.train, split.holdout)
    )
    for damage, path in zip((cut, empty, remove, cut), (*train_images[:3], held_out[0]), strict=True):
        damage(path)
    return folder, sorted(map(str, (*train_images[:3], held_out[0])))


def test_images_that_cannot_be_read_are_named_once_and_the_run_resumes_the_same(broken, tmp_path, monkeypatch, capfd):
    folder, names = broken
    run = varied(folder, steps=16, run={"validate_every": 4, "checkpoint_every": 3})
    train(run, tmp_path / "uninterrupted")
    errors = capfd.readouterr().err
    skipped = json.loads((tmp_path / "uninterrupted" / loop.RECORD).read_text())["skipped_images"]
    assert skipped["names"] == names
    assert skipped["count"] == 4
    assert skipped["samples"] >= 3
    for name in names:
        assert errors.count(f"maskwise: skipped: {name}: ") == 1
    interrupt(run, tmp_path / "broken", monkeypatch, after=11)
    train(run, tmp_path / "broken")
    same_end(tmp_path / "broken", tmp_path / "uninterrupted")
    for name in names:
        assert capfd.readouterr().err.count(name) <= 1


def test_another_region_replaces_one_whose_image_cannot_be_read(broken):
    """Other samples stay the same, whichever process makes them."""
    folder, names = broken
    run = varied(folder, steps=6)
    split = read_data(run.data)
    samples = TrainingRegions(split, run)
    made = [samples[SampleRequest(number)] for number in range(24)]
    replaced = 0
    for number, sample in enumerate(made):
        first = split.train[samples.draw(np.random.default_rng((0, 0, number)))]
        assert bool(sample.skipped) == (str(first.image_path) in names)
        assert str(split.train[sample.number].image_path) not in names
        assert sample.skipped or split.train[sample.number].region_id == first.region_id
        replaced += len(sample.skipped)
    assert replaced > 3
    batches = list(read_batches(TrainingRegions(split, run), 2, batch_sampler=ResumableBatchSampler(run, 0)))
    assert [number for batch in batches for number in batch.numbers.tolist()] == [sample.number for sample in made]
    assert [image for batch in batches for image in batch.skipped] == [i for sample in made for i in sample.skipped]
    assert torch.equal(batches[5].images[3], torch.from_numpy(made[23].pixels))


@pytest.mark.parametrize(("share", "message"), [(1.0, f"{MAX_TRIES} in a row"), (0.7, "samples")])
def test_run_fails_if_most_images_cannot_be_read(tmp_path, share, message):
    folder = write_two_objects(tmp_path / "data", images=20, side=32)
    run = settings(folder, steps=1000, batch_size=8, holdout=0.0)
    paths = sorted((folder / "images").iterdir())
    for path in paths[: int(share * len(paths))]:
        empty(path)
    with pytest.raises(InputError, match=f"most images cannot be read: .*{message}; the last: .*is not an image"):
        train(run, tmp_path / "run")


def test_run_fails_if_most_held_out_images_cannot_be_read(tmp_path):
    folder = write_two_objects(tmp_path / "data", images=20, side=32)
    run = settings(folder, steps=2)
    for path in {region.image_path for region in read_data(run.data).holdout}:
        cut(path)
    with pytest.raises(InputError, match=r"most held-out images cannot be read: those of \d+ of \d+ regions"):
        train(run, tmp_path / "run")


def test_held_out_image_that_cannot_be_read_does_not_count(broken, tmp_path):
    folder, names = broken
    final = load_checkpoint(train(settings(folder), tmp_path / "run"))
    content = json.loads((folder / "annotations.json").read_text())
    bad = {image["id"] for image in content["images"] if str(folder / "images" / image["file_name"]) in names}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in bad]
    (folder / "annotations.json").write_text(json.dumps(content))
    split = read_data(settings(folder).data)
    outputs = loop.predict_holdout(loop.load_network(final), split, final.settings)
    weights = split.calibration_weights(final.settings.data.class_power)
    assert final.record["holdout_accuracy"] == round(outputs.accuracy, 4)
    assert final.record["regions_holdout"] == len(split.holdout) + 2
    right = fit_temperature(outputs.logits.numpy(), outputs.targets.numpy(), weights.numpy())
    assert final.temperature == pytest.approx(right, rel=1e-3)


def test_teacher_leaves_out_images_that_cannot_be_read(broken, tmp_path, capfd):
    folder, names = broken
    run = replace(settings(folder), teacher=TeacherSettings(model=str(tiny_model(tmp_path))))
    train(run, tmp_path / "run")
    assert capfd.readouterr().err.count("could not be read for the teacher") == 3
    assert json.loads((tmp_path / "run" / loop.RECORD).read_text())["skipped_images"]["names"] == names


@pytest.mark.parametrize("workers", [0, 1])
def test_error_in_a_worker_has_its_own_message(objects, tmp_path, workers):
    folder = write_two_objects(tmp_path / "data", images=4, side=32)
    content = json.loads((folder / "annotations.json").read_text())
    for image in content["images"]:
        image["width"] = 40
    (folder / "annotations.json").write_text(json.dumps(content))
    run = settings(folder, holdout=0.0)
    run = replace(run, data=replace(run.data, workers=workers))
    with pytest.raises(
        MaskError, match=r"^\S+\.png: annotation \d+: the mask is 40 x 32 pixels, the image 32 x 32 [^\n]*size$"
    ):
        train(run, tmp_path / "run")
