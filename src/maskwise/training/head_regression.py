"""Fit a network's head by logistic regression on the embeddings of its training regions."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import accelerate
import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from maskwise.errors import ImageError, InputError
from maskwise.tasks.known_heads import fit_known
from maskwise.tasks.linear_heads import fit_head
from maskwise.training.batches import Sample, UnreadableImage, read_batches
from maskwise.training.checkpoint import write_tensors
from maskwise.training.data import Split, TrainingRegions, UnaugmentedRegions
from maskwise.training.network import RegionClassifier
from maskwise.training.settings import TrainSettings

Samples = torch.utils.data.Dataset[Sample | UnreadableImage]
EMBEDDINGS = "embeddings"
"""Beginning of the names of the files of embeddings in a run folder."""
MIN_STD = 1e-6
"""Embeddings that vary less than this are constant."""


def fit_network_head(
    network: RegionClassifier, split: Split, settings: TrainSettings, accelerator: accelerate.Accelerator, folder: Path
) -> dict[str, float]:
    """Standardise the embeddings of a network over the training regions, and fit its head to them.

    Args:
        network: changed in place; its pool is `layers`.
        split: has the regions.
        settings: of the run; `schedule.head_c` and `schedule.head_copies` say how.
        accelerator: device and precision.
        folder: run folder; it keeps the embeddings, so that an interrupted run need not compute them again.

    Returns:
        For the record: regions, and seconds of each part.

    Raises:
        InputError: most images cannot be read.
    """
    start = time.monotonic()
    embeddings, targets, nothing = _embed_all(network, split, settings, accelerator, folder)
    embedded = time.monotonic()
    mean, std = embeddings.mean(dim=0), embeddings.std(dim=0, correction=0).clamp(min=MIN_STD)
    standard = ((embeddings - mean) / std).numpy()
    present, dense = np.unique(targets.numpy(), return_inverse=True)
    head = fit_head("linear", settings.schedule.head_c, standard, dense)
    with torch.no_grad():
        network.embedding_mean.copy_(mean.reshape(network.crops, -1))
        network.embedding_std.copy_(std.reshape(network.crops, -1))
        network.head.weight.zero_()
        network.head.bias.fill_(float(head.bias.min()) - 10)  # Classes without a region are never named.
        network.head.weight[present] = torch.from_numpy(head.weight).float()
        network.head.bias[present] = torch.from_numpy(head.bias).float()
    if network.known_head is not None:
        weight, bias = fit_known(standard, ((nothing - mean) / std).numpy(), settings.schedule.head_c)
        with torch.no_grad():
            network.known_head.weight.copy_(torch.from_numpy(weight)[None])
            network.known_head.bias.fill_(bias)
    return {
        "head_regions": len(targets),
        "head_nothing": len(nothing),
        "head_embed_seconds": round(embedded - start),
        "head_fit_seconds": round(time.monotonic() - embedded),
    }


def _embed_all(
    network: RegionClassifier, split: Split, settings: TrainSettings, accelerator: accelerate.Accelerator, folder: Path
) -> tuple[Float[Tensor, "n d"], Int64[Tensor, " n"], Float[Tensor, "m d"]]:
    """Return embeddings and classes of the training regions, and the embeddings of regions of no class."""

    def embed(name: str, samples: Samples, *key: object) -> tuple[Tensor, Tensor]:
        path = folder / f"{EMBEDDINGS}-{name}.safetensors"
        text = " ".join(map(repr, (settings.weights, settings.network, settings.view, *key)))
        return _cached(path, text, lambda: _embed(network, samples, settings, accelerator, name))

    plain, schedule = replace(split, nothing=None).digest(), settings.schedule
    rows = [embed("plain", UnaugmentedRegions(split.train, settings.view, split.categories), plain)]
    for copy in range(1, schedule.head_copies + 1):
        key = (settings.augment, schedule.seed, plain)
        rows.append(embed(f"copy-{copy}", AugmentedCopies(split, settings, copy), *key))
    embeddings, targets = (torch.cat(parts) for parts in zip(*rows, strict=True))
    if 2 * len(targets) < len(split.train) * len(rows):
        raise InputError(
            f"most images cannot be read: {len(targets)} of {len(split.train) * len(rows)} regions could be embedded;"
            " repair the data, then start again"
        )
    nothing = torch.zeros(0, embeddings.shape[1])
    if split.nothing is not None:
        nothing, _ = embed("nothing", UnaugmentedRegions(split.nothing, settings.view, None), split.digest())
    return embeddings, targets, nothing


def _cached(path: Path, key: str, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return embeddings and targets from a file, or make and keep them."""
    key = hashlib.sha256(key.encode()).hexdigest()
    if path.is_file():
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("key") == key:
                    return file.get_tensor("embeddings"), file.get_tensor("targets")
        except SafetensorError:  # Another program's file, or a damaged one: make it again.
            pass
    embeddings, targets = make()
    write_tensors(path, {"embeddings": embeddings, "targets": targets}, {"key": key})
    return embeddings, targets


class AugmentedCopies(torch.utils.data.Dataset[Sample | UnreadableImage]):
    """One augmented copy of every training region, in order."""

    def __init__(self, split: Split, settings: TrainSettings, copy: int) -> None:
        self.samples = TrainingRegions(split, settings)
        self.copy = copy

    def __len__(self) -> int:
        return len(self.samples.regions)

    def __getitem__(self, number: int) -> Sample | UnreadableImage:
        rng = np.random.default_rng((self.samples.settings.schedule.seed, 2, self.copy, number))
        try:
            return self.samples.augmented(number, rng)
        except ImageError as error:
            return UnreadableImage(str(self.samples.regions[number].image_path), str(error))


def _embed(
    network: RegionClassifier,
    samples: Samples,
    settings: TrainSettings,
    accelerator: accelerate.Accelerator,
    name: str,
) -> tuple[Float[Tensor, "n d"], Int64[Tensor, " n"]]:
    """Return embeddings and class indices of samples; embeddings of several crops stand side by side."""
    batches = read_batches(samples, settings.data.workers, batch_size=settings.schedule.batch_size)
    embeddings, targets = [], []
    network.eval()
    progress = tqdm(total=len(samples), desc=f"embed {name}", unit=" regions", mininterval=2)  # type: ignore[arg-type]
    with progress, torch.no_grad(), accelerator.autocast():
        for made in batches:
            batch = made.to(accelerator.device)
            rows = network.embed(batch.images, batch.masks, batch.image_of, batch.crop_of).float().cpu()
            embeddings.append(torch.cat(rows.chunk(network.crops), dim=1))
            targets.append(made.targets)
            progress.update(len(made.targets))
    return torch.cat(embeddings), torch.cat(targets)
