"""`maskwise fit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from maskwise.cli.options import Device, wrong_usage
from maskwise.cli.region_options import Source

if TYPE_CHECKING:
    from maskwise.tasks.fitting import Fit


@dataclass(frozen=True, kw_only=True)
class Command:
    """Make a model of your own classes from a few labelled regions of each, without torch.

    The regions are embedded by a model (the one inside Maskwise), and a last layer is fitted to that: which kind, how
    strongly regularised and how sure of itself is settled by cross-validation over images. Ten regions a class are
    a good start. The model file that comes out is like any other.

    Examples:
      maskwise fit photos labels.json -o mine.onnx
      maskwise fit photos --label-maps maps --classes classes.txt --ignore background -o mine.onnx
      maskwise predict photo.jpg --mask m.png --model mine.onnx
    """

    source: Annotated[Source, tyro.conf.arg(name="")]
    """The labelled regions."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("model.onnx")
    """Model file to write."""
    per_class: int | None = None
    """Learn from at most so many regions of a class, drawn over as many images as there are; all where left out."""
    head: Literal["auto", "linear", "mean"] = "auto"
    """Logistic regression, the nearest mean of a class, or whichever of both and their sum does best."""
    name: str = ""
    """What the model is called; its file's name where left out."""
    model: Path | None = None
    """Model file whose embeddings are learned from; the embedded one where left out."""
    device: Device = "cpu"
    """cpu or cuda."""
    threads: int | None = None
    """Processor threads; all cores where left out."""

    def run(self) -> None:
        """Fit, write the model file, say how good it is."""
        self.source.check("fit")
        if self.per_class is not None and self.per_class < 1:
            wrong_usage("fit", f"--per-class {self.per_class}: give at least 1")
        from maskwise.data.atomic_files import check_output
        from maskwise.data.sampling import sample_per_class
        from maskwise.tasks.fitting import fit_classes

        inputs = [path for path in (self.source.annotations, self.source.classes) if path is not None]
        check_output(self.output, inputs=inputs)
        regions = self.source.read()
        if self.per_class is not None:
            regions = sample_per_class(regions, self.per_class)
        found = fit_classes(
            regions,
            self.output,
            model=self.model,
            head=self.head,
            name=self.name,
            device=self.device,
            threads=self.threads,
        )
        print_fit(found)
        print(f"{self.output}: the model file")


def print_fit(found: Fit) -> None:
    """Print the heads that were tried, and from how much."""
    from rich.console import Console
    from rich.table import Table

    from maskwise.reports.formatting import percent

    chosen = found.trials[0]
    fewest = min(found.regions, key=found.regions.__getitem__)
    console = Console()
    console.print(
        f"{sum(found.regions.values())} regions of {len(found.regions)} classes (fewest: {found.regions[fewest]} of"
        f" {fewest}), {found.seconds:.0f} s",
        markup=False,
    )
    if chosen.micro is None:
        print(
            "accuracy unknown, probabilities not calibrated: that takes two classes with regions in two images or more"
        )
        return
    table = Table("head", box=None, pad_edge=False)
    for column in ("over regions", "over classes", "temperature"):
        table.add_column(column, justify="right")
    for trial in found.trials:
        name = trial.name + (" (chosen)" if trial is chosen else "")
        table.add_row(name, percent(trial.micro), percent(trial.macro), f"{trial.temperature:.2f}")
    console.print(
        f"accuracy on images left out, the fit's own estimate, by {chosen.regions} regions of {chosen.classes} of the"
        f" {len(found.regions)} classes (the likeliest head is chosen, not the most accurate):",
        markup=False,
    )
    console.print(table)
