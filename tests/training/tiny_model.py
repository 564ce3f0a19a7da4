"""A model file small enough to make in every test run: a random network of a few thousand weights."""

from pathlib import Path

import torch

from maskwise.data.regions import Category
from maskwise.training.builder import build_network
from maskwise.training.checkpoint import Checkpoint
from maskwise.training.exporting import export_model
from maskwise.training.settings import (
    DataSettings,
    NetworkSettings,
    RunSettings,
    ScheduleSettings,
    SourceSettings,
    TrainSettings,
)
from maskwise.views.view import ViewSettings

CATEGORIES = (Category(1, "person"), Category(18, "dog"), Category(47, "cup"))
SETTINGS = TrainSettings(
    network=NetworkSettings(trunk="test_resnet", sites=("conv1",), merge="both", pool="mask"),
    weights="random",
    view=ViewSettings(size=64),
    data=DataSettings(sources=(SourceSettings(images="unused", annotations="unused.json"),), workers=0),
    schedule=ScheduleSettings(batch_size=1),
    run=RunSettings(name="tiny"),
)


def tiny_checkpoint(path: Path, settings: TrainSettings = SETTINGS, *, seed: int = 0) -> Path:
    """Write a checkpoint of a random network whose head is large enough that predictions differ."""
    torch.manual_seed(seed)
    crops = len(settings.view.crops)
    network = build_network(settings.network, classes=len(CATEGORIES), probe_size=64, crops=crops)
    torch.nn.init.normal_(network.head.weight, std=1.0)
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    Checkpoint(settings, CATEGORIES, 0, 2.0, {"regions_train": 3}, tensors).save(path)
    return path


def tiny_model(folder: Path, settings: TrainSettings = SETTINGS, *, seed: int = 0) -> Path:
    """Write a checkpoint and its model file; return the model file's path."""
    export_model(
        tiny_checkpoint(folder / f"tiny-{seed}.safetensors", settings, seed=seed), folder / f"tiny-{seed}.onnx", "fp32"
    )
    return folder / f"tiny-{seed}.onnx"
