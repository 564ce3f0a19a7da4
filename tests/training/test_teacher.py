from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_loop import interrupt, same_weights, settings
from tiny_model import tiny_model

from maskwise import Mask, Predictor
from maskwise.data.images import load_image
from maskwise.errors import ModelError, SettingsError
from maskwise.training import loop, teacher
from maskwise.training.checkpoint import load_checkpoint
from maskwise.training.data import read_data
from maskwise.training.loop import TEACHER, load_network, train
from maskwise.training.settings import TeacherSettings
from maskwise.training.teacher import distances_to_teacher, teacher_embeddings
from two_objects import write_two_objects


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return write_two_objects(tmp_path_factory.mktemp("data") / "two", images=12, side=32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("teacher"))


def taught(objects, model, **schedule):
    return replace(settings(objects, **schedule), teacher=TeacherSettings(model=str(model), weight=5.0))


def test_embeddings_are_the_models_own_standardised(objects, model, tmp_path):
    regions = read_data(settings(objects).data).train
    got = teacher_embeddings(model, regions, tmp_path / "cache.safetensors").embeddings
    predictor = Predictor(model)
    rows = [predictor.embed(load_image(r.image_path), [r.read_mask()])[0] for r in regions]
    expected = (rows - np.mean(rows, axis=0)) / np.std(rows, axis=0).clip(1e-6)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_embeddings_are_kept_for_the_same_model_and_regions(objects, model, tmp_path, monkeypatch):
    regions, cache = read_data(settings(objects).data).train, tmp_path / "cache.safetensors"
    first = teacher_embeddings(model, regions, cache)
    with monkeypatch.context() as patch:
        patch.setattr(teacher, "embed_regions", lambda *_, **__: pytest.fail("made again"))
        again = teacher_embeddings(model, regions, cache)
        assert torch.equal(again.embeddings, first.embeddings)
        assert again.sha256 == first.sha256
    assert len(teacher_embeddings(model, regions[1:], cache).embeddings) == len(regions) - 1
    other = teacher_embeddings(tiny_model(tmp_path, seed=1), regions[1:], cache).embeddings
    assert not torch.allclose(other, first.embeddings[1:], atol=0.1)


def test_another_outline_in_the_same_box_is_another_region(objects, model, tmp_path):
    regions = read_data(settings(objects).data).train
    bits = regions[0].read_mask().to_array()
    top, left = np.argwhere(bits)[0]
    moved = bits.copy()
    moved[top, left] = False
    other = replace(regions[0], read_mask=lambda: Mask.from_array(moved))
    cache = tmp_path / "cache.safetensors"
    assert other.read_mask().box_xywh == regions[0].read_mask().box_xywh
    keys = {teacher_embeddings(model, (r, *regions[1:3]), cache).sha256 for r in (regions[0], other)}
    assert len(keys) == 2


@pytest.mark.parametrize("content", [b"", b"not tensors"])
def test_damaged_cache_is_replaced(objects, model, tmp_path, content):
    regions, cache = read_data(settings(objects).data).train[:2], tmp_path / "cache.safetensors"
    cache.write_bytes(content)
    first = teacher_embeddings(model, regions, cache)
    assert torch.equal(teacher_embeddings(model, regions, cache).embeddings, first.embeddings)


def test_refuses_to_resume_a_run_with_another_teacher(objects, tmp_path, monkeypatch):
    model = tiny_model(tmp_path)
    run = taught(objects, model)
    interrupt(run, tmp_path / "run", monkeypatch, after=5)
    model.write_bytes(tiny_model(tmp_path, seed=1).read_bytes())
    with pytest.raises(SettingsError, match="with another teacher"):
        train(run, tmp_path / "run")


def test_distance_is_zero_for_the_same_direction_and_two_for_the_opposite():
    right = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    assert distances_to_teacher(3 * right, right).tolist() == pytest.approx([0] * len(right), abs=1e-6)
    assert distances_to_teacher(-right, right).tolist() == pytest.approx([2] * len(right), abs=1e-6)


def test_weight_of_the_teacher_scales_its_loss(objects, model, tmp_path, monkeypatch):
    losses, step = {}, loop.take_step

    def watched(run, batch):
        values = step(run, batch)
        losses[run.settings.teacher.weight] = {name: values[name].item() for name in values if "loss" in name}
        return values

    monkeypatch.setattr(loop, "take_step", watched)
    for weight in (2.0, 5.0):
        run = replace(taught(objects, model, steps=1), teacher=TeacherSettings(model=str(model), weight=weight))
        train(run, tmp_path / f"{weight}")
    assert losses[2.0]["train/loss_classes"] == pytest.approx(losses[5.0]["train/loss_classes"])
    assert losses[2.0]["train/loss_teacher"] / 2 == pytest.approx(losses[5.0]["train/loss_teacher"] / 5)
    for loss in losses.values():
        assert loss["train/loss"] == pytest.approx(loss["train/loss_classes"] + loss["train/loss_teacher"])
        assert loss["train/loss_teacher"] > 0


def test_student_comes_closer_to_its_teacher(objects, model, tmp_path):
    """While training, the teacher head predicts the embedding of the right region."""
    run = taught(objects, model, steps=200, batch_size=8, lr_trunk=3e-3, lr_new=3e-3)
    before = load_checkpoint(train(replace(run, schedule=replace(run.schedule, steps=1)), tmp_path / "short"))
    final = load_checkpoint(train(run, tmp_path / "long"))
    distances = [_distance(tmp_path / name, run) for name in ("short", "long")]
    assert distances[1] < 0.5 * distances[0]
    assert not any("teach" in name for name in (*before.tensors, *final.tensors))  # Not in the exported weights.


def _distance(folder, run):
    checkpoint = load_checkpoint(folder / "checkpoint.safetensors")
    weights = checkpoint.weights
    split = read_data(run.data)
    right = teacher_embeddings(Path(run.teacher.model), split.train, folder / TEACHER).embeddings
    network = load_network(checkpoint)
    predicted = []
    for region in split.train:
        pixels, coverage = run.view.view(region.read_mask()).render(load_image(region.image_path), region.read_mask())
        with torch.no_grad():
            predicted.append(network.embed(torch.from_numpy(pixels)[None], torch.from_numpy(coverage)[None])[0])
    predicted = torch.stack(predicted) @ weights["teacher_head.weight"].T + weights["teacher_head.bias"]
    return distances_to_teacher(predicted, right).mean().item()


def test_resumed_run_with_a_teacher_ends_like_the_uninterrupted_one(objects, model, tmp_path, monkeypatch):
    run = taught(objects, model, average=0.9)
    uninterrupted = load_checkpoint(train(run, tmp_path / "uninterrupted"))
    interrupt(run, tmp_path / "broken", monkeypatch, after=5)
    same_weights(load_checkpoint(train(run, tmp_path / "broken")), uninterrupted)


def test_missing_teacher_is_named(objects, tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.onnx"):
        train(taught(objects, tmp_path / "nowhere.onnx"), tmp_path / "run")
