"""`maskwise evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from maskwise.cli.options import Device, Mode
from maskwise.cli.region_options import Source


@dataclass(frozen=True, kw_only=True)
class Command:
    """Measure a model on labelled regions.

    Writes a folder: report.json, report.md, predictions.json and pictures of confusions and of accuracy by size.
    Classes are matched by name; regions of classes that the model does not know are counted and left out.

    Examples:
      maskwise evaluate val2017 instances_val2017.json -o evaluation
      maskwise evaluate photos labels.json --rename sofa=couch --ignore background
      maskwise evaluate photos --label-maps maps --classes classes.txt --min-area 100
    """

    source: Annotated[Source, tyro.conf.arg(name="")]
    """The labelled regions."""
    sloppy: bool = False
    """Measure under worse masks too (dilated, eroded, shifted, boxes); takes five times as long."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("evaluation")
    """Folder to write; made if missing."""
    mode: Mode = "exact"
    model: Path | None = None
    """Model file; the embedded one where left out."""
    device: Device = "cpu"
    """cpu or cuda."""
    threads: int | None = None
    """Processor threads; all cores where left out."""

    def run(self) -> None:
        """Evaluate, write the folder, print a summary."""
        self.source.check("evaluate")
        from maskwise.data.atomic_files import make_folder
        from maskwise.model.predictor import Predictor
        from maskwise.reports.report_folder import write_report
        from maskwise.tasks.evaluation import evaluate

        regions = self.source.read()
        predictor = Predictor(self.model, mode=self.mode, device=self.device, threads=self.threads)
        make_folder(self.output)  # An hour's work should not fail at its end for want of a place.
        evaluation = evaluate(predictor, regions, data=self.source.name, sloppy=self.sloppy)
        write_report(evaluation, self.output)
        print_summary(evaluation.report)
        print(f"{self.output / 'report.md'}: the report")


def print_summary(report: dict) -> None:
    """Print the main numbers of a report as a table."""
    from rich.console import Console
    from rich.table import Table

    from maskwise.reports.formatting import interval, percent

    table = Table("measure", box=None, pad_edge=False)
    for column in ("value", "95 % interval"):
        table.add_column(column, justify="right")
    table.add_row("accuracy over regions (micro)", percent(report["micro"]), interval(report["micro_ci95"]))
    table.add_row("mean over classes (macro)", percent(report["macro"]), interval(report["macro_ci95"]))
    table.add_row("among the five most probable", percent(report["top5"]))
    table.add_row("calibration error", percent(report["ece"]))
    for name, found in report["by_size"]["coco"].items():
        if found["regions"]:
            label = f"micro, {name} regions ({found['regions']})"
            table.add_row(label, percent(found["micro"]), interval(found["micro_ci95"]))
    for kind, found in report["sloppy"].items():
        table.add_row(f"micro, masks made sloppy: {kind}", percent(found["micro"]))
    console = Console()
    console.print(f"{report['model']}: {report['regions']} regions, {report['images']} images", markup=False)
    console.print(table)
    if report["unknown_classes"]:
        left_out, classes = sum(report["unknown_classes"].values()), len(report["unknown_classes"])
        print(f"left out: {left_out} regions of {classes} classes that the model does not know (see report.md)")
