import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from maskwise.data.regions import Category
from maskwise.errors import MaskwiseError, ModelError
from maskwise.training import checkpoint as checkpoints
from maskwise.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimiser_tensors,
    restore_optimiser,
    write_tensors,
)
from maskwise.training.loop import load_network
from maskwise.training.settings import NetworkSettings, settings_from_dict


@pytest.fixture
def checkpoint():
    torch.manual_seed(0)
    source = {"images": "a", "label_maps": "b", "ignore": ["c"], "rename": {"sofa": "couch"}}
    return Checkpoint(
        settings=settings_from_dict({"network": {"sites": ["layer1"]}, "data": {"sources": [source]}}, "here"),
        categories=(Category(1, "person"), Category(90, "zahnbürste")),
        step=12,
        temperature=1.25,
        record={"seconds": 7, "device": "cpu"},
        tensors={
            "model.a.b": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
            "optimiser.a.b.step": torch.tensor(3.0),
        },
    )


def test_checkpoint_survives(tmp_path, checkpoint):
    checkpoint.save(tmp_path / "c.safetensors")
    loaded = load_checkpoint(tmp_path / "c.safetensors")
    for name in ("settings", "categories", "step", "temperature", "record"):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    assert loaded.settings.network == NetworkSettings(sites=("layer1",))
    assert loaded.settings.data.sources[0].rename == {"sofa": "couch"}
    assert loaded.tensors.keys() == checkpoint.tensors.keys()
    for name, tensor in loaded.tensors.items():
        torch.testing.assert_close(tensor, checkpoint.tensors[name], rtol=0, atol=0)


def test_weights_are_the_moving_average_if_there_is_one(checkpoint):
    assert checkpoint.weights.keys() == {"a.b"}
    checkpoint.tensors["average.a.b"] = torch.ones(1)
    assert checkpoint.weights["a.b"].tolist() == [1]
    assert checkpoint.tensors_under("optimiser").keys() == {"a.b.step"}


def test_refuses_what_is_no_checkpoint(tmp_path):
    with pytest.raises(ModelError, match=r"none\.safetensors: no such checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")
    torch.save({"model": torch.zeros(3)}, tmp_path / "pickle.safetensors")
    (tmp_path / "garbage.safetensors").write_bytes(bytes(range(256)))
    (tmp_path / "empty.safetensors").touch()
    for name in ("pickle", "garbage", "empty"):
        with pytest.raises(ModelError, match=rf"{name}\.safetensors: is not a safetensors file"):
            load_checkpoint(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    "metadata", [None, {"maskwise": json.dumps({"format": "maskwise-checkpoint-0"})}, {"other": "x"}]
)
def test_refuses_safetensors_of_others(tmp_path, metadata):
    save_file({"a": torch.zeros(1)}, tmp_path / "c.safetensors", metadata=metadata)
    with pytest.raises(ModelError, match=r"c\.safetensors: is not a Maskwise checkpoint"):
        load_checkpoint(tmp_path / "c.safetensors")


def test_cut_checkpoint_is_refused(tmp_path, checkpoint):
    checkpoint.save(tmp_path / "c.safetensors")
    content = (tmp_path / "c.safetensors").read_bytes()
    (tmp_path / "c.safetensors").write_bytes(content[:-40])
    with pytest.raises(ModelError, match="is not a safetensors file"):
        load_checkpoint(tmp_path / "c.safetensors")


@pytest.mark.parametrize("when", ["writing", "renaming"])
def test_interrupted_write_leaves_the_old_file(tmp_path, checkpoint, monkeypatch, when):
    checkpoint.save(tmp_path / "c.safetensors")
    before = (tmp_path / "c.safetensors").read_bytes()

    def half(_tensors, path, **_more):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    def stop(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(*((checkpoints, "save_file", half) if when == "writing" else (os, "replace", stop)))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "c.safetensors")
    assert (tmp_path / "c.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def trained(network, optimiser, steps, seed):
    torch.manual_seed(seed)
    for _ in range(steps):
        network(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()


def test_restored_optimiser_continues_as_if_never_stopped():
    """Uses the memory format of training, in which fused optimisers go through tensors by address."""

    def start():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3)).to(memory_format=torch.channels_last)
        return network, torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)

    network, optimiser = start()
    trained(network, optimiser, 3, seed=1)
    tensors = {
        name: t.clone(memory_format=torch.contiguous_format)
        for name, t in optimiser_tensors(optimiser, network).items()
    }
    resumed, its_optimiser = start()
    resumed.load_state_dict(network.state_dict())
    restore_optimiser(its_optimiser, resumed, tensors)
    trained(network, optimiser, 2, seed=2)
    trained(resumed, its_optimiser, 2, seed=2)
    for one, other in zip(resumed.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": -1}, r"its record is malformed .*step"),
        ({"step": "1"}, r"its record is malformed .*step"),
        ({"temperature": 0}, r"its record is malformed .*temperature"),
        ({"categories": []}, r"its record is malformed .*categories"),
        ({"categories": [{"id": 1}]}, r"its record is malformed .*name"),
        ({"settings": {"network": {"trunc": "x"}}}, "trunc"),
        ({"settings": None}, r"its record is malformed .*settings"),
        ({"record": []}, r"its record is malformed .*record"),
        ({"format": "other"}, "is not a Maskwise checkpoint"),
    ],
)
def test_a_malformed_record_is_refused_by_field(tmp_path, checkpoint, changes, message):
    checkpoint.save(tmp_path / "c.safetensors")
    with safe_open(tmp_path / "c.safetensors", framework="pt") as file:
        content = json.loads(file.metadata()["maskwise"])
    write_tensors(tmp_path / "c.safetensors", {"a": torch.zeros(1)}, {"maskwise": json.dumps({**content, **changes})})
    with pytest.raises(MaskwiseError, match=message):
        load_checkpoint(tmp_path / "c.safetensors")


def test_a_record_that_is_no_json_is_refused(tmp_path):
    for text in ("{", "[]", "[" * 100_000):
        write_tensors(tmp_path / "c.safetensors", {"a": torch.zeros(1)}, {"maskwise": text})
        with pytest.raises(ModelError):
            load_checkpoint(tmp_path / "c.safetensors")


def test_weights_that_do_not_fit_the_settings_are_refused(checkpoint):
    with pytest.raises(ModelError, match="weights do not fit its own settings"):
        load_network(checkpoint)
