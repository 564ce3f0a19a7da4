"""Write one line per trial of the built-in model: what, why, accuracy, cost; failures included.

Trials are compared on the held-out images of COCO train2017 alone. `--val` measures coco/val2017 too, for models that
are kept: nothing is chosen by it. Lines stay; a run measured again replaces its own.

Run from the repository's root:
python benchmarks/recognition.py runs/dinov2-linear runs/resnet50 --val -o benchmarks/results/recognition
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskwise import Predictor
from maskwise.data.atomic_files import read_json, write_json, write_text
from maskwise.data.coco_regions import regions_from_coco
from maskwise.data.regions import RegionSet
from maskwise.reports.formatting import interval, percent, table
from maskwise.tasks.evaluation import evaluate
from maskwise.training.data import read_data
from maskwise.training.settings import TrainSettings, expand_variables, settings_from_dict

KEPT = ("regions", "micro", "micro_ci95", "macro", "macro_ci95", "ece", "by_size")


def measured(predictor: Predictor, regions: RegionSet) -> dict[str, Any]:
    """Return the figures of a report that a line shows."""
    report = evaluate(predictor, regions).report.to_dict()
    return {key: report[key] for key in KEPT}


def held_out(settings: TrainSettings) -> RegionSet:
    """Return the held-out regions of the first source."""
    split = read_data(replace(settings.data, sources=settings.data.sources[:1]))
    return RegionSet(split.categories, split.holdout)


def trial(folder: Path, *, val: bool) -> dict[str, Any]:
    """Return a run's line."""
    run = read_json(folder / "run.json")
    settings = settings_from_dict(run["settings"], str(folder))
    predictor = Predictor(folder / "model.onnx", mode="exact")
    root = Path(expand_variables(settings.data.data_root)) / "coco"
    steps = sum(one["steps"] for one in run.get("averaged", [])) or settings.schedule.steps
    seed = settings.schedule.seed if "averaged" not in run else 0
    line = {
        "name": settings.run.name + (f", seed {seed}" if seed else ""),
        "note": settings.run.note,
        "storage": predictor.info.training["storage"],
        "megabytes": round((folder / "model.onnx").stat().st_size / 1e6, 1),
        "samples": steps * settings.schedule.batch_size,
        "seconds": run["seconds"],
        "held_out": measured(predictor, held_out(settings)),
    }
    if val:
        line["val"] = measured(
            predictor, regions_from_coco(root / "annotations/instances_val2017.json", root / "val2017")
        )
    return line


def page(lines: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    rows = []
    for line in lines:
        val = line.get("val")
        rows.append(
            (
                line["name"],
                line["note"],
                line["held_out"]["regions"],
                *(percent(line["held_out"][key]) for key in ("micro", "macro")),
                f"{percent(val['micro'])} ({interval(val['micro_ci95'])})" if val else "",
                f"{percent(val['macro'])} ({interval(val['macro_ci95'])})" if val else "",
                " / ".join(percent(results["micro"]) for results in val["by_size"]["coco"].values()) if val else "",
                percent(val["ece"]) if val else "",
                f"{line['megabytes']} ({line['storage']})",
                line["samples"],
                line["seconds"],
            )
        )
    header = ("run", "what and why", "held out", "held-out micro", "held-out macro", "val micro", "val macro")
    header += ("val small / medium / large", "val calibration error", "MB", "samples", "training, s")
    return (
        "# Trials of the built-in model\n\n"
        "Held-out: regions of images of COCO train2017 that the run did not learn from; what is kept is chosen by them"
        " alone, among runs with as many. Val: coco/val2017, with 95 % intervals, measured for what is kept. Seconds"
        " are of the loop on two shared cores, a teacher's embeddings not counted.\n\n" + table(header, rows) + "\n"
    )


def main() -> None:
    """Measure the runs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--val", action="store_true", help="measure coco/val2017 too")
    parser.add_argument("-o", "--output", type=Path, required=True, help="without suffix: .json and .md are written")
    args = parser.parse_args()
    kept = args.output.with_suffix(".json")
    lines = {line["name"]: line for line in (read_json(kept) if kept.is_file() else [])}
    for folder in args.runs:
        line = trial(folder, val=args.val)
        lines[line["name"]] = {**lines.get(line["name"], {}), **line}
    write_json(kept, list(lines.values()))
    write_text(args.output.with_suffix(".md"), page(list(lines.values())))
    print(args.output.with_suffix(".md"))


if __name__ == "__main__":
    main()
