"""Name masks with torch, for comparison: the published way, and a crop per mask."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scenes import read_scene
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50

from maskwise import Mask
from maskwise.data.atomic_files import read_json
from maskwise.data.images import Pixels
from maskwise.model.session import built_in_model
from maskwise.training.builder import PUBLISHED_MEAN_RGB, PUBLISHED_STD_RGB, build_network
from maskwise.training.network import RegionClassifier
from maskwise.training.settings import settings_from_dict
from maskwise.views.view import ViewSettings

CLASSES = 80


class PublishedNet(nn.Module):
    """A ResNet-50 with the mask added to its first features by a convolution; random weights.

    Source:
        S. Eppel, Classifying a specific image region using convolutional nets with an ROI mask as input,
        arXiv:1812.00291: the network for COCO.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = resnet50(num_classes=CLASSES)
        self.branch = nn.Conv2d(1, 64, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return the probabilities of one region; image 1 x 3 x H x W, normalised; mask 1 x 1 x H x W, 0 and 1."""
        trunk = self.trunk
        features = trunk.conv1(image)
        features = features + self.branch(F.interpolate(mask, size=features.shape[2:], mode="bilinear"))
        features = trunk.maxpool(trunk.relu(trunk.bn1(features)))
        features = trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(features))))
        return trunk.fc(trunk.avgpool(features).flatten(1)).softmax(dim=1)


def open_published(device: str, threads: int) -> Callable[[Path], Callable[[], object]]:
    """The published way: the whole image, one pass per mask."""
    torch.set_num_threads(threads)
    network = PublishedNet().eval().to(device)

    def ready(segments: Path) -> Callable[[], object]:
        image, masks = read_scene(segments)
        return partial(name_whole, network, image, [mask.to_array() for mask in masks], device)

    return ready


@torch.inference_mode()
def name_whole(network: PublishedNet, image: Pixels, masks: list[np.ndarray], device: str) -> list[np.ndarray]:
    """Return the probabilities of each mask of an image; masks have the image's size."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PUBLISHED_MEAN_RGB, PUBLISHED_STD_RGB))
    pixels = ((torch.from_numpy(image).permute(2, 0, 1) - mean) / std)[None].to(device)
    return [network(pixels, torch.from_numpy(mask)[None, None].float().to(device)).cpu().numpy() for mask in masks]


def open_crops(device: str, threads: int) -> Callable[[Path], Callable[[], object]]:
    """The built-in model's network in torch: the crops of one mask at a time; random weights."""
    torch.set_num_threads(threads)
    record = built_in_model().with_suffix(".json")
    settings = settings_from_dict(read_json(record)["settings"], str(record))
    network = build_network(
        settings.network, classes=CLASSES, probe_size=settings.view.size, crops=len(settings.view.crops)
    )
    network.eval().to(device)

    def ready(segments: Path) -> Callable[[], object]:
        return partial(name_crops, network, settings.view, *read_scene(segments), device)

    return ready


@torch.inference_mode()
def name_crops(
    network: RegionClassifier, view: ViewSettings, image: Pixels, masks: list[Mask], device: str
) -> list[np.ndarray]:
    """Return the probabilities of each mask of an image; a model of two crops sees both at once."""
    outputs, crop_of = [], torch.arange(len(view.crops), device=device)
    for mask in masks:
        crops = [kind.view(mask).render(image, mask) for kind in view.crops]
        pixels, coverage = (torch.from_numpy(np.stack(arrays)).to(device) for arrays in zip(*crops, strict=True))
        logits = network(pixels, coverage, crop_of=crop_of if len(crops) > 1 else None)
        outputs.append(logits.sum(dim=0, keepdim=True).softmax(dim=1).cpu().numpy())
    return outputs
