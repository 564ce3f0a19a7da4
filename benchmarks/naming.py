"""Measure `maskwise name`: average precision on COCO, and the score from which things are shown.

The score is chosen on held-out training photographs: the one with the best F1 at IoU 0.5. Average precision is of
pycocotools, on photographs that nothing was trained or chosen on. An interrupted run resumes when you repeat it.

Run from the repository's root (7 s per photograph on two cores):
python benchmarks/naming.py -o benchmarks/results/naming --every 4
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from machine import described, surroundings
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskwise import Predictor, Segmenter, load_image, name_things
from maskwise.data.atomic_files import make_folder, read_json, write_json, write_text
from maskwise.model.session import built_in_model
from maskwise.progress import Progress
from maskwise.reports.formatting import table
from maskwise.training.data import read_data
from maskwise.training.settings import expand_variables, settings_from_dict

SCORES = np.round(np.arange(0.05, 0.96, 0.05), 2)
"""Scores to choose from."""


def held_out_photos() -> set[str]:
    """Return the names of the photographs of COCO's train2017 that the built-in model did not learn from."""
    record = read_json(built_in_model().with_suffix(".json"))
    settings = settings_from_dict(record["settings"], "default.json")
    split = read_data(replace(settings.data, nothing=()))
    return {region.image_path.name for region in split.holdout if region.image_path.parent.name == "train2017"}


def named(images: Path, coco: COCO, ids: list[int], journal: Path) -> list[dict[str, Any]]:
    """Return the things in photographs as COCO results; those of earlier runs come from the journal."""
    done = dict(map(json.loads, journal.read_text().splitlines())) if journal.is_file() else {}
    segmenter, predictor = Segmenter(), Predictor()
    with open(journal, "a") as file, Progress(len(ids), "name", "images") as progress:
        for image_id in ids:
            if image_id not in done:
                image = load_image(images / coco.imgs[image_id]["file_name"])
                things = name_things(image, segmenter, predictor, min_score=0.0)
                done[image_id] = [
                    {
                        "image_id": image_id,
                        "category_id": thing.prediction.category_id,
                        "segmentation": thing.segment.mask.to_rle(),
                        "score": thing.score,
                    }
                    for thing in things
                ]
                file.write(json.dumps([image_id, done[image_id]]) + "\n")
                file.flush()
            progress.update()
    return [record for image_id in ids for record in done[image_id]]


def evaluated(coco: COCO, ids: list[int], results: list[dict[str, Any]]) -> COCOeval:
    """Return pycocotools' evaluation of masks."""
    with redirect_stdout(StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.params.imgIds = ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def matches(evaluation: COCOeval) -> Iterator[tuple[float, bool]]:
    """Yield score and rightness of every result at IoU 0.5, those on ignored objects left out."""
    for image in evaluation.evalImgs:
        if image is not None and image["aRng"] == evaluation.params.areaRng[0]:
            pairs = zip(image["dtScores"], image["dtMatches"][0], image["dtIgnore"][0], strict=True)
            yield from ((score, match > 0) for score, match, ignored in pairs if not ignored)


def by_score(evaluation: COCOeval, objects: int) -> list[dict[str, float]]:
    """Return precision, recall and F1 at IoU 0.5 of the results from each score on."""
    pairs = np.array(list(matches(evaluation)), dtype=float).reshape(-1, 2)
    rows = []
    for score in SCORES.tolist():
        chosen = pairs[pairs[:, 0] >= score, 1]
        precision, recall = float(chosen.mean()) if len(chosen) else 1.0, float(chosen.sum()) / objects
        f1 = 2 * precision * recall / max(precision + recall, 1e-9)
        rows.append({"score": score, "precision": round(precision, 4), "recall": round(recall, 4), "f1": round(f1, 4)})
    return rows


def measure(images: Path, annotations: Path, journal: Path, *, only: set[str] | None, every: int) -> dict[str, Any]:
    """Return average precision and results by score of some photographs."""
    with redirect_stdout(StringIO()):
        coco = COCO(os.fspath(annotations))
    ids = [key for key, image in sorted(coco.imgs.items()) if only is None or image["file_name"] in only][::every]
    evaluation = evaluated(coco, ids, named(images, coco, ids, journal))
    objects = sum(not record["iscrowd"] for key in ids for record in coco.imgToAnns[key])
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    figures = {name: round(float(value), 4) for name, value in zip(names, evaluation.stats, strict=False)}
    figures["recall_100"] = round(float(evaluation.stats[8]), 4)
    return {"photographs": len(ids), "objects": objects, **figures, "by_score": by_score(evaluation, objects)}


def page(record: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    val, chosen, score = record["val2017"], record["held_out"], record["min_score"]
    at_score = next(row for row in val["by_score"] if row["score"] == score)
    rows = [
        [f"{row['score']:g}", *(f"{100 * row[name]:.1f}" for name in ("precision", "recall", "f1"))]
        for row in chosen["by_score"][::2]
    ]
    text = [
        "# `maskwise name`",
        f"COCO val2017, {val['photographs']} photographs with {val['objects']} objects of the 80 classes, masks,"
        f" pycocotools: AP **{100 * val['ap']:.1f}**, AP50 {100 * val['ap50']:.1f}, AP75 {100 * val['ap75']:.1f};"
        f" small, medium and large objects {100 * val['ap_small']:.1f}, {100 * val['ap_medium']:.1f} and"
        f" {100 * val['ap_large']:.1f}. A detector that learns from all of COCO's outlines does much better: Mask R-CNN"
        " with a ResNet-50-FPN has 33.6 (He et al., arXiv:1703.06870, test-dev). This is a segmenter that knows no"
        " classes, and a classifier that has seen 1,692 photographs.",
        f"Things below a score of {score:g} are left out (`--min-score`): the best F1 at IoU 0.5 on"
        f" {chosen['photographs']} training photographs that the model did not learn from. On val2017 this keeps"
        f" {100 * at_score['recall']:.0f} % of the objects, and {100 * at_score['precision']:.0f} % of what is shown is"
        " right.",
        table(["score, held-out photographs", "precision, %", "recall, %", "F1, %"], rows),
        f"{described(record)}. Made by `benchmarks/naming.py`.",
    ]
    return "\n\n".join(text) + "\n"


def main() -> None:
    """Name photographs, choose the score, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="results, without suffix")
    parser.add_argument("--every", type=int, default=1, help="take every n-th photograph of val2017")
    parser.add_argument("--work", type=Path, default=Path("runs/naming"), help="folder of the journals")
    args = parser.parse_args()
    make_folder(args.work)
    root = Path(expand_variables("${MASKWISE_DATA}")) / "coco"
    complete = root / "annotations/instances_train2017_complete.json"
    held_out = measure(root / "train2017", complete, args.work / "held-out.jsonl", only=held_out_photos(), every=1)
    best = max(held_out["by_score"], key=lambda row: row["f1"])
    val = measure(
        root / "val2017",
        root / "annotations/instances_val2017.json",
        args.work / "val.jsonl",
        only=None,
        every=args.every,
    )
    record = {**surroundings("onnxruntime"), "min_score": best["score"], "held_out": held_out, "val2017": val}
    write_json(args.output.with_suffix(".json"), record)
    write_text(args.output.with_suffix(".md"), page(record))
    print(f"AP {100 * val['ap']:.1f}, score {best['score']:g}: {args.output.with_suffix('.md')}")


if __name__ == "__main__":
    main()
