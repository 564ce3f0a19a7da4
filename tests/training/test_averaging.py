from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_model import SETTINGS, tiny_checkpoint

from maskwise import Predictor
from maskwise.cli.main import run
from maskwise.data.atomic_files import read_json
from maskwise.errors import SettingsError
from maskwise.training.averaging import average_runs
from maskwise.training.checkpoint import load_checkpoint
from maskwise.training.data import read_data
from maskwise.training.settings import SourceSettings
from maskwise.views.view import ViewSettings


@pytest.fixture
def settings(coco_folder):
    source = SourceSettings(images="images", annotations="annotations.json")
    data = replace(SETTINGS.data, data_root=str(coco_folder), sources=(source,), holdout=0.5)
    return replace(SETTINGS, data=data)


@pytest.fixture
def runs(tmp_path, settings):
    """Two runs: a run folder and a checkpoint."""
    (tmp_path / "a").mkdir()
    tiny_checkpoint(tmp_path / "a" / "final.safetensors", settings, seed=1)
    return [tmp_path / "a", tiny_checkpoint(tmp_path / "b.safetensors", settings, seed=2)]


def test_weights_are_the_mean_and_counts_the_first(tmp_path, runs):
    mean = load_checkpoint(average_runs(runs, tmp_path / "mean")).tensors
    first, second = (load_checkpoint(path).tensors for path in (runs[0] / "final.safetensors", runs[1]))
    assert mean.keys() == first.keys()
    for name, tensor in mean.items():
        expected = (first[name] + second[name]) / 2 if tensor.is_floating_point() else first[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-7)


def test_average_of_one_run_is_that_run(tmp_path, runs):
    for name, tensor in load_checkpoint(average_runs(runs[:1], tmp_path / "same")).tensors.items():
        assert torch.equal(tensor, load_checkpoint(runs[0] / "final.safetensors").tensors[name])


def test_command_calibrates_again_and_makes_a_model_at_the_given_size(tmp_path, runs):
    args = ["average", *map(str, runs), "-o", str(tmp_path / "mean"), "--size", "48", "--name", "both"]
    assert run(args) == 0
    record = read_json(tmp_path / "mean" / "run.json")
    assert record["settings"]["view"]["size"] == 48
    assert [one["size"] for one in record["averaged"]] == [64, 64]
    assert record["settings"]["run"]["note"] == f"the mean of the weights of {SETTINGS.run.name} (2 runs)"
    assert record["temperature"] != 2.0
    predictor = Predictor(tmp_path / "mean" / "model.onnx")
    assert (predictor.info.name, predictor.info.view.size) == ("both", 48)
    image, mask = np.zeros((30, 40, 3), np.uint8), np.ones((1, 30, 40), bool)
    assert len(predictor.predict(image, mask)) == 1


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("network", {"merge": "add"}, "has another network"),
        ("schedule", {"seed": 1}, "has other initial weights"),
        ("data", {"holdout": 0.2}, "has other data"),
    ],
)
def test_refuses_runs_that_do_not_match(tmp_path, runs, settings, section, change, message):
    other = replace(settings, **{section: replace(getattr(settings, section), **change)})
    odd = tiny_checkpoint(tmp_path / "odd.safetensors", other)
    with pytest.raises(SettingsError, match=f"odd.safetensors: {message}"):
        average_runs([*runs, odd], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_refuses_a_run_that_has_not_ended(tmp_path, runs):
    unfinished = load_checkpoint(runs[1])
    state = {"optimiser.head.weight.step": torch.ones(1)}
    replace(unfinished, tensors=unfinished.tensors | state).save(tmp_path / "half.safetensors")
    with pytest.raises(SettingsError, match="has not ended; let it finish"):
        average_runs([*runs, tmp_path / "half.safetensors"], tmp_path / "mean")


def test_refuses_a_size_for_whole_images(tmp_path, settings):
    whole = replace(settings, view=ViewSettings(kind="whole"))
    path = tiny_checkpoint(tmp_path / "whole.safetensors", whole)
    with pytest.raises(SettingsError, match="do not give a size"):
        average_runs([path], tmp_path / "mean", size=96)


def test_refuses_no_runs_and_a_folder_that_is_one_of_them(tmp_path, runs):
    with pytest.raises(SettingsError, match="no run is given"):
        average_runs([], tmp_path / "mean")
    before = (runs[0] / "final.safetensors").read_bytes()
    with pytest.raises(SettingsError, match="would be overwritten"):
        average_runs(runs, runs[0])
    assert (runs[0] / "final.safetensors").read_bytes() == before


def test_names_a_held_out_image_that_cannot_be_read(tmp_path, runs, settings, coco_folder, capsys):
    held_out = read_data(settings.data).holdout
    images = sorted({region.image_path for region in held_out})
    assert len(images) > 2
    images[0].write_bytes(b"no image")
    average_runs(runs, tmp_path / "mean")
    assert images[0].name in capsys.readouterr().err
    assert [
        images[0].name in name for name in read_json(tmp_path / "mean" / "run.json")["skipped_images"]["names"]
    ] == [True]
