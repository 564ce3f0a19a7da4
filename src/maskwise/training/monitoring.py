"""What the log of a run shows: metrics of the held-out set, its worst regions, the speed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from maskwise.data.images import Pixels
from maskwise.reports.contact_sheet import Tile, make_contact_sheet
from maskwise.reports.formatting import percent
from maskwise.tasks.metrics import macro_accuracy, micro_accuracy
from maskwise.training.batches import UnreadableImage
from maskwise.training.data import Split, UnaugmentedRegions
from maskwise.views.view import ViewSettings

HARDEST_SHOWN = 15
"""Held-out regions on the contact sheet of the worst."""


def holdout_scalars(
    logits: Float[Tensor, "n classes"], targets: Int64[Tensor, " n"], names: Sequence[str]
) -> dict[str, float]:
    """Return log loss and accuracies (0 to 1) of the held-out set, keyed by their names in the log.

    Classes without a held-out region have no entry.

    Args:
        logits: of every held-out region.
        targets: class index of its true name.
        names: of the classes, in the order of the logits.
    """
    predicted = logits.argmax(dim=1)
    scalars = {
        "holdout/loss": F.cross_entropy(logits, targets).item(),
        "holdout/micro_accuracy": micro_accuracy(predicted.numpy(), targets.numpy()),
        "holdout/macro_accuracy": macro_accuracy(predicted.numpy(), targets.numpy()),
    }
    for index in sorted(set(targets.tolist())):
        of_class = predicted[targets == index]
        scalars[f"holdout/class/{names[index]}"] = (of_class == index).float().mean().item()
    return scalars


def hardest_regions(
    logits: Float[Tensor, "n classes"], targets: Int64[Tensor, " n"], count: int = HARDEST_SHOWN
) -> Int64[Tensor, " hardest"]:
    """Return the indices of the regions with the highest log loss, highest first; arguments as in `holdout_scalars`."""
    losses = F.cross_entropy(logits, targets, reduction="none")
    return losses.argsort(descending=True, stable=True)[:count]


def hardest_sheet(
    logits: Float[Tensor, "n classes"], targets: Int64[Tensor, " n"], split: Split, view: ViewSettings
) -> Pixels | None:
    """Draw a contact sheet of the hardest held-out regions as the network sees them; None if no image can be read.

    Each caption has the true name, the predicted name with its probability (not calibrated), and the image file.

    Args:
        logits: of every held-out region.
        targets: class index of its true name.
        split: has the regions.
        view: which part of the image the network sees.
    """
    regions = UnaugmentedRegions(split.holdout, view, split.categories)
    probabilities = logits.softmax(dim=1)
    tiles = []
    for number in hardest_regions(logits, targets).tolist():
        sample = regions[number]
        if isinstance(sample, UnreadableImage):  # It was readable a moment ago, or on another machine.
            continue
        pixels, coverage, *_ = sample
        predicted = int(probabilities[number].argmax())
        lines = (
            split.names[int(targets[number])],
            f"predicted: {split.names[predicted]}",
            percent(probabilities[number, predicted].item()),
            split.holdout[number].image_path.name,
        )
        tiles.append(Tile(pixels, coverage, lines))
    return make_contact_sheet(tiles) if tiles else None


class Throughput:
    """Images per second since the last call of `rate`, without pauses."""

    def __init__(self) -> None:
        self.images = 0
        self._since = time.perf_counter()

    def rate(self) -> float:
        """Return the images counted since the last call per second; restart both counts."""
        now = time.perf_counter()
        rate = self.images / (now - self._since)
        self.images, self._since = 0, now
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock in the block."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start
