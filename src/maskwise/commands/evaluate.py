"""`maskwise evaluate`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import tyro

if TYPE_CHECKING:
    from maskwise.regions import RegionSet


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

    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGES")]
    """Folder of the images."""
    annotations: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[ANNOTATIONS]")] = None
    """COCO file; left out with --label-maps."""
    label_maps: Path | None = None
    """Folder of PNGs whose pixel values are classes, instead of a COCO file; each connected component is a region."""
    classes: Path | None = None
    """With --label-maps: text file, line n (from 0) names pixel value n."""
    ignore: tuple[str, ...] = ()
    """Classes to leave out, by their names in the annotations."""
    rename: tuple[str, ...] = ()
    """OLD=NEW: classes of the annotations that the model calls otherwise."""
    min_area: int = 0
    """Leave out smaller regions, pixels."""
    sloppy: bool = False
    """Measure under worse masks too (dilated, eroded, shifted, boxes); takes five times as long."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("evaluation")
    """Folder to write; made if missing."""
    model: Path | None = None
    """Model file; the embedded one where left out."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int | None = None
    """Processor threads; all cores where left out."""

    def run(self) -> None:
        """Evaluate, write the folder, print a summary."""
        names = self._renames()
        self._check_source()
        from maskwise.evaluate import evaluate
        from maskwise.files import make_folder
        from maskwise.predictor import Predictor
        from maskwise.report import write_report

        regions = self._regions().without(self.ignore).renamed(names)
        predictor = Predictor(self.model, device=self.device, threads=self.threads)
        make_folder(self.output)  # An hour's work should not fail at its end for want of a place.
        evaluation = evaluate(predictor, regions, data=self._data_name(), sloppy=self.sloppy)
        write_report(evaluation, self.output)
        print_summary(evaluation.report)
        print(f"{self.output / 'report.md'}: the report")

    def _check_source(self) -> None:
        if (self.annotations is None) == (self.label_maps is None):
            _wrong_usage("give the regions either as ANNOTATIONS (a COCO file) or with --label-maps, one of the two")
        if (self.label_maps is None) != (self.classes is None):
            _wrong_usage("--label-maps and --classes go together")

    def _renames(self) -> dict[str, str]:
        pairs = [text.partition("=") for text in self.rename]
        for text, (old, _, new) in zip(self.rename, pairs, strict=True):
            if not old or not new:
                _wrong_usage(f"--rename {text}: give OLD=NEW")
        return {old: new for old, _, new in pairs}

    def _data_name(self) -> str:
        """What the report calls the regions: a COCO file says by its name what it is of, a folder `labels` does not."""
        path = (self.annotations or self.label_maps).absolute()
        return path.name if self.annotations else "/".join(path.parts[-2:])

    def _regions(self) -> RegionSet:
        from maskwise.coco import regions_from_coco
        from maskwise.labelmaps import regions_from_label_maps

        if self.annotations is None:
            return regions_from_label_maps(self.label_maps, self.images, self.classes, min_area=self.min_area)
        regions = regions_from_coco(self.annotations, self.images)
        return replace(regions, regions=tuple(r for r in regions.regions if r.area >= self.min_area))


def _wrong_usage(message: str) -> NoReturn:
    print(f"maskwise evaluate: {message}", file=sys.stderr)
    raise SystemExit(2)


def print_summary(report: dict) -> None:
    """Print the main numbers of a report as a table."""
    from rich.console import Console
    from rich.table import Table

    from maskwise.report import interval, percent

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
