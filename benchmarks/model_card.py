"""Write the built-in model's card from its metadata, its reports and its training data.

Run from the repository's root, after `make results`:
python benchmarks/model_card.py -o docs/model-card.md
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from maskwise import Predictor, load_image
from maskwise.data.atomic_files import read_json, write_text
from maskwise.data.coco_regions import regions_from_coco
from maskwise.reports.contact_sheet import Tile, make_contact_sheet
from maskwise.reports.drawing import write_picture
from maskwise.reports.formatting import interval, percent, table
from maskwise.training.data import Split, read_data
from maskwise.training.settings import TrainSettings, expand_variables, settings_from_dict

RESULTS = Path("benchmarks/results")
COCO, VOC = RESULTS / "coco-val2017", RESULTS / "voc2012-val"
RECORD = Path("src/maskwise/models/default.json")
FREE_LICENCES = {4: "CC BY 2.0", 7: "no known restrictions", 8: "US government"}
"""COCO's numbers of the licences that allow showing a picture here, with its source."""
SHOWN_FAILURES = 12
SURE = 0.2
"""Names of empty images above this probability are counted."""
RARE = 20
"""A class with fewer training regions is called rare."""
FEW = 10
"""Classes with fewer regions in val2017 are counted."""
TEMPLATE = Path(__file__).with_name("model-card-template.md")


@dataclass(frozen=True)
class Failure:
    """A region with a wrong name: what the network saw, and whose photograph it is."""

    tile: Tile
    source: str


def failures(predictor: Predictor, annotations: Path, images: Path) -> list[Failure]:
    """Return the wrong names with the highest probability in freely licensed photographs, at most one per image."""
    records = {image["id"]: image for image in read_json(annotations)["images"]}
    rows = read_json(COCO / "predictions.json")
    wrong = [dict(zip(rows["columns"], row, strict=True)) for row in rows["data"]]
    wrong = [row for row in wrong if row["predicted"] != row["true"] and not row["crowd"]]
    regions = {region.region_id: region for region in regions_from_coco(annotations, images).regions}
    worst: list[Failure] = []
    seen = set()
    for row in sorted(wrong, key=lambda row: -row["probability"]):
        image = records[row["image_id"]]
        if image.get("license") not in FREE_LICENCES or row["image_id"] in seen:
            continue
        seen.add(row["image_id"])
        region = regions[row["region_id"]]
        mask = region.read_mask()
        pixels, coverage = predictor.info.view.view(mask).render(load_image(region.image_path), mask)
        source = f"{image['flickr_url']} ({FREE_LICENCES[image['license']]})"
        lines = (row["true"], f"predicted: {row['predicted']}", percent(row["probability"]))
        worst.append(Failure(Tile(pixels, coverage, lines), source))
    return worst[:SHOWN_FAILURES]


def blank_confidence(predictor: Predictor, annotations: Path, images: Path) -> dict[str, list[float]]:
    """Return the probability of the first name of regions if the image is black, white or noise.

    Uses the first three regions of every image, without crowds.
    """
    confidence: dict[str, list[float]] = {}
    noise = np.random.default_rng(0)
    regions = regions_from_coco(annotations, images).regions
    regions = regions.only(~regions.crowd)
    for kind in ("black", "white", "noise"):
        sure = confidence[kind] = []
        for of_image in regions.by_image():
            masks = [regions[number].read_mask() for number in of_image[:3]]
            shape = (*masks[0].image_hw, 3)
            pixels = {"black": np.zeros(shape, np.uint8), "white": np.full(shape, 255, np.uint8)}.get(kind)
            image = noise.integers(0, 256, shape, dtype=np.uint8) if pixels is None else pixels
            sure += predictor.probabilities(image, masks).max(axis=1).tolist()
    return confidence


