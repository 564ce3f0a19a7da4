"""Measure which components of label maps `fit` should leave out: accuracy on CamVid by the smallest one learned from.

A model is fitted to 30 regions per class of every second training frame, and judged by the regions of at least 300
pixels of the other frames.

Run from the repository's root (ten minutes on two cores): python benchmarks/specks.py -o benchmarks/results/specks
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from machine import described, surroundings

from maskwise import Predictor, RegionSet, evaluate, fit_classes, regions_from_label_maps
from maskwise.data.atomic_files import write_json, write_text
from maskwise.data.sampling import sample_per_class
from maskwise.reports.formatting import percent, table
from maskwise.training.settings import expand_variables

SHARES = (0.0, 0.0003, 0.001, 0.002)
"""Smallest components to learn from, share of the image."""
PER_CLASS = 30
JUDGED_FROM = 300
"""Smallest region to judge by, pixels."""


def half(regions: RegionSet, odd: bool) -> RegionSet:
    """Return the regions of every second image."""
    ranks = np.unique(regions.regions.images[regions.regions.image], return_inverse=True)[1]
    return regions.only(ranks % 2 == int(odd))


def read(min_area: float) -> RegionSet:
    """Return the regions of CamVid's training frames."""
    folder = Path(expand_variables("${MASKWISE_DATA}")) / "camvid"
    maps, images = folder / "train/labels", folder / "train/images"
    return regions_from_label_maps(maps, images, folder / "classes.txt", min_area=min_area)


def main() -> None:
    """Fit, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="results, without suffix")
    args = parser.parse_args()
    judged = sample_per_class(half(read(JUDGED_FROM), odd=True), PER_CLASS)
    rows: list[dict[str, Any]] = []
    for share in SHARES:
        learned = sample_per_class(half(read(share), odd=False), PER_CLASS)
        with TemporaryDirectory() as folder:
            model = Path(folder) / "camvid.onnx"
            fit_classes(learned, model)
            report = evaluate(Predictor(model), judged).report
        small = float(np.median([region.area for region in learned.regions]))
        rows.append({"min_area": share, "micro": report.micro, "macro": report.macro, "median_pixels": small})
        print(rows[-1], flush=True)
    record = {**surroundings("onnxruntime"), "judged": len(judged.regions), "rows": rows}
    write_json(args.output.with_suffix(".json"), record)
    header = ("components from, share of the image", "micro accuracy", "macro accuracy", "median size learned, pixels")
    lines = [
        (f"{100 * row['min_area']:g} %", percent(row["micro"]), percent(row["macro"]), f"{row['median_pixels']:.0f}")
        for row in rows
    ]
    text = (
        "# Specks of label maps",
        f"`fit` on {PER_CLASS} regions a class of every second frame of CamVid's training set, judged by"
        f" {record['judged']} regions of at least {JUDGED_FROM} pixels of the other frames.",
        table(header, lines),
        f"{described(record)} Made by `benchmarks/specks.py`.",
    )
    write_text(args.output.with_suffix(".md"), "\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
