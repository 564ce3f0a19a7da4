"""Checkpoints: one safetensors file with everything needed to resume or export. Nothing is pickled."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from maskwise.data import atomic_files
from maskwise.data.atomic_files import whole_file
from maskwise.data.regions import Category
from maskwise.errors import ModelError
from maskwise.model.model_file import MAX_TEMPERATURE, MIN_TEMPERATURE
from maskwise.training.settings import TrainSettings, settings_from_dict, settings_to_dict

FORMAT = "maskwise-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """A run at a step.

    Attributes:
        settings: of the run.
        categories: the classes, in the order of the logits.
        step: optimiser steps done.
        temperature: calibrated at the end of the run; 1 before.
        record: what is known about the run: counts, versions, seconds.
        tensors: named `model.NAME`, `average.NAME` and `optimiser.PARAMETER.STATE`.
    """

    settings: TrainSettings
    categories: tuple[Category, ...]
    step: int
    temperature: float
    record: dict[str, Any]
    tensors: dict[str, Tensor]

    def tensors_under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with a prefix and a dot, named without them."""
        return {name.removeprefix(prefix + "."): t for name, t in self.tensors.items() if name.startswith(prefix + ".")}

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights to predict with: the moving average if there is one."""
        return self.tensors_under("average") or self.tensors_under("model")

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: it cannot be written, for example because the disk is full; an older file stays.
        """
        content = {
            "format": FORMAT,
            "settings": settings_to_dict(self.settings),
            "categories": [asdict(category) for category in self.categories],
            "step": self.step,
            "temperature": self.temperature,
            "record": self.record,
        }
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}
        write_tensors(path, tensors, {"maskwise": json.dumps(content)})


class _Record(msgspec.Struct):
    """What a checkpoint says of itself, besides its format."""

    settings: dict[str, Any]
    categories: Annotated[list[Category], msgspec.Meta(min_length=1)]
    step: Annotated[int, msgspec.Meta(ge=0)]
    temperature: Annotated[float, msgspec.Meta(ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)]
    record: dict[str, Any]


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        InputError: it cannot be written, for example because the disk is full.
    """
    with whole_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # Its name for what is an OSError elsewhere.
            raise OSError(str(error)) from error


def remove_leftovers(path: Path) -> None:
    """Remove temporary files beside a file of tensors that killed processes left."""
    atomic_files.remove_leftovers(path)
    for leftover in path.parent.glob(".tmp??????"):  # safetensors first writes a temporary file of its own.
        leftover.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ModelError: no such file, not safetensors, or not a checkpoint of Maskwise.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ModelError(f"{path}: is not a safetensors file ({error})") from error
    try:
        content = json.loads(metadata.get("maskwise", "{}"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its record is not JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelError(
            f"{path}: is not a Maskwise checkpoint; give a run folder's checkpoint.safetensors or final.safetensors"
        )
    try:
        record = msgspec.convert(content, type=_Record)
    except msgspec.ValidationError as error:
        raise ModelError(f"{path}: its record is malformed ({error})") from error
    return Checkpoint(
        settings=settings_from_dict(record.settings, str(path)),
        categories=tuple(record.categories),
        step=record.step,
        temperature=record.temperature,
        record=record.record,
        tensors=tensors,
    )


def optimiser_tensors(optimiser: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Return the optimiser's state as tensors named `PARAMETER.STATE`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    return {f"{names[p]}.{key}": value for p, state in optimiser.state.items() for key, value in state.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Restore the optimiser's state from the tensors of `optimiser_tensors`."""
    parameters = dict(network.named_parameters())
    for name, value in tensors.items():
        parameter, key = name.rsplit(".", 1)
        like = parameters[parameter]
        # Fused optimisers need the parameter's own memory format: they go through both by address, not by index.
        restored = torch.empty_like(like, dtype=value.dtype).copy_(value) if value.shape == like.shape else value
        optimiser.state[like][key] = restored.to(like.device)


def unwrapped_optimiser(optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return torch's optimiser from inside accelerate's wrapper."""
    return optimiser.optimizer if isinstance(optimiser, AcceleratedOptimizer) else optimiser
