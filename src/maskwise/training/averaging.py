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
from maskwise.training.holdout import holdout_answers, temperature_of
from maskwise.training.loop import FINAL, network_of, save_final
from maskwise.training.settings import TrainSettings
from maskwise.training.skipped import SkippedImages

KEPT = ("seconds", "holdout_accuracy", "torch", "device", "precision")
"""What is noted of each run."""


def average_runs(runs: Sequence[Path], folder: Path, *, size: int | None = None, name: str | None = None) -> Path:
    """Average runs that began with the same weights and learned from the same images, and calibrate the mean.

    The mean of networks that were fine-tuned apart often names better than each of them, at the cost of one. It can
    also be shown regions at another size than the runs were: one run is enough then.

    Args:
        runs: run folders, or checkpoints; settings and record are the first one's.
        folder: run folder to write; made if missing.
        size: side of the square that the network sees, pixels; the first run's where left out.
        name: what the model is called; the first run's where left out.

    Returns:
        The checkpoint in the folder; `export.export_model` makes the model file of it.

    Raises:
        ModelError: not a checkpoint.
        SettingsError: no run; one that has not ended; networks, initial weights, classes or data that differ; a size
            for a model that sees whole images; or a folder that is one of the runs.
        InputError: the folder cannot be written, or most of the held-out images cannot be read.

    Source:
        M. Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without
        increasing inference time, arXiv:2203.05482: the uniform soup.
    """
    if not runs:
        raise SettingsError("no run is given; name run folders, or their final.safetensors")
    if (folder / FINAL).resolve() in [_path(run).resolve() for run in runs]:
        raise SettingsError(f"{folder}: is one of the runs, which would be written over; give another folder")
    checkpoints = load_alike(runs)
    first = checkpoints[0]
    settings = first.settings
    if size is not None:
        if settings.view.kind == "whole":
            raise SettingsError(f"{runs[0]}: sees whole images, which have sizes of their own; leave out the size")
        settings = replace(settings, view=replace(settings.view, size=size))
    names = Counter(one.settings.run.name for one in checkpoints)
    note = "the mean of the weights of " + ", ".join(
        name + (f" ({count} runs)" if count > 1 else "") for name, count in names.items()
    )
    settings = replace(settings, run=replace(settings.run, name=name or settings.run.name, note=note))
    mean = replace(first, settings=settings, tensors=mean_of([one.part("model") for one in checkpoints]))
    make_folder(folder)
    return save_final(_calibrated(mean, checkpoints), folder)


def mean_of(weights: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor, as `model.NAME`; of counts, which have no mean, the first."""
    means = {}
    for name, tensor in weights[0].items():
        mean = torch.stack([one[name] for one in weights]).mean(dim=0) if tensor.is_floating_point() else tensor
        means[f"model.{name}"] = mean
    return means


def load_alike(runs: Sequence[Path]) -> list[Checkpoint]:
    """The checkpoints of runs that can be averaged.

    Args:
        runs: run folders, or checkpoints; one at least.

    Raises:
        ModelError: not a checkpoint.
        SettingsError: a run has not ended, or has another network, initial weights, classes or data than the first.
    """
    checkpoints = [load_checkpoint(_path(run)) for run in runs]
    for run, other in zip(runs, checkpoints, strict=True):
        _check_alike(run, checkpoints[0], other)
    return checkpoints


def _path(run: Path) -> Path:
    return run / FINAL if run.is_dir() else run


def _check_alike(run: Path, first: Checkpoint, other: Checkpoint) -> None:
    here, there = first.settings, other.settings
    alike = {
        "another network": here.network == there.network,
        "other initial weights": _began_with(here) == _began_with(there),
        "other classes": first.categories == other.categories,
        "other data": _learned_from(first) == _learned_from(other),
    }
    if other.part("optimiser"):
        raise SettingsError(f"{run}: has not ended; let it, then average its final.safetensors")
    for difference, fits in alike.items():
        if not fits:
            raise SettingsError(f"{run}: has {difference}; runs can be averaged that differ in how they learned alone")


def _began_with(settings: TrainSettings) -> tuple[str, int | None]:
    return settings.weights, settings.schedule.seed if settings.weights == "random" else None


def _learned_from(checkpoint: Checkpoint) -> tuple[Any, ...]:
    data = checkpoint.settings.data
    return data.data_root, data.sources, data.holdout


def _calibrated(mean: Checkpoint, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The mean with its temperature, accuracy and record."""
    record = {
        **mean.record,
        "maskwise": __version__,
        "averaged": [
            {"size": one.settings.view.size, "seed": one.settings.schedule.seed, "steps": one.step}
            | {key: one.record[key] for key in KEPT if key in one.record}
            for one in checkpoints
        ],
        "seconds": sum(one.record.get("seconds", 0) for one in checkpoints),
    }
    split = read_data(mean.settings.data)
    if not split.holdout:
        return replace(mean, record=record)
    accelerator = make_accelerator(mean.settings.run.device, bf16=False)
    answers = holdout_answers(network_of(mean).to(accelerator.device), split, mean.settings, accelerator)
    skipped = SkippedImages(record.get("skipped_images"))
    skipped.name(answers.skipped)
    record |= {"device": str(accelerator.device), "torch": torch.__version__, "precision": "no"}
    record |= {"skipped_images": skipped.record()}
    split = split.holding(answers.numbers.tolist())
    return replace(
        mean,
        temperature=temperature_of(answers.logits, answers.targets, split, mean.settings.data.class_power),
        record=record | {"holdout_accuracy": round(answers.accuracy, 4)},
    )
