"""Logs of a run: held-out metrics, the worst mistakes, the speed."""

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
from maskwise.training.batches import Skipped
from maskwise.training.data import PlainRegions, Split
from maskwise.views.view import ViewSettings

HARD = 15
"""As many of the worst held-out regions are drawn."""


def holdout_scalars(
    logits: Float[Tensor, "n classes"], targets: Int64[Tensor, " n"], names: Sequence[str]
) -> dict[str, float]:
    """Loss and accuracies of the held-out regions, by the log's names; of the classes that have some, each apart.

    Args:
        logits: of every held-out region.
        targets: class index of its true name.
        names: of the classes, in the logits' order.
    """
    predicted = logits.argmax(dim=1)
    found = {
        "holdout/loss": F.cross_entropy(logits, targets).item(),
        "holdout/accuracy": micro_accuracy(predicted.numpy(), targets.numpy()),
        "holdout/accuracy_classes": macro_accuracy(predicted.numpy(), targets.numpy()),
    }
    for index in targets.unique().tolist():
        of_class = predicted[targets == index]
        found[f"holdout/class/{names[index]}"] = (of_class == index).float().mean().item()
    return found


def hardest(
    logits: Float[Tensor, "n classes"], targets: Int64[Tensor, " n"], count: int = HARD
) -> Int64[Tensor, " hardest"]:
    """The regions of the highest loss, the worst first; arguments as in `holdout_scalars`."""
    losses = F.cross_entropy(logits, targets, reduction="none")
    return losses.argsort(descending=True, stable=True)[:count]


def hard_examples(
    logits: Float[Tensor, "n classes"], targets: Int64[Tensor, " n"], split: Split, view: ViewSettings
) -> Pixels | None:
    """The held-out regions that were got most wrong, each as the network sees it; None where no image can be read.

    Under each stand its true name, the name that it was told with its probability (not calibrated), and the image file.

    Args:
        logits: of every held-out region.
        targets: class index of its true name.
        split: has the regions.
        view: which part of the image the network sees.
    """
    seen = PlainRegions(split.holdout, view, split.categories)
    probabilities = logits.softmax(dim=1)
    tiles = []
    for number in hardest(logits, targets).tolist():
        sample = seen[number]
        if isinstance(sample, Skipped):  # It could be read a moment ago, or by another machine.
            continue
        pixels, coverage, *_ = sample
        told = int(probabilities[number].argmax())
        lines = (
            split.names[targets[number]],
            f"told: {split.names[told]} {percent(probabilities[number, told].item())}",
            split.holdout[number].image_path.name,
        )
        tiles.append(Tile(pixels, coverage, lines))
    return make_contact_sheet(tiles) if tiles else None


class Throughput:
    """Images per second of training since it was last asked, without what is paused."""

    def __init__(self) -> None:
        self.images = 0
        self._since = time.perf_counter()

    def rate(self) -> float:
        """Images counted since the last call over the seconds since then; both begin anew."""
        now = time.perf_counter()
        rate = self.images / (now - self._since)
        self.images, self._since = 0, now
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside takes no time."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start
