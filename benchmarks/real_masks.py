"""Measure names under masks as SAM makes them, beside exact outlines of the same objects, on COCO val2017.

The segmenter outlines every object from its box; its mask is then named like any other. Objects are sorted by the IoU
of that mask with the exact outline. Below an IoU of 0.5 the mask is of something else, and left out.

Run from the repository's root (five minutes on two cores):
python benchmarks/real_masks.py -o benchmarks/results/real-masks
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from machine import described, surroundings

from maskwise import Predictor, Segmenter, regions_from_coco
from maskwise.data.atomic_files import write_json, write_text
from maskwise.data.regions import read_by_image
from maskwise.progress import Progress
from maskwise.reports.formatting import percent, table
from maskwise.tasks.naming import iou
from maskwise.training.settings import expand_variables

BOUNDS = (0.5, 0.7, 0.85, 1.01)
"""Bounds of the IoU."""


def named(images: Path, annotations: Path, every: int) -> dict[str, np.ndarray]:
    """Return for every object its size, the IoU, and whether it is named rightly under both masks."""
    regions = regions_from_coco(annotations, images)
    regions = regions.only(~regions.regions.crowd)
    chosen = np.unique(regions.regions.image)[::every]
    regions = regions.only(np.isin(regions.regions.image, chosen))
    predictor, segmenter = Predictor(), Segmenter()
    columns: dict[str, list[float]] = {"iou": [], "exact": [], "segment": []}
    with Progress(len(chosen), "name", "images") as progress:
        for numbers, image, masks in read_by_image(regions.regions):
            encoded = segmenter.encode(image)
            segments = [segmenter.prompt(encoded, box_xywh=mask.box_xywh).mask for mask in masks]
            names = [regions.regions[number].name for number in numbers]
            for column, given in (("exact", masks), ("segment", segments)):
                predictions = predictor.predict(image, given)
                columns[column] += [one.name == name for one, name in zip(predictions, names, strict=True)]
            columns["iou"] += [iou(mask, segment) for mask, segment in zip(masks, segments, strict=True)]
            progress.update()
    return {column: np.array(values, dtype=float) for column, values in columns.items()}


def main() -> None:
    """Segment, name, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="results, without suffix")
    parser.add_argument("--every", type=int, default=1, help="take every n-th photograph")
    args = parser.parse_args()
    coco = Path(expand_variables("${MASKWISE_DATA}")) / "coco"
    record: dict[str, Any] = surroundings("onnxruntime", "numpy")
    columns = named(coco / "val2017", coco / "annotations/instances_val2017.json", args.every)
    rows = []
    for low, high in [*pairwise(BOUNDS), (BOUNDS[1], BOUNDS[-1])]:
        inside = (columns["iou"] >= low) & (columns["iou"] < high)
        exact, segment = (round(float(columns[column][inside].mean()), 4) for column in ("exact", "segment"))
        rows.append(
            {"low": low, "high": min(high, 1.0), "objects": int(inside.sum()), "exact": exact, "segment": segment}
        )
    record |= {"objects": len(columns["iou"]), "rows": rows}
    write_json(args.output.with_suffix(".json"), record)
    header = ("IoU of the mask", "objects", "exact outline", "the segmenter's mask", "lost, points")
    lines = [
        (f"{row['low']:g} to {row['high']:g}", str(row["objects"]), percent(row["exact"]), percent(row["segment"]),
         f"{100 * (row['exact'] - row['segment']):.1f}")
        for row in rows
    ]  # fmt: skip
    text = (
        "# Names under real masks",
        f"COCO val2017, {record['objects']} objects, each outlined by the built-in segmenter from its box; micro"
        " accuracy.",
        table(header, lines),
        f"{described(record)} Made by `benchmarks/real_masks.py`.",
    )
    write_text(args.output.with_suffix(".md"), "\n\n".join(text) + "\n")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
