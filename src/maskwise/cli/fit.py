"""`maskwise fit`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from maskwise.cli.options import DeviceFlag, ModelFile, Threads, wrong_usage
from maskwise.cli.region_options import RegionFlags

if TYPE_CHECKING:
    from maskwise.data.regions import RegionSet
    from maskwise.tasks.fitting import Fit


@dataclass(frozen=True, kw_only=True)
class Command:
    """Fit a model of your own classes to a few labelled regions, without torch.

    A new last layer is fitted to the embeddings of an existing model (default: the built-in one). Head type,
    regularisation and temperature are chosen by cross-validation over whole images. Start with ten regions per class.
    The result is a model file like any other.

    Examples:
      maskwise fit photos labels.json -o mine.onnx
      maskwise fit photos --label-maps maps --classes classes.txt --nothing-class background -o mine.onnx
      maskwise predict photo.jpg --mask m.png --model mine.onnx
    """

    regions: Annotated[RegionFlags, tyro.conf.arg(name="")]
    """The labelled regions."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("model.onnx")
    """Model file to write."""
    per_class: int | None = None
    """Use at most this many regions per class, from different images first (default: all)."""
    nothing_class: tuple[str, ...] = ()
    """Classes that are none of those to learn, such as background: from them the model learns "none of these"."""
    nothing: Path | None = None
    """COCO file of segments of the same images that are none of the classes, to learn "none of these" from."""
    find_nothing: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Find such segments: outlines that touch no labelled region. Every object of the classes must be labelled."""
    head: Literal["auto", "linear", "mean"] = "auto"
    """Logistic regression, nearest class mean, or whichever of both and their sum does best."""
    name: str = ""
    """Name of the model (default: its file's name)."""
    model: ModelFile = None
    device: DeviceFlag = "cpu"
    threads: Threads = None

    def run(self) -> None:
        """Fit, write the model file, print how good it is."""
        self.regions.check("fit")
        if self.per_class is not None and self.per_class < 1:
            wrong_usage("fit", f"--per-class {self.per_class}: give at least 1")
        from maskwise.data.atomic_files import check_output
        from maskwise.data.label_maps import SPECK
        from maskwise.data.sampling import sample_per_class
        from maskwise.tasks.fitting import fit_classes

        flags = self.regions
        given = (flags.annotations, flags.classes, flags.palette, self.nothing)
        check_output(self.output, inputs=[path for path in given if path is not None])
        regions = flags.read(speck=SPECK)
        nothing = self._read_nothing(regions)
        regions = regions.without(self.nothing_class)
        if self.per_class is not None:
            regions = sample_per_class(regions, self.per_class)
        fit = fit_classes(
            regions,
            self.output,
            nothing=nothing,
            model=self.model,
            head=self.head,
            name=self.name,
            device=self.device,
            threads=self.threads,
            on_error=self.regions.on_error,
        )
        print_fit(fit)
        if fit.problems:
            print(f"left out: {len(fit.problems)} faults in the data; the first: {fit.problems[0].message}")
        print(f"{self.output}: the model file")

    def _read_nothing(self, regions: RegionSet) -> RegionSet | None:
        """Return the regions that are none of the classes; None if none are given."""
        from maskwise.data.coco_regions import regions_from_coco
        from maskwise.data.regions import Regions
        from maskwise.tasks.nothing import find_nothing

        flags, parts = self.regions, []
        if self.nothing_class:
            regions.without(self.nothing_class)  # Refuses unknown names.
            parts.append(regions.only(regions.regions.called(self.nothing_class)))
        if self.nothing is not None:
            parts.append(
                regions_from_coco(
                    self.nothing, flags.images, on_error=flags.on_error, allow_outside=flags.allow_outside
                )
            )
        if self.find_nothing:
            parts.append(find_nothing(regions))
        if not parts:
            return None
        return replace(parts[0], regions=Regions.joined([part.regions for part in parts]))


def print_fit(fit: Fit) -> None:
    """Print what was learned from and the heads that were tried."""
    from rich.console import Console
    from rich.table import Table

    from maskwise.reports.formatting import percent

    chosen, known = fit.trials[0], fit.known
    fewest = min(fit.regions, key=fit.regions.__getitem__)
    console = Console()
    console.print(
        f"{sum(fit.regions.values())} regions of {len(fit.regions)} classes (fewest: {fit.regions[fewest]} of"
        f" {fewest}), {fit.seconds:.0f} s",
        markup=False,
    )
    if known is not None:
        print(
            f'"none of these" from {known.nothing} regions of nothing: {percent(known.named_at_95)} of them are named'
            f" where 95 % of the objects are kept (AUROC {known.auroc:.3f}, by cross-validation over images)"
        )
    if chosen.micro is None:
        print("accuracy unknown and probabilities not calibrated: two classes need regions in two or more images")
        return
    table = Table("head", box=None, pad_edge=False)
    for column in ("micro accuracy", "macro accuracy", "temperature"):
        table.add_column(column, justify="right")
    for trial in fit.trials:
        name = trial.name + (" (chosen)" if trial is chosen else "")
        table.add_row(name, percent(trial.micro), percent(trial.macro), f"{trial.temperature:.2f}")
    console.print(
        f"accuracy by cross-validation over images, {chosen.regions} regions of {chosen.classes} of the"
        f" {len(fit.regions)} classes (the head with the lowest log loss is chosen):",
        markup=False,
    )
    console.print(table)
