"""Compare averages of runs at several crop sizes: held-out accuracy, and confidence on blank crops.

A candidate is a run folder, or several joined by `+`; one that is named twice counts twice. The networks answer in
bfloat16 on the processor, not as the model files that are made of them.

Run from the repository's root:
python benchmarks/averages.py runs/dinov2-0 runs/dinov2-0+runs/dinov2-1 --sizes 168 224 -o benchmarks/results/averages
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from machine import described, surroundings
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise.data.atomic_files import write_json, write_text
from maskwise.errors import SettingsError
from maskwise.reports.formatting import percent, table
from maskwise.tasks.metrics import macro_accuracy, micro_accuracy
from maskwise.training.averaging import load_matching_runs, mean_weights
from maskwise.training.data import UnaugmentedRegions, read_data
from maskwise.training.distributed import make_accelerator
from maskwise.training.holdout import holdout_temperature, predict_holdout
from maskwise.training.loop import load_network
from maskwise.training.settings import DataSettings, TrainSettings

EMPTY = 64
"""Number of held-out regions that are shown blank: each once black, once white, once noise."""


def mean_network(candidate: str) -> tuple[nn.Module, TrainSettings]:
    """Return the network of a candidate, and the settings of its first run.

    Raises:
        SettingsError: runs that cannot be averaged.
    """
    checkpoints = load_matching_runs([Path(run) for run in candidate.split("+")])
    mean = replace(checkpoints[0], tensors=mean_weights([one.tensors_under("model") for one in checkpoints]))
    return load_network(mean), mean.settings


def confidence_on_blank(
    network: nn.Module, temperature: float, seen: UnaugmentedRegions, accelerator: Accelerator
) -> dict[str, float]:
    """Return the top probability on blank crops: mean and maximum."""
    rng = np.random.default_rng(0)
    views, masks = [], []
    for number in np.unique(np.linspace(0, len(seen) - 1, EMPTY).round().astype(int)).tolist():
        pixels, coverage, *_ = seen[number]
        noise = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
        views += [np.zeros_like(pixels), np.full_like(pixels, 255), noise]
        masks += [coverage] * 3
    with torch.no_grad(), accelerator.autocast():
        logits = network(torch.from_numpy(np.stack(views)), torch.from_numpy(np.stack(masks))).float()
    surest = (logits / temperature).softmax(dim=1).amax(dim=1)
    return {"nothing_mean": round(surest.mean().item(), 4), "nothing_most": round(surest.max().item(), 4)}


def figures(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Return micro and macro accuracy, and the log loss over regions and over classes."""
    predicted, losses = logits.argmax(dim=1).numpy(), F.cross_entropy(logits, targets, reduction="none")
    by_class = [losses[targets == index].mean().item() for index in targets.unique()]
    return {
        "regions": len(targets),
        "micro": round(micro_accuracy(predicted, targets.numpy()), 4),
        "macro": round(macro_accuracy(predicted, targets.numpy()), 4),
        "loss": round(losses.mean().item(), 4),
        "loss_classes": round(statistics.mean(by_class), 4),
    }


def line_of(candidate: str, size: int, data: DataSettings, accelerator: Accelerator) -> dict[str, Any]:
    """Return the figures of one candidate at one size, with those of the calibration regions apart.

    Raises:
        SettingsError: runs that cannot be averaged, or that learned from other data than those given.
    """
    network, settings = mean_network(candidate)
    if replace(settings.data, workers=data.workers) != data:
        raise SettingsError(f"{candidate}: learned from other data than the first candidate; compare it apart")
    settings = replace(settings, view=replace(settings.view, size=size))
    split = read_data(data)
    answers = predict_holdout(network, split, settings, accelerator)
    split = split.with_holdout(answers.numbers.tolist())
    temperature = holdout_temperature(answers, split, data.class_power)
    logits, calibrating = answers.logits / temperature, torch.from_numpy(split.calibrates)
    seen = UnaugmentedRegions(split.holdout, settings.view, split.categories)
    return {
        "candidate": " + ".join(Path(run).name for run in candidate.split("+")),
        "size": size,
        "all": figures(logits, answers.targets),
        "calibrating": figures(logits[calibrating], answers.targets[calibrating]),
        **confidence_on_blank(network, temperature, seen, accelerator),
    }


def page(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = results["lines"]
    rows = [
        (line["candidate"], line["size"], *_figures(line["all"]), *_figures(line["calibrating"]),
         f"{percent(line['nothing_mean'])}, {percent(line['nothing_most'])}")
        for line in lines
    ]  # fmt: skip
    header = ("mean of", "pixels", "all: regions", "classes", "losses", "calibrating: regions", "classes", "losses")
    return (
        "# Means of runs\n\n"
        f"On {lines[0]['all']['regions']} held-out regions of training images; on"
        f" {lines[0]['calibrating']['regions']} of them the temperature is set (COCO's, in the recipe of the model to"
        " embed). Losses: -log p of the true name, calibrated, the mean over regions and over classes. Surest of"
        " nothing: the probability of the likeliest name where a view is black, white or noise, the mean and the"
        " highest; runs may have learned from such views (`augment.blank`).\n\n"
        + table((*header, "confidence on blank"), rows)
        + f"\n\n{described(results)}\n"
    )


def _figures(results: dict[str, float]) -> tuple[str, str, str]:
    return percent(results["micro"]), percent(results["macro"]), f"{results['loss']:.3f}, {results['loss_classes']:.3f}"


def main() -> None:
    """Measure every candidate at every size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="+", help="run folders, those of one candidate joined by +")
    parser.add_argument("--sizes", type=int, nargs="+", default=[168], help="sides of the views, pixels")
    parser.add_argument("-o", "--output", type=Path, required=True, help="without suffix: .json and .md are written")
    args = parser.parse_args()
    results = {**surroundings("torch", "timm"), "lines": []}
    data = mean_network(args.candidates[0])[1].data
    accelerator = make_accelerator("cpu", bf16=True)
    for candidate in args.candidates:
        for size in args.sizes:
            results["lines"].append(line_of(candidate, size, data, accelerator))
            print(results["lines"][-1], flush=True)
    write_json(args.output.with_suffix(".json"), results)
    write_text(args.output.with_suffix(".md"), page(results))


if __name__ == "__main__":
    main()
