"""Which context and pooling suit a frozen trunk: a linear layer on its features, judged on held-out training images.

Run from the repository's root:
python benchmarks/frozen_probe.py recipes/resnet50.toml -o benchmarks/results/frozen-probe.json
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from maskwise.files import write_json
from maskwise.regions import Regions
from maskwise.training.batches import collate
from maskwise.training.builder import build_network
from maskwise.training.data import PlainRegions, Split, read_data
from maskwise.training.settings import TrainSettings, read_recipe
from maskwise.views import ViewSettings

CONTEXTS = (1.5, 2.0, 3.0)
HOLDOUT = 0.15
STEPS = 1500


def features(regions: Regions, split: Split, settings: TrainSettings, view: ViewSettings) -> tuple[Tensor, Tensor]:
    """Mean and mask-weighted mean of the frozen trunk's last features, side by side (N x 2D), and class indices."""
    network = replace(settings.network, pool="both", sites=())
    trunk = build_network(network, classes=len(split.categories), weights=settings.weights).eval()
    trunk = trunk.to(memory_format=torch.channels_last)
    loader = DataLoader(
        PlainRegions(regions, view, split.categories),
        batch_size=64,
        collate_fn=collate,
        num_workers=1,
        multiprocessing_context="forkserver",
    )
    out, targets = [], []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for batch in loader:
            out.append(trunk.embed(batch.images, batch.masks).float())
            targets.append(batch.targets)
    return torch.cat(out), torch.cat(targets)


def linear_accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int) -> dict[str, float]:
    """Train a linear layer; accuracy over regions and mean over classes of the test part."""
    torch.manual_seed(0)
    mean, std = train[0].mean(0), train[0].std(0) + 1e-3
    x, y = (train[0] - mean) / std, train[1]
    weights = (torch.bincount(y, minlength=classes).clamp(min=1).float() ** -0.5)[y]
    layer, dropout = nn.Linear(x.shape[1], classes), nn.Dropout(0.3)
    optimiser = torch.optim.AdamW(layer.parameters(), 1e-3, weight_decay=0.1)
    for _ in range(STEPS):
        i = torch.multinomial(weights, 256, replacement=True)
        loss = F.cross_entropy(layer(dropout(x[i])), y[i], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    right = (layer((test[0] - mean) / std).argmax(1) == test[1]).float()
    per_class = [right[test[1] == k].mean() for k in test[1].unique()]
    return {"micro": round(right.mean().item(), 4), "macro": round(torch.stack(per_class).mean().item(), 4)}


def main() -> None:
    """Measure every context and pooling and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    settings = read_recipe(args.recipe)
    split = read_data(replace(settings.data, holdout=HOLDOUT))
    # COCO numbers its images; label maps are called by their file's name.
    of_coco = np.array([isinstance(region.image_id, int) for region in split.holdout], dtype=bool)
    split = replace(split, holdout=split.holdout.only(of_coco), calibrates=split.calibrates[of_coco])
    rows = []
    for context in CONTEXTS:
        started = time.monotonic()
        view = replace(settings.view, context=context)
        train = features(split.train, split, settings, view)
        test = features(split.holdout, split, settings, view)
        half = train[0].shape[1] // 2
        for pool, part in (("mean", slice(0, half)), ("mask", slice(half, None)), ("both", slice(None))):
            found = linear_accuracy((train[0][:, part], train[1]), (test[0][:, part], test[1]), len(split.categories))
            rows.append({"context": context, "pool": pool, **found})
            print(rows[-1], f"{time.monotonic() - started:.0f} s", flush=True)
    write_json(
        args.output, {"judged_on": f"{len(split.holdout)} regions of held-out COCO training images", "rows": rows}
    )


if __name__ == "__main__":
    main()
