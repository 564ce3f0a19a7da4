"""Means of runs, at several sizes of view: how well each names the held-out regions, and how sure it is of nothing.

A candidate is a run folder, or several joined by `+`; one that is named twice counts twice. The networks answer in
bfloat16 as they learned, before they are stored as a model file.

Run from the repository's root:
python benchmarks/averages.py runs/dinov2-0 runs/dinov2-0+runs/dinov2-1 --sizes 168 224 -o benchmarks/results/averages
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from maskwise.files import write_json, write_text
from maskwise.report import percent, table
from maskwise.training.augment import without_content
from maskwise.training.average import mean_of
from maskwise.training.checkpoint import Checkpoint, load_checkpoint
from maskwise.training.data import PlainRegions, Split, read_data
from maskwise.training.holdout import holdout_answers, temperature_of
from maskwise.training.loop import FINAL, network_of
from maskwise.training.processes import make_accelerator
from maskwise.training.watch import holdout_scalars

EMPTY = 64
"""As many of the held-out regions are shown without content; each once black, once white, once of a colour or noise."""


def mean_network(candidate: str) -> tuple[nn.Module, Checkpoint]:
    """The network of a candidate, and the checkpoint of its first run."""
    checkpoints = [load_checkpoint(Path(run) / FINAL) for run in candidate.split("+")]
    mean = replace(checkpoints[0], tensors=mean_of([one.part("model") for one in checkpoints]))
    return network_of(mean), mean


def surest_of_nothing(
    network: nn.Module, temperature: float, seen: PlainRegions, accelerator: Accelerator
) -> dict[str, float]:
    """The probability of the likeliest name where there is nothing to see: the mean, and the highest."""
    rng = np.random.default_rng(0)
    views, masks = [], []
    for number in range(0, len(seen), max(len(seen) // EMPTY, 1)):
        pixels, coverage, *_ = seen[number]
        views += [np.zeros_like(pixels), np.full_like(pixels, 255), without_content(pixels.shape, rng)]
        masks += [coverage] * 3
    with torch.no_grad(), accelerator.autocast():
        logits = network(torch.from_numpy(np.stack(views)), torch.from_numpy(np.stack(masks))).float()
    surest = (logits / temperature).softmax(dim=1).amax(dim=1)
    return {"nothing_mean": round(surest.mean().item(), 4), "nothing_most": round(surest.max().item(), 4)}


def figures(logits: Tensor, targets: Tensor, split: Split) -> dict[str, float]:
    """How well regions are named, and how likely their names are."""
    found = holdout_scalars(logits, targets, split.names)
    keys = {"micro": "holdout/accuracy", "macro": "holdout/accuracy_classes", "loss": "holdout/loss"}
    return {name: round(found[key], 4) for name, key in keys.items()}


def line_of(candidate: str, size: int, split: Split, accelerator: Accelerator) -> dict[str, Any]:
    """The figures of one candidate at one size; those of regions that set the temperature apart."""
    network, checkpoint = mean_network(candidate)
    settings = replace(checkpoint.settings, view=replace(checkpoint.settings.view, size=size))
    answers = holdout_answers(network, split, settings, accelerator)
    temperature = temperature_of(answers.logits, answers.targets, split, settings.data.class_power)
    logits, coco = answers.logits / temperature, torch.from_numpy(split.calibrates)
    seen = PlainRegions(split.holdout, settings.view, split.categories)
    return {
        "candidate": " + ".join(Path(run).name for run in candidate.split("+")),
        "size": size,
        "regions": len(logits),
        "coco_regions": int(coco.sum()),
        "all": figures(logits, answers.targets, split),
        "coco": figures(logits[coco], answers.targets[coco], split),
        **surest_of_nothing(network, temperature, seen, accelerator),
    }


def page(lines: list[dict[str, Any]]) -> str:
    """The table to read."""
    rows = [
        (
            line["candidate"],
            line["size"],
            *(percent(line["all"][key]) for key in ("micro", "macro")),
            f"{line['all']['loss']:.3f}",
            *(percent(line["coco"][key]) for key in ("micro", "macro")),
            f"{line['coco']['loss']:.3f}",
            f"{percent(line['nothing_mean'])}, {percent(line['nothing_most'])}",
        )
        for line in lines
    ]
    header = ("mean of", "pixels", "all: regions", "classes", "loss", "COCO: regions", "classes", "loss")
    return (
        "# Means of runs\n\n"
        f"On {lines[0]['regions']} held-out regions of training images, {lines[0]['coco_regions']} of them COCO's."
        " Loss: mean of -log p of the true name, calibrated. Surest of nothing: the probability of the likeliest name"
        " where a view is black, white, of one colour, or noise; the mean, and the highest.\n\n"
        + table((*header, "surest of nothing"), rows)
        + "\n"
    )


def main() -> None:
    """Measure every candidate at every size, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="+", help="run folders, those of one candidate joined by +")
    parser.add_argument("--sizes", type=int, nargs="+", default=[168], help="sides of the views, pixels")
    parser.add_argument("-o", "--output", type=Path, required=True, help="without suffix: .json and .md are written")
    args = parser.parse_args()
    split = read_data(load_checkpoint(Path(args.candidates[0].split("+")[0]) / FINAL).settings.data)
    accelerator = make_accelerator("cpu", bf16=True)
    lines = []
    for candidate in args.candidates:
        for size in args.sizes:
            lines.append(line_of(candidate, size, split, accelerator))
            print(lines[-1], flush=True)
    write_json(args.output.with_suffix(".json"), lines)
    write_text(args.output.with_suffix(".md"), page(lines))


if __name__ == "__main__":
    main()
