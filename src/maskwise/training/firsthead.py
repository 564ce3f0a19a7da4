"""A head to start from, fitted to what a network makes of the regions before it learns."""

from __future__ import annotations

import accelerate
import numpy as np
import torch
from torch import Tensor, nn

from maskwise.errors import InputError, SettingsError
from maskwise.heads import choose_head
from maskwise.training.batches import Skipped
from maskwise.training.data import Split
from maskwise.training.holdout import shared_answers
from maskwise.training.network import RegionClassifier
from maskwise.training.settings import TrainSettings


class _Embeddings(nn.Module):
    """A network's embeddings in place of its logits."""

    def __init__(self, network: RegionClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        return self.network.embed(images, masks)


def fit_first_head(
    network: RegionClassifier, split: Split, settings: TrainSettings, accelerator: accelerate.Accelerator
) -> tuple[Skipped, ...]:
    """Fit the head to the embeddings of all training regions, unvaried; of several processes all must call.

    The head names a region after the nearest class mean under a shrunk covariance (`heads.fit_head`); how far it is
    shrunk, and the temperature that its logits are divided by, are chosen by cross-validation over images. Classes
    without regions get no weights and the lowest bias.

    Args:
        network: on the accelerator's device; its head is replaced.
        split: has the regions.
        settings: of the run.
        accelerator: of this process.

    Returns:
        The images that this process could not read.

    Raises:
        InputError: most of the images cannot be read.
        SettingsError: fewer than two classes have regions.

    Source:
        A. Kumar et al., arXiv:2202.10054: a fitted head first, so that the trunk is not bent to a random one.
    """
    found = shared_answers(_Embeddings(network), split.train, split, settings, accelerator)
    if 2 * len(found.numbers) < len(split.train):
        raise InputError(
            f"most images cannot be read: those of {len(split.train) - len(found.numbers)} in {len(split.train)}"
            " regions; mend the data, then start the run again"
        )
    present, dense = np.unique(found.targets.numpy(), return_inverse=True)
    if len(present) < 2:
        raise SettingsError("schedule.head 'fitted' needs regions of two classes; choose random")
    embeddings = found.logits.numpy().astype(np.float64)
    best = choose_head("mean", embeddings, dense, split.train.image[found.numbers.numpy()])[0]
    head = best.fit(embeddings, dense)
    # What is the same for every class changes no probability: without it, weights and biases stay small.
    weight = (head.weight - head.weight.mean(axis=0)) / best.temperature
    bias = (head.bias - head.bias.mean()) / best.temperature
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(float(bias.min()))
        network.head.weight[present] = torch.from_numpy(weight).to(network.head.weight)
        network.head.bias[present] = torch.from_numpy(bias).to(network.head.bias)
    return found.skipped
