"""Import the weight files that the author of the method published.

They are dictionaries of tensors written by `torch.save`; only tensors are unpickled. Names and shapes of the tensors
decide which network they belong to.

Source:
    S. Eppel, arXiv:1812.00291 and arXiv:1908.09108, and the weight files published with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from maskwise.data.regions import Category
from maskwise.errors import ModelError, SettingsError
from maskwise.training.builder import build_network
from maskwise.training.checkpoint import Checkpoint
from maskwise.training.settings import NetworkSettings, RunSettings, ScheduleSettings, TrainSettings
from maskwise.views.view import ViewSettings

ALL_SITES = ("conv1", "layer1", "layer2", "layer3", "layer4")
WIDTHS = (64, 256, 512, 1024, 2048)
"""Channels at those sites."""
EXPECTED = (
    "Net.conv1.weight ... Net.fc.bias of a torchvision ResNet-50 or ResNet-101, and as branch either"
    " ValeLayers.K.weight and .bias (K from 0), Attentionlayer.weight and .bias, or AttentionROI.weight and .bias"
)


@dataclass(frozen=True)
class _Branch:
    """Layout of a file's attention branch.

    Attributes:
        settings: of the network with this branch.
        names: our names of the file's layers.
    """

    settings: NetworkSettings
    names: dict[str, str]


def import_weights(
    path: Path, *, names: tuple[str, ...] | None = None, merge: Literal["multiply", "add"] | None = None
) -> Checkpoint:
    """Read a published weight file as a checkpoint.

    Args:
        path: the file.
        names: of the classes, in the order of its logits (default: numbers).
        merge: needed for files with `ValeLayers` and one layer per site, which do not say how they merge. None for
            other files.

    Raises:
        SettingsError: merge is needed and missing, or is given and not needed.
        ModelError: the file has something other than tensors, or another layout; the message says what was expected and
            found. Or the number of names is wrong.
    """
    tensors = read_tensors(path)
    branch = _branch(tensors, merge, path)
    if merge not in (None, branch.settings.merge) or (merge == "add" and "ValeLayers.0" not in branch.names):
        raise SettingsError(f"{path}: its branch is known: {branch.settings.merge}; do not give merge")
    weights = {_our_name(name, branch): tensor.float() for name, tensor in tensors.items()}
    classes = tensors["Net.fc.bias"].numel() if "Net.fc.bias" in tensors else 0
    _check_fit(path, weights, branch.settings, classes)
    if names is not None and len(names) != classes:
        raise ModelError(f"{path}: has {classes} classes, but {len(names)} names were given")
    names = names or tuple(f"class {index}" for index in range(classes))
    return Checkpoint(
        settings=TrainSettings(
            network=branch.settings,
            weights="random",
            view=ViewSettings(kind="whole"),
            schedule=ScheduleSettings(batch_size=1),
            run=RunSettings(name=path.stem, export="fp16"),
        ),
        categories=tuple(Category(index, name) for index, name in enumerate(names)),
        step=0,
        temperature=1.0,
        record={"imported_from": path.name},
        tensors={f"model.{name}": tensor for name, tensor in weights.items()},
    )


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a dictionary written by `torch.save`.

    Raises:
        ModelError: there is no such file, or it is not a dictionary of tensors only.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # For damaged bytes torch raises many kinds of errors.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path}: is not a file of tensors only, and nothing else is unpickled; give a state dict written by"
            f" torch.save ({reason})"
        ) from error
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not named or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path}: has a {type(content).__name__}, not a dictionary of tensors; give a state dict")
    return cast("dict[str, Tensor]", content)


def _branch(tensors: Mapping[str, Tensor], merge: Literal["multiply", "add"] | None, path: Path) -> _Branch:
    trunk = "resnet101" if "Net.layer3.22.conv1.weight" in tensors else "resnet50"
    layers = sorted(
        (match[1] for name in tensors if (match := re.fullmatch(r"((?!Net\.).*)\.weight", name))),
        key=lambda layer: int(layer.rpartition(".")[2]) if layer.rpartition(".")[2].isdigit() else 0,
    )
    if layers == ["AttentionROI"]:
        settings = _settings(trunk, ("conv1",), "add", initial="default", branch_stride=2)
        return _Branch(settings, {"AttentionROI": "branch.0.add"})
    if layers == ["Attentionlayer"]:
        settings = _settings(trunk, ("conv1",), "add", initial="add_ones")
        return _Branch(settings, {"Attentionlayer": "branch.0.add"})
    if layers and layers == [f"ValeLayers.{number}" for number in range(len(layers))]:
        widths = tuple(len(tensors[f"{layer}.weight"]) if tensors[f"{layer}.weight"].ndim else 0 for layer in layers)
        for sites in (("conv1",), ALL_SITES):
            once = WIDTHS[: len(sites)]
            if widths == once:
                if merge is None:
                    raise SettingsError(
                        f"{path}: does not say whether its branch multiplies or adds; give --merge multiply"
                        " (COCO's first release) or --merge add (materials)"
                    )
                named = {layer: f"branch.{number}.{merge}" for number, layer in enumerate(layers)}
                return _Branch(_settings(trunk, sites, merge), named)
            if widths == tuple(width for width in once for _ in range(2)):
                kinds = ("multiply", "add")
                named = {layer: f"branch.{number // 2}.{kinds[number % 2]}" for number, layer in enumerate(layers)}
                return _Branch(_settings(trunk, sites, "both"), named)
    raise _unknown(path, tensors)


def _settings(
    trunk: str, sites: tuple[str, ...], merge: Literal["multiply", "add", "both"], **more: Any
) -> NetworkSettings:
    return NetworkSettings(trunk=trunk, sites=sites, merge=merge, normalisation="published", **more)


def _our_name(name: str, branch: _Branch) -> str:
    if name.startswith("Net.fc."):
        return name.replace("Net.fc.", "head.")
    if name.startswith("Net."):
        return name.replace("Net.", "trunk.", 1)
    layer, _, kind = name.rpartition(".")
    return f"{branch.names.get(layer, layer)}.{kind}"


def _check_fit(path: Path, weights: dict[str, Tensor], settings: NetworkSettings, classes: int) -> None:
    """Refuse weights that do not fit. Add batch counts, which files of old torch versions lack."""
    with torch.device("meta"):
        wanted = build_network(settings, classes=max(classes, 1), probe_size=64).state_dict()
    for name, tensor in wanted.items():
        if name.endswith(".num_batches_tracked"):
            weights.setdefault(name, torch.zeros((), dtype=torch.int64))
            weights[name] = weights[name].to(tensor.dtype)
    if weights.keys() != wanted.keys() or any(weights[name].shape != t.shape for name, t in wanted.items()):
        raise _unknown(path, weights, wanted)


def _unknown(path: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor] | None = None) -> ModelError:
    if wanted is None:
        return ModelError(f"{path}: has an unknown layout. Expected {EXPECTED}. Found {_listed(tensors)}")
    missing, unknown = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    return ModelError(
        f"{path}: does not fit its layout, {EXPECTED}. In our names: missing {missing[:5]}, unknown {unknown[:5]},"
        f" wrong shape {misshapen[:5]}"
    )


def _listed(tensors: Mapping[str, Tensor]) -> str:
    outside = [name for name in tensors if not name.startswith("Net.")]
    shown = [f"{name} {tuple(tensors[name].shape)}" for name in outside[:8]]
    return f"{len(tensors) - len(outside)} tensors under Net. and {len(outside)} others: {', '.join(shown) or 'none'}"
