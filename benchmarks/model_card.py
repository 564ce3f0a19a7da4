"""Write the embedded model's card from its own metadata, its reports and the data it was trained on.

Run from the repository's root, after `make results`:
python benchmarks/model_card.py -o docs/model-card.md
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
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
"""COCO's numbers of the licences under which a picture may stand here, with its source."""
SHOWN_FAILURES = 12
SURE = 0.2
"""Above this probability a name of nothing is counted."""
RARE = 20
"""A class of fewer regions to learn from is called rare."""
TEMPLATE = Path(__file__).with_name("model-card-template.md")


@dataclass(frozen=True)
class Failure:
    """A region with a wrong name: what the network saw, and whose photograph it is."""

    tile: Tile
    source: str


def failures(predictor: Predictor, annotations: Path, images: Path) -> list[Failure]:
    """The surest mistakes in freely licensed photographs, one an image at most."""
    records = {image["id"]: image for image in read_json(annotations)["images"]}
    rows = read_json(COCO / "predictions.json")
    wrong = [dict(zip(rows["columns"], row, strict=True)) for row in rows["data"]]
    wrong = [row for row in wrong if row["predicted"] != row["true"] and not row["crowd"]]
    regions = {region.region_id: region for region in regions_from_coco(annotations, images).regions}
    found, seen = [], set()
    for row in sorted(wrong, key=lambda row: -row["probability"]):
        image = records[row["image_id"]]
        if image.get("license") not in FREE_LICENCES or row["image_id"] in seen:
            continue
        seen.add(row["image_id"])
        region = regions[row["region_id"]]
        mask = region.read_mask()
        pixels, coverage = predictor.info.view.view(mask).render(load_image(region.image_path), mask)
        source = f"{image['flickr_url']} ({FREE_LICENCES[image['license']]})"
        lines = (row["true"], f"told: {row['predicted']} {percent(row['probability'])}")
        found.append(Failure(Tile(pixels, coverage, lines), source))
    return found[:SHOWN_FAILURES]


def blank_confidence(predictor: Predictor, annotations: Path, images: Path) -> dict[str, list[float]]:
    """How sure the model is of its first name of each region when the image is black, white or noise.

    Of every image's first three regions, crowds left out.
    """
    found: dict[str, list[float]] = {}
    noise = np.random.default_rng(0)
    regions = regions_from_coco(annotations, images).regions
    regions = regions.only(~regions.crowd)
    for kind in ("black", "white", "noise"):
        sure = found[kind] = []
        for of_image in regions.by_image():
            masks = [regions[number].read_mask() for number in of_image[:3]]
            shape = (*masks[0].image_hw, 3)
            pixels = {"black": np.zeros(shape, np.uint8), "white": np.full(shape, 255, np.uint8)}.get(kind)
            image = noise.integers(0, 256, shape, dtype=np.uint8) if pixels is None else pixels
            sure += predictor.probabilities(image, masks).max(axis=1).tolist()
    return found


def card(
    settings: TrainSettings, split: Split, predictor: Predictor, blank: dict[str, list[float]], shown: list[Failure]
) -> str:
    """The page: the template beside this file, filled in."""
    coco, voc = read_json(COCO / "report.json"), read_json(VOC / "report.json")
    record, network = predictor.info.training, settings.network
    counts = Counter({name: 0 for name in split.names})
    counts.update(split.train.counts())
    photographs = Counter(path.parts[-2] if path.parts[-2] != "images" else path.parts[-4] for path in _images(split))
    rare = [coco["per_class"][n] for n, count in counts.items() if count < RARE and n in coco["per_class"]]
    rare_tested = sum(found["regions"] for found in rare)
    header = ("regions", "micro", "95 % interval", "macro", "95 % interval", "among five", "calibration error")
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=predictor.info.name,
        trunk=network.trunk,
        merge=network.merge,
        sites=", ".join(network.sites) or "no site",
        pool=network.pool,
        context=f"{settings.view.context:g}",
        size=settings.view.size,
        storage=record["storage"],
        runs=len(record["averaged"]),
        learned=record["regions_train"],
        held_out=record["regions_holdout"],
        headline=table(header, [_headline("COCO val2017", coco), _headline("VOC 2012 val", voc)]),
        by_size=_by_size(coco["by_size"]["coco"]),
        sloppy=", ".join(f"{kind} {percent(found['micro'])}" for kind, found in coco["mask_noise"].items()),
        micro=percent(coco["micro"]),
        blank=_blank(blank),
        sources="; ".join(failure.source for failure in shown),
        most=", ".join(f"{name} {percent(count / counts.total())}" for name, count in counts.most_common(5)),
        photographs=", ".join(f"{count} of {folder}" for folder, count in photographs.items()),
        rare_means=RARE,
        rare=sum(count < RARE for count in counts.values()),
        rare_tested=rare_tested,
        rare_right=percent(sum(found["accuracy"] * found["regions"] for found in rare) / max(rare_tested, 1)),
        by_class=_by_class(counts, coco["per_class"]),
    )


def _images(split: Split) -> list[Path]:
    """The images that were learned from, each once."""
    return [split.train.image_path(numbers[0]) for numbers in split.train.by_image()]


def _by_class(counts: Counter[str], per_class: dict[str, Any]) -> str:
    rows = []
    for name, count in counts.most_common():
        found = per_class.get(name)
        shown = (found["regions"], percent(found["accuracy"]), interval(found["ci95"])) if found else (0, "", "")
        rows.append((name, count, *shown, (found or {}).get("most_confused_with") or ""))
    header = ("class", "learned from", "regions in val2017", "accuracy", "95 % interval", "most often taken for")
    return table(header, rows)


def _by_size(sizes: dict[str, Any]) -> str:
    rows = [(n, f["regions"], percent(f["micro"]), interval(f["micro_ci95"])) for n, f in sizes.items()]
    return table(("size on COCO val2017", "regions", "micro", "95 % interval"), rows)


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
    """Measure what the reports do not have, and write the card and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    predictor = Predictor(mode="exact")
    settings = settings_from_dict(read_json(RECORD)["settings"], str(RECORD))
    for folder in (COCO, VOC):
        measured = read_json(folder / "report.json")["model"]
        if not predictor.info.name == settings.run.name == measured:
            raise SystemExit(
                f"{folder}: is of {measured}, the embedded model is {predictor.info.name}; run make results"
            )
    root = Path(expand_variables(settings.data.data_root)) / "coco"
    annotations, images = root / "annotations/instances_val2017.json", root / "val2017"
    shown = failures(predictor, annotations, images)
    write_picture(
        args.output.with_name("failures.png"), make_contact_sheet([failure.tile for failure in shown], columns=4)
    )
    blank = blank_confidence(predictor, annotations, images)
    write_text(args.output, card(settings, read_data(settings.data), predictor, blank, shown))
    print(f"{args.output}")


if __name__ == "__main__":
    main()