def card(
    settings: TrainSettings, split: Split, predictor: Predictor, blank: dict[str, list[float]], shown: list[Failure]
) -> str:
    """Return the page: the template beside this file, filled in."""
    coco, voc = read_json(COCO / "report.json"), read_json(VOC / "report.json")
    record, network = predictor.info.training, settings.network
    counts = Counter({name: 0 for name in split.names})
    counts.update(split.train.counts())
    photographs = Counter(path.parts[-2] if path.parts[-2] != "images" else path.parts[-4] for path in _images(split))
    rare = [coco["per_class"][n] for n, count in counts.items() if count < RARE and n in coco["per_class"]]
    rare_tested = sum(row["regions"] for row in rare)
    few = [name for name in split.names if coco["per_class"].get(name, {"regions": 0})["regions"] < FEW]
    header = (
        "regions",
        "micro accuracy",
        "95 % interval",
        "macro accuracy",
        "95 % interval",
        "top-5 accuracy",
        "expected calibration error",
    )
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=predictor.info.name,
        trunk=network.trunk,
        context=f"{settings.view.context:g}",
        wide_context=f"{settings.view.wide_context:g}",
        nothing=record["head_nothing"],
        size=settings.view.size,
        storage=record["storage"],
        learned=record["regions_train"],
        held_out=record["regions_holdout"],
        headline=table(header, [_headline("COCO val2017", coco), _headline("VOC 2012 val", voc)]),
        by_size=_by_size(coco["by_size"]["coco"]),
        mask_noise=", ".join(f"{kind} {percent(row['micro'])}" for kind, row in coco["mask_noise"].items())
        or "not measured",
        coco_images=coco["images"],
        voc_images=voc["images"],
        voc_classes=len(voc["per_class"]),
        few=len(few),
        few_means=FEW,
        micro=percent(coco["micro"]),
        blank=_blank(blank),
        sources="; ".join(failure.source for failure in shown),
        most=", ".join(f"{name} {percent(count / counts.total())}" for name, count in counts.most_common(5)),
        photographs=", ".join(f"{count} of {folder}" for folder, count in photographs.items()),
        rare_means=RARE,
        rare=sum(count < RARE for count in counts.values()),
        rare_tested=rare_tested,
        rare_right=percent(sum(row["accuracy"] * row["regions"] for row in rare) / max(rare_tested, 1)),
        by_class=_by_class(counts, coco["per_class"]),
    )


def _images(split: Split) -> list[Path]:
    """Return the training images, each once."""
    return [split.train.image_path(numbers[0]) for numbers in split.train.by_image()]


def _by_class(counts: Counter[str], per_class: dict[str, Any]) -> str:
    rows = []
    for name, count in counts.most_common():
        row = per_class.get(name)
        shown = (row["regions"], percent(row["accuracy"]), interval(row["ci95"])) if row else (0, "", "")
        rows.append((name, count, *shown, (row or {}).get("most_confused_with") or ""))
    header = (
        "class",
        "training regions",
        "regions in val2017",
        "accuracy",
        "95 % interval",
        "most often confused with",
    )
    return table(header, rows)


def _by_size(sizes: dict[str, Any]) -> str:
    rows = [(n, f["regions"], percent(f["micro"]), interval(f["micro_ci95"])) for n, f in sizes.items()]
    return table(("size on COCO val2017", "regions", "micro accuracy", "95 % interval"), rows)


def _blank(blank: dict[str, list[float]]) -> str:
    rows = [
        (kind, len(sure), percent(float(np.mean(sure))), percent(max(sure)), sum(each > SURE for each in sure))
        for kind, sure in blank.items()
    ]
    return table(("image", "regions", "mean", "largest", f"above {percent(SURE)}"), rows)


def _headline(name: str, report: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{name} ({report['regions']})",
        percent(report["micro"]),
        interval(report["micro_ci95"]),
        percent(report["macro"]),
        interval(report["macro_ci95"]),
        percent(report["top5"]),
        percent(report["ece"]),
    )


def main() -> None:
    """Measure what the reports do not contain, and write the card and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    predictor = Predictor(mode="exact")
    settings = settings_from_dict(read_json(RECORD)["settings"], str(RECORD))
    for folder in (COCO, VOC):
        measured = read_json(folder / "report.json")["model"]
        if not predictor.info.name == settings.run.name == measured:
            raise SystemExit(
                f"{folder}: measures {measured}, but the built-in model is {predictor.info.name}; run make results"
            )
    root = Path(expand_variables(settings.data.data_root)) / "coco"
    annotations, images = root / "annotations/instances_val2017.json", root / "val2017"
    shown = failures(predictor, annotations, images)
    write_picture(
        args.output.with_name("failures.png"), make_contact_sheet([failure.tile for failure in shown], columns=4)
    )
    blank = blank_confidence(predictor, annotations, images)
    data = replace(settings.data, nothing=())  # The card tells of the classes; segments of nothing need not be here.
    write_text(args.output, card(settings, read_data(data), predictor, blank, shown))
    print(f"{args.output}")


if __name__ == "__main__":
    main()
