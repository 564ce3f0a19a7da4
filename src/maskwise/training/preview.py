"""Preview a run before training: a contact sheet of samples, and numbers that reveal mistakes."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch

from maskwise.data.atomic_files import make_folder
from maskwise.model.predictor import Predictor
from maskwise.reports.contact_sheet import Tile, make_contact_sheet
from maskwise.reports.drawing import write_picture
from maskwise.training.batches import NO_CLASS
from maskwise.training.builder import build_network
from maskwise.training.data import ResumableBatchSampler, Split, TrainingRegions, read_data
from maskwise.training.loop import probe_size
from maskwise.training.optimiser import check_frozen, set_training_mode
from maskwise.training.settings import TrainSettings, expand_variables

PICTURE = "dry-run.png"
SAMPLES_SHOWN = 10
"""Samples on the contact sheet: the first of the run."""


def dry_run(settings: TrainSettings, folder: Path) -> tuple[Path, list[str]]:
    """Draw the first samples of a run exactly as the network would get them, and count regions, steps and parameters.

    Loads no weights; `check_files` does.

    Args:
        settings: of the whole run.
        folder: run folder; made if missing. Gets the picture and nothing else.

    Returns:
        The path of the picture, and lines of text.

    Raises:
        SettingsError: the settings do not fit each other or the data.
        InputError: the folder cannot be made or written to.
        AnnotationError, ImageError, MaskError: the data cannot be used.
    """
    split = read_data(settings.data)
    lines = [_region_line(split), _step_line(split, settings), _parameter_line(split, settings), *_empty_classes(split)]
    path = make_folder(folder) / PICTURE
    write_picture(path, make_contact_sheet(first_samples(split, settings)))
    return path, lines


def check_files(settings: TrainSettings) -> None:
    """Load the weights and the teacher if they are files. Downloads nothing.

    Raises:
        SettingsError: see `build_network`.
        ModelError: a file is missing or does not fit.
    """
    if settings.weights not in ("timm", "random"):
        build_network(settings.network, classes=1, weights=settings.weights, probe_size=probe_size(settings))
    if settings.teacher.model:
        Predictor(Path(expand_variables(settings.teacher.model, setting="teacher.model")))


def first_samples(split: Split, settings: TrainSettings, count: int = SAMPLES_SHOWN) -> list[Tile]:
    """Return the first samples of a run, in order; each caption has class, image file and size."""
    samples = TrainingRegions(split, settings)
    tiles = []
    for request in islice(chain.from_iterable(ResumableBatchSampler(settings, 0)), count):
        pixels, coverage, target, number, *_ = samples[request]
        size = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
        name = "blank, no class" if target == NO_CLASS else split.names[target]
        tiles.append(Tile(pixels, coverage, (name, split.train[number].image_path.name, size)))
    return tiles


def _region_line(split: Split) -> str:
    images = len(np.union1d(split.train.image, split.holdout.image))
    return (
        f"{len(split.train):,} regions to train on, {len(split.holdout):,} held out;"
        f" {len(split.categories)} classes; {images:,} images"
    )


def _step_line(split: Split, settings: TrainSettings) -> str:
    """Say how long the run is. Batches of windows may be smaller than the recipe's batch size."""
    schedule, at_most = settings.schedule, "at most " if settings.window.enabled else ""
    epochs = schedule.steps * schedule.batch_size / len(split.train)
    return (
        f"{schedule.steps:,} steps of {at_most}{schedule.batch_size} samples:"
        f" {at_most}{epochs:,.1f} epochs of {len(split.train):,} samples"
    )


def _parameter_line(split: Split, settings: TrainSettings) -> str:
    with torch.device("meta"):  # Shapes without values: needs no weights and no time.
        network = build_network(
            settings.network,
            classes=len(split.categories),
            probe_size=probe_size(settings),
            crops=len(settings.view.crops),
            known=split.nothing is not None,
        )
    check_frozen(network, settings)
    schedule = settings.schedule
    set_training_mode(network, head_only=schedule.head_steps >= schedule.steps, frozen=schedule.frozen)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return f"{trained:,} of {sum(p.numel() for p in network.parameters()):,} parameters are trained"


def _empty_classes(split: Split) -> list[str]:
    seen = split.train.counts()
    missing = [name for name in split.names if name not in seen]
    return [f"classes without a region to train on: {', '.join(missing)}"] if missing else []
