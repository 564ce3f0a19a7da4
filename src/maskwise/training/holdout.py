"""Predict the held-out set during training, for validation and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import accelerate
import torch
from accelerate.utils import gather_object
from jaxtyping import Float, Int64
from torch import Tensor, nn

from maskwise.data.regions import LabelledRegion
from maskwise.errors import InputError
from maskwise.tasks.calibration import fit_temperature
from maskwise.tasks.known_heads import KEPT
from maskwise.tasks.metrics import micro_accuracy
from maskwise.training.batches import UnreadableImage, read_batches
from maskwise.training.data import Split, UnaugmentedRegions
from maskwise.training.network import RegionClassifier
from maskwise.training.settings import TrainSettings


@dataclass(frozen=True)
class HeldOutOutputs:
    """Outputs of a network on held-out regions.

    Attributes:
        logits: one row per region whose image can be read.
        targets: class indices of their true names.
        numbers: their indices among the given regions, ascending.
        skipped: images that cannot be read.
    """

    logits: Float[Tensor, "n classes"]
    targets: Int64[Tensor, " n"]
    numbers: Int64[Tensor, " n"]
    skipped: tuple[UnreadableImage, ...]

    @property
    def accuracy(self) -> float:
        """Micro accuracy, 0 to 1."""
        return micro_accuracy(self.logits.argmax(dim=1).numpy(), self.targets.numpy())


class LogitsAndKnown(nn.Module):
    """A network whose output has a last column: the logit that a region is one of the classes at all."""

    def __init__(self, network: RegionClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, images: Tensor, masks: Tensor, image_of: Tensor | None = None, crop_of: Tensor | None = None
    ) -> Tensor:
        """Return logits of the classes, then that column; arguments as in `RegionClassifier.forward`."""
        embeddings = self.network.embed(images, masks, image_of, crop_of)
        known = self.network.tell_known(embeddings, crop_of)
        return torch.cat([self.network.classify(embeddings, crop_of), known[:, None]], dim=1)


def split_known(outputs: HeldOutOutputs, classes: int) -> tuple[HeldOutOutputs, float | None]:
    """Return outputs without the column of `LogitsAndKnown`, and the limit that keeps 97 % of the held-out regions.

    Args:
        outputs: with the column, or without; then there is no limit.
        classes: number of classes.
    """
    if outputs.logits.shape[1] == classes:
        return outputs, None
    known = torch.sigmoid(outputs.logits[:, classes])
    return replace(outputs, logits=outputs.logits[:, :classes]), round(known.quantile(1 - KEPT).item(), 4)


def holdout_temperature(outputs: HeldOutOutputs, split: Split, class_power: float) -> float:
    """Return the temperature that makes the true names of held-out regions most likely, classes weighted as sampled.

    Args:
        outputs: of every held-out region of the split, in order.
        split: with only the regions that have outputs (`Split.with_holdout`).
        class_power: `DataSettings.class_power`.
    """
    weights = split.calibration_weights(class_power)
    return fit_temperature(outputs.logits.numpy(), outputs.targets.numpy(), weights.numpy())


def predict_holdout(
    network: nn.Module, split: Split, settings: TrainSettings, accelerator: accelerate.Accelerator | None = None
) -> HeldOutOutputs:
    """Return the outputs on the held-out set. Several processes share the work, and each gets all outputs.

    `skipped` has only the images that this process could not read.

    Args:
        network: takes images and masks.
        split: has the regions.
        settings: of the run: view, batch size, workers.
        accelerator: device and precision (default: CPU, float32). If it has several processes, all must call this.

    Raises:
        InputError: most of the images cannot be read.
    """
    index, count = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    share = split.holdout[index::count]
    own = predict_regions(network, share, split, settings, accelerator)
    shares = [(own.logits, own.targets, own.numbers * count + index)]
    if count > 1:
        shares = gather_object(shares)
    logits, targets, numbers = (torch.cat(each) for each in zip(*shares, strict=True))
    if 2 * len(numbers) < len(split.holdout):
        raise InputError(
            f"most held-out images cannot be read: those of {len(split.holdout) - len(numbers)} of"
            f" {len(split.holdout)} regions; repair the data, then start again"
        )
    order = numbers.argsort()
    return HeldOutOutputs(logits[order], targets[order], numbers[order], own.skipped)


def predict_regions(
    network: nn.Module,
    regions: Sequence[LabelledRegion],
    split: Split,
    settings: TrainSettings,
    accelerator: accelerate.Accelerator | None = None,
) -> HeldOutOutputs:
    """Return the outputs on regions, seen as prediction sees them.

    Args:
        network: takes images and masks.
        regions: the regions.
        split: has the classes.
        settings: of the run: view, batch size, workers.
        accelerator: device and precision (default: CPU, float32).
    """
    processes = accelerator.num_processes if accelerator else 1
    batches = read_batches(
        UnaugmentedRegions(regions, settings.view, split.categories),
        settings.data.workers,
        batch_size=1 if settings.view.kind == "whole" else max(settings.schedule.batch_size // processes, 1),
    )
    network.eval()
    logits, targets, numbers = [], [], []
    skipped: list[UnreadableImage] = []
    device = accelerator.device if accelerator else torch.device("cpu")
    with torch.no_grad(), accelerator.autocast() if accelerator else nullcontext():
        for made in batches:
            skipped += made.skipped
            if len(made.targets):
                batch = made.to(device)
                more = () if batch.crop_of is None else (batch.image_of, batch.crop_of)
                logits.append(batch.add_crops(network(batch.images, batch.masks, *more).float()).cpu())
                targets.append(made.targets)
                numbers.append(made.numbers)
    if not logits:
        none = torch.empty(0, dtype=torch.int64)
        return HeldOutOutputs(torch.empty(0, len(split.categories)), none, none, tuple(skipped))
    return HeldOutOutputs(torch.cat(logits), torch.cat(targets), torch.cat(numbers), tuple(skipped))
