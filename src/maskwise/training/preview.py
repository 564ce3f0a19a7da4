"""Preview a run before it costs anything: a picture of samples, and numbers that reveal a mistake."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch

from maskwise.data.atomic_files import make_folder
from maskwise.model.predictor import Predictor
from maskwise.reports.contact_sheet import Tile, make_contact_sheet, write_picture
from maskwise.training.batches import NOTHING
from maskwise.training.builder import build_network
from maskwise.training.data import Draws, Split, TrainingRegions, read_data
from maskwise.training.loop import probe_size
from maskwise.training.optimiser import check_frozen, set_mode
from maskwise.training.settings import TrainSettings, expand

PICTURE = "dry-run.png"
SHOWN = 10
"""As many samples are drawn, the first of the run."""


def dry_run(settings: TrainSettings, folder: Path) -> tuple[Path, list[str]]:
    """Draw the first samples of a run, exactly as the network would get them, and count what there is.

    Needs no weights: see `check_files`.

    Args:
        settings: of the whole run.
        folder: the run's; made if missing. The picture is written into it, nothing else.

    Returns:
        The picture's path, and lines of facts.

    Raises:
        SettingsError: settings that do not fit each other or the data.
        InputError: the folder cannot be made or written to.
        AnnotationError, ImageError, MaskError: data that cannot be used.
    """
    split = read_data(settings.data)
    facts = [_counts(split), _work(split, settings), _learning(split, settings), *_unseen(split)]
    path = make_folder(folder) / PICTURE
    write_picture(path, make_contact_sheet(first_samples(split, settings)))
    return path, facts


def check_files(settings: TrainSettings) -> None:
    """Load the weights and the teacher, if they are files; nothing is downloaded.

    Raises:
        SettingsError: see `build_network`.
        ModelError: a file is missing or does not fit.
    """
    if settings.weights not in ("timm", "random"):
        build_network(settings.network, classes=1, weights=settings.weights, probe_size=probe_size(settings))
    if settings.teacher.model:
        Predictor(Path(expand(settings.teacher.model)))


def first_samples(split: Split, settings: TrainSettings, count: int = SHOWN) -> list[Tile]:
    """The first samples of a run, in the order of its batches; under each its class, image file and size."""
    samples = TrainingRegions(split, settings)
    tiles = []
    for draw in islice(chain.from_iterable(Draws(settings, 0)), count):
        pixels, coverage, target, number, *_ = samples[draw]
        size = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
        name = "nothing to name" if target == NOTHING else split.names[target]
        tiles.append(Tile(pixels, coverage, (name, split.train[number].image_path.name, size)))
    return tiles


def _counts(split: Split) -> str:
    images = len(np.union1d(split.train.image, split.holdout.image))
    return (
        f"{len(split.train):,} regions to learn from, {len(split.holdout):,} held out;"
        f" {len(split.categories)} classes; {images:,} images"
    )


def _work(split: Split, settings: TrainSettings) -> str:
    """How long the run is. Batches of windows may be smaller than the recipe says."""
    schedule, at_most = settings.schedule, "at most " if settings.window.enabled else ""
    epochs = schedule.steps * schedule.batch_size / len(split.train)
    return (
        f"{schedule.steps:,} steps of {at_most}{schedule.batch_size} samples:"
        f" {at_most}{epochs:,.1f} epochs of {len(split.train):,} samples"
    )


def _learning(split: Split, settings: TrainSettings) -> str:
    with torch.device("meta"):  # Shapes without values: no weights are needed, and no time.
        network = build_network(settings.network, classes=len(split.categories), probe_size=probe_size(settings))
    check_frozen(network, settings)
    schedule = settings.schedule
    set_mode(network, head_only=schedule.head_steps >= schedule.steps, frozen=schedule.frozen)
    learn = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return f"{learn:,} of {sum(p.numel() for p in network.parameters()):,} parameters learn"


def _unseen(split: Split) -> list[str]:
    seen = split.train.counts()
    missing = [name for name in split.names if name not in seen]
    return [f"without a region to learn from: {', '.join(missing)}"] if missing else []
