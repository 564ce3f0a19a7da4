"""`maskwise evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from maskwise.cli.options import DeviceFlag, MinKnown, MinProbability, Mode, ModelFile, Threads
from maskwise.cli.region_options import RegionFlags

if TYPE_CHECKING:
    from maskwise.tasks.evaluation_report import Report


@dataclass(frozen=True, kw_only=True)
class Command:
    """Evaluate a model on labelled regions.

    Writes a folder: report.json, report.md, predictions.json, and pictures of confusions and of accuracy by size.
    Classes are matched by name; regions of classes that the model does not know are counted and left out.

    Examples:
      maskwise evaluate val2017 instances_val2017.json -o evaluation
      maskwise evaluate photos labels.json --rename sofa=couch --ignore background
      maskwise evaluate photos --label-maps maps --classes classes.txt --min-area 100
    """

    regions: Annotated[RegionFlags, tyro.conf.arg(name="")]
    """The labelled regions."""
    mask_noise: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also evaluate with noisy masks (dilated, eroded, shifted, boxes); takes five times as long."""
    with_background: Path | None = None
    """COCO file of regions of the same images that are none of the classes: how many of them get a name?"""
    min_known: MinKnown = None
    min_probability: MinProbability = 0.0
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("evaluation")
    """Folder to write; made if missing."""
    mode: Mode = "exact"
    model: ModelFile = None
    device: DeviceFlag = "cpu"
    threads: Threads = None

    def run(self) -> None:
        """Evaluate, write the folder, print a summary."""
        self.regions.check("evaluate")
        from maskwise.data.atomic_files import make_folder
        from maskwise.data.coco_regions import regions_from_coco
        from maskwise.model.predictor import Predictor
        from maskwise.reports.report_folder import write_report
        from maskwise.tasks.evaluation import evaluate

        regions = self.regions.read()
        background = (
            None
            if self.with_background is None
            else regions_from_coco(self.with_background, self.regions.images, on_error=self.regions.on_error)
        )
        predictor = Predictor(
            self.model,
            mode=self.mode,
            device=self.device,
            threads=self.threads,
            min_known=self.min_known,
            min_probability=self.min_probability,
        )
        make_folder(self.output)  # Not after an hour's work: the folder may be impossible to make.
        evaluation = evaluate(
            predictor,
            regions,
            data=self.regions.name,
            mask_noise=self.mask_noise,
            on_error=self.regions.on_error,
            background=background,
        )
        missing = write_report(evaluation, self.output)
        print_summary(evaluation.report)
        if missing is not None:
            print(f"no pictures: {missing}")
        if evaluation.problems:
            print(f"{self.output / 'problems.json'}: {len(evaluation.problems)} faults in the data, left out")
        print(f"{self.output / 'report.html'}: the report; {self.output / 'report.md'}: all its numbers")


def print_summary(report: Report) -> None:
    """Print the main numbers of a report as a table."""
    from rich.console import Console
    from rich.table import Table

    from maskwise.reports.formatting import interval, percent
    from maskwise.reports.markdown import headline_rows

    table = Table("measure", box=None, pad_edge=False)
    for column in ("value", "95 % interval"):
        table.add_column(column, justify="right")
    for row in headline_rows(report):
        table.add_row(*row)
    for name, size in report.by_size.coco.items():
        if size.regions:
            label = f"micro accuracy, {name} regions ({size.regions})"
            table.add_row(label, percent(size.micro), interval(size.micro_ci95))
    for kind, noisy in report.mask_noise.items():
        table.add_row(f"micro accuracy, masks with noise: {kind}", percent(noisy.micro))
    if report.background is not None:
        table.add_row("AUROC of objects against no class", f"{report.background.auroc:.3f}", "")
        table.add_row("regions of no class named, of 95 % of objects", percent(report.background.named_at_95), "")
    console = Console()
    console.print(f"{report.model}: {report.regions} regions, {report.images} images", markup=False)
    console.print(table)
    if report.unknown_classes:
        left_out, classes = sum(report.unknown_classes.values()), len(report.unknown_classes)
        print(f"left out: {left_out} regions of {classes} classes that the model does not know (see report.md)")
