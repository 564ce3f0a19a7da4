"""Average the weights of several runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskwise import __version__
from maskwise.data.atomic_files import make_folder
from maskwise.errors import SettingsError
from maskwise.training.checkpoint import Checkpoint, load_checkpoint
from maskwise.training.data import read_data
from maskwise.training.distributed import make_accelerator
from maskwise.training.holdout import holdout_temperature, predict_holdout
from maskwise.training.loop import FINAL, load_network, save_final
from maskwise.training.settings import TrainSettings, drop_fallbacks
from maskwise.training.skipped import SkippedImages

RECORDED = ("seconds", "holdout_accuracy", "torch", "device", "precision")
"""Keys of each run's record that the average's record repeats."""


def average_runs(runs: Sequence[Path], folder: Path, *, size: int | None = None, name: str | None = None) -> Path:
    """Average the weights of runs that share initial weights and training images, then calibrate the mean.

    The mean of networks that were fine-tuned separately is often more accurate than each of them and costs no more than
    one. The crop size may change, even for a single run.

    Args:
        runs: run folders or checkpoints; settings and record come from the first.
        folder: run folder to write; made if missing.
        size: crop size, pixels (default: that of the first run).
        name: name of the model (default: that of the first run).

    Returns:
        Path of the checkpoint in the folder; `exporting.export_model` makes a model file from it.

    Raises:
        ModelError: a file is not a checkpoint.
        SettingsError: no run is given; a run has not ended; networks, initial weights, classes or data differ; a size
            is given for a whole-image model; or the folder is one of the runs.
        InputError: the folder cannot be written, or most of the held-out images cannot be read.

    Source:
        M. Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without
        increasing inference time, arXiv:2203.05482: the uniform soup.
    """
    if not runs:
        raise SettingsError("no run is given; give run folders, or their final.safetensors")
    if (folder / FINAL).resolve() in [_path(run).resolve() for run in runs]:
        raise SettingsError(f"{folder}: is one of the runs and would be overwritten; give another folder")
    checkpoints = load_matching_runs(runs)
    first = checkpoints[0]
    settings = first.settings
    if size is not None:
        if settings.view.kind == "whole":
            raise SettingsError(f"{runs[0]}: sees whole images at their own size; do not give a size")
        settings = replace(settings, view=replace(settings.view, size=size))
    names = Counter(one.settings.run.name for one in checkpoints)
    note = "the mean of the weights of " + ", ".join(
        name + (f" ({count} runs)" if count > 1 else "") for name, count in names.items()
    )
    settings = replace(settings, run=replace(settings.run, name=name or settings.run.name, note=note))
    mean = replace(first, settings=settings, tensors=mean_weights([one.tensors_under("model") for one in checkpoints]))
    make_folder(folder)
    return save_final(_calibrated(mean, checkpoints), folder)


def mean_weights(weights: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each tensor, named `model.NAME`; counts (integers) are taken from the first."""
    means = {}
    for name, tensor in weights[0].items():
        mean = torch.stack([one[name] for one in weights]).mean(dim=0) if tensor.is_floating_point() else tensor
        means[f"model.{name}"] = mean
    return means


def load_matching_runs(runs: Sequence[Path]) -> list[Checkpoint]:
    """Return the checkpoints of runs that can be averaged.

    Args:
        runs: run folders or checkpoints; at least one.

    Raises:
        ModelError: a file is not a checkpoint.
        SettingsError: a run has not ended, or differs from the first in network, initial weights, classes or data.
    """
    checkpoints = [load_checkpoint(_path(run)) for run in runs]
    for run, other in zip(runs, checkpoints, strict=True):
        _check_match(run, checkpoints[0], other)
    return checkpoints


def _path(run: Path) -> Path:
    return run / FINAL if run.is_dir() else run


def _check_match(run: Path, first: Checkpoint, other: Checkpoint) -> None:
    if other.tensors_under("optimiser"):
        raise SettingsError(f"{run}: has not ended; let it finish, then average its final.safetensors")
    matches = {
        "another network": first.settings.network == other.settings.network,
        "other initial weights": _initial_weights(first.settings) == _initial_weights(other.settings),
        "other classes": first.categories == other.categories,
        "other data": _training_data(first.settings) == _training_data(other.settings),
    }
    for difference, match in matches.items():
        if not match:
            raise SettingsError(f"{run}: has {difference} than the first run; only the training itself may differ")


def _initial_weights(settings: TrainSettings) -> tuple[str, int | None]:
    return drop_fallbacks(settings.weights), settings.schedule.seed if settings.weights == "random" else None


def _training_data(settings: TrainSettings) -> tuple[Any, ...]:
    data = settings.data
    return drop_fallbacks(data.data_root), data.sources, data.holdout


def _calibrated(mean: Checkpoint, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """Return the mean with temperature, held-out accuracy and record."""
    record = {
        **mean.record,
        "maskwise": __version__,
        "averaged": [
            {"size": one.settings.view.size, "seed": one.settings.schedule.seed, "steps": one.step}
            | {key: one.record[key] for key in RECORDED if key in one.record}
            for one in checkpoints
        ],
        "seconds": sum(one.record.get("seconds", 0) for one in checkpoints),
    }
    split = read_data(mean.settings.data)
    if not split.holdout:
        return replace(mean, record=record)
    accelerator = make_accelerator(mean.settings.run.device, bf16=False)
    outputs = predict_holdout(load_network(mean).to(accelerator.device), split, mean.settings, accelerator)
    skipped = SkippedImages(record.get("skipped_images"))
    skipped.report(outputs.skipped)
    record |= {"device": str(accelerator.device), "torch": torch.__version__, "precision": "no"}
    record |= {"skipped_images": skipped.record()}
    split = split.with_holdout(outputs.numbers.tolist())
    return replace(
        mean,
        temperature=holdout_temperature(outputs, split, mean.settings.data.class_power),
        record=record | {"holdout_accuracy": round(outputs.accuracy, 4)},
    )
