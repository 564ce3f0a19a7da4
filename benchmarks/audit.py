"""Measure `maskwise audit`: labels changed on purpose, and objects whose labels were taken away.

Five percent of COCO val2017's labels become another class, drawn as the model confuses them (its confusion matrix on
val2017; a class that it never confuses: any other). The list is judged by average precision and by its first 50. Then
the labels of every tenth object of some photographs are taken away; `--unlabelled` should find them.

Run from the repository's root (ten minutes on two cores): python benchmarks/audit.py -o benchmarks/results/audit
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import described, surroundings

from maskwise import Predictor, RegionSet, Segmenter, regions_from_coco
from maskwise.data.atomic_files import write_json, write_text
from maskwise.reports.formatting import percent, table
from maskwise.tasks.auditing import Judged, judge, suspicious_names
from maskwise.tasks.metrics import confusion_matrix
from maskwise.tasks.naming import iou
from maskwise.tasks.unlabelled import find_unlabelled
from maskwise.training.settings import expand_variables

CHANGED = 0.05
"""Share of the labels that are changed."""
SEEDS = (0, 1, 2)
FIRST = 50
TAKEN_EVERY = 10
PHOTOS_EVERY = 6
LARGE = 1024
"""Smallest object whose label is taken away, pixels: the segmenter finds few smaller ones."""
SAME = 0.5
"""A thing that is found is the object whose label was taken away from this IoU on."""


def changed(judged: Judged, rng: np.random.Generator) -> tuple[Judged, np.ndarray]:
    """Return the regions with some wrong names, and which are wrong."""
    places = {name: place for place, name in enumerate(judged.classes)}
    targets = judged.regions.numbered(places)
    confused = confusion_matrix(judged.probabilities.argmax(axis=1), targets, len(places)).astype(float)
    np.fill_diagonal(confused, 0)
    wrong = np.zeros(len(targets), dtype=bool)
    wrong[rng.choice(len(targets), round(CHANGED * len(targets)), replace=False)] = True
    names = targets.copy()
    for number in np.flatnonzero(wrong).tolist():
        row = confused[targets[number]]
        row = row if row.any() else np.arange(len(places)) != targets[number]
        names[number] = rng.choice(len(places), p=row / row.sum())
    return replace(judged, regions=replace(judged.regions, names=judged.classes, name=names)), wrong


def ranked(judged: Judged, wrong: np.ndarray) -> dict[str, float]:
    """Return average precision of the list of suspicions, precision of its beginning, and the share that it lists.

    Average precision: the mean, over all labels that were changed, of the precision of the list up to it; 0 for those
    that are not listed.
    """
    found = sorted(suspicious_names(judged), key=lambda pair: -pair[1].score)
    right = wrong[[number for number, _ in found]]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return {
        "listed": len(found),
        "changed": int(wrong.sum()),
        "average_precision": round(float(precision[right].sum() / wrong.sum()), 4),
        "first": round(float(right[:FIRST].mean()), 4),
        "changed_listed": round(float(right.sum() / wrong.sum()), 4),
    }


def taken_away(regions: RegionSet, predictor: Predictor) -> dict[str, Any]:
    """Take labels away; return how many of these objects are found, and what else is."""
    images = np.unique(regions.regions.image)[::PHOTOS_EVERY]
    here = regions.only(np.isin(regions.regions.image, images))
    large = np.flatnonzero((here.regions.areas() >= LARGE) & ~here.regions.crowd)[::TAKEN_EVERY]
    gone = [(here.regions[number].image_path, here.regions[number].read_mask()) for number in large.tolist()]
    kept = here.only(~np.isin(np.arange(len(here.regions)), large))
    found = list(find_unlabelled(kept, predictor, Segmenter()))
    hits = set()
    for region, _ in found:
        mask = region.read_mask()
        for number, (path, truth) in enumerate(gone):
            if path == region.image_path and iou(mask, truth) >= SAME:
                hits.add(number)
    return {"photographs": len(images), "taken_away": len(gone), "found_again": len(hits), "listed": len(found)}


def page(record: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    rows = [
        [str(row["seed"]), str(row["changed"]), str(row["listed"]), percent(row["average_precision"]),
         percent(row["first"]), percent(row["changed_listed"])]
        for row in record["rows"]
    ]  # fmt: skip
    header = ("seed", "changed", "listed", "average precision", f"right among the first {FIRST}", "changed ones listed")
    alone, gone = record["untouched"], record["unlabelled"]
    text = [
        "# `maskwise audit`",
        f"COCO val2017, {record['regions']} labels; {CHANGED:.0%} of them are changed as the model confuses"
        " classes. The model judges them, having seen none of these photographs.",
        table(header, rows),
        f"Before any label is changed, the list has {alone['listed']} suspicions: mistakes of the model and of the"
        " data. They count as false here.",
        f"`--unlabelled`: the labels of {gone['taken_away']} objects of at least {LARGE} pixels in"
        f" {gone['photographs']} photographs of val2017 were taken away; {gone['found_again']} were found again (IoU at"
        f" least {SAME}), among {gone['listed']} things listed. The others are parts, things that COCO does"
        " not label, or wrong.",
        f"{described(record)} Made by `benchmarks/audit.py`.",
    ]
    return "\n\n".join(text) + "\n"


def main() -> None:
    """Judge once, change labels, rank, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="results, without suffix")
    args = parser.parse_args()
    coco = Path(expand_variables("${MASKWISE_DATA}")) / "coco"
    regions = regions_from_coco(coco / "annotations/instances_val2017.json", coco / "val2017")
    predictor = Predictor()
    record: dict[str, Any] = surroundings("onnxruntime", "numpy")
    judged = judge(regions, predictor, how="model")
    rows = []
    for seed in SEEDS:
        rows.append({"seed": seed, **ranked(*changed(judged, np.random.default_rng(seed)))})
        print(rows[-1], flush=True)
    record |= {
        "regions": len(judged.regions),
        "rows": rows,
        "untouched": {"listed": len(list(suspicious_names(judged)))},
    }
    record["unlabelled"] = taken_away(regions, predictor)
    write_json(args.output.with_suffix(".json"), record)
    write_text(args.output.with_suffix(".md"), page(record))
    print(page(record))


if __name__ == "__main__":
    main()
