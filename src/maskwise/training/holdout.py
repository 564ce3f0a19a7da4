"""Evaluate a network on the held-out regions during training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import accelerate
import torch
from accelerate.utils import gather_object
from jaxtyping import Float, Int64
from torch import Tensor, nn

from maskwise.data.regions import LabelledRegion
from maskwise.errors import InputError
from maskwise.tasks.calibration import fit_temperature
from maskwise.training.batches import Skipped, read_batches
from maskwise.training.data import PlainRegions, Split
from maskwise.training.settings import TrainSettings


@dataclass(frozen=True)
class Answers:
    """What a network says of regions.

    Attributes:
        logits: a row for each region whose image can be read.
        targets: their class indices.
        numbers: which of the given regions they are, rising.
        skipped: the images that cannot be read.
    """

    logits: Float[Tensor, "n classes"]
    targets: Int64[Tensor, " n"]
    numbers: Int64[Tensor, " n"]
    skipped: tuple[Skipped, ...]

    @property
    def accuracy(self) -> float:
        """Share that is named right."""
        return (self.logits.argmax(dim=1) == self.targets).float().mean().item()


def temperature_of(
    logits: Float[Tensor, "n classes"], targets: Int64[Tensor, " n"], split: Split, class_power: float
) -> float:
    """The temperature under which the held-out regions' names are most likely, each class weighed as it is drawn.

    Args:
        logits: of the held-out regions, in order.
        targets: their class indices.
        split: has the regions.
        class_power: `DataSettings.class_power`.
    """
    return fit_temperature(logits.numpy(), targets.numpy(), split.calibration_weights(class_power).numpy())


def holdout_answers(
    network: nn.Module, split: Split, settings: TrainSettings, accelerator: accelerate.Accelerator | None = None
) -> Answers:
    """Answers on the held-out regions; several processes share the work, and each gets all answers.

    What is skipped is told to the process that could not read it alone.

    Args:
        network: takes images and masks.
        split: has the regions.
        settings: of the run: view, batch size, workers.
        accelerator: where and how exactly it computes; left out, on the processor in float32. Of several processes
            all must call.

    Raises:
        InputError: most of the images cannot be read.
    """
    index, count = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    share = split.holdout[index::count]
    own = answers_on(network, share, split, settings, accelerator)
    parts = [(own.logits, own.targets, own.numbers * count + index)]
    if count > 1:
        parts = gather_object(parts)
    logits, targets, numbers = (torch.cat(each) for each in zip(*parts, strict=True))
    if 2 * len(numbers) < len(split.holdout):
        raise InputError(
            f"most held-out images cannot be read: those of {len(split.holdout) - len(numbers)} in"
            f" {len(split.holdout)} regions; mend the data, then start again"
        )
    order = numbers.argsort()
    return Answers(logits[order], targets[order], numbers[order], own.skipped)


def answers_on(
    network: nn.Module,
    regions: Sequence[LabelledRegion],
    split: Split,
    settings: TrainSettings,
    accelerator: accelerate.Accelerator | None = None,
) -> Answers:
    """Answers on regions seen as prediction sees them.

    Args:
        network: takes images and masks.
        regions: the regions.
        split: says which classes there are.
        settings: of the run: view, batch size, workers.
        accelerator: where and how exactly it computes; left out, on the processor in float32.
    """
    processes = accelerator.num_processes if accelerator else 1
    batches = read_batches(
        PlainRegions(regions, settings.view, split.categories),
        settings.data.workers,
        batch_size=1 if settings.view.kind == "whole" else max(settings.schedule.batch_size // processes, 1),
    )
    network.eval()
    logits, targets, numbers = [], [], []
    skipped: list[Skipped] = []
    device = accelerator.device if accelerator else torch.device("cpu")
    with torch.no_grad(), accelerator.autocast() if accelerator else nullcontext():
        for batch in batches:
            skipped += batch.skipped
            if len(batch.targets):
                logits.append(network(batch.images.to(device), batch.masks.to(device)).float().cpu())
                targets.append(batch.targets)
                numbers.append(batch.numbers)
    if not logits:
        none = torch.empty(0, dtype=torch.int64)
        return Answers(torch.empty(0, len(split.categories)), none, none, tuple(skipped))
    return Answers(torch.cat(logits), torch.cat(targets), torch.cat(numbers), tuple(skipped))
