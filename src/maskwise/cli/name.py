"""`maskwise name`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from maskwise.cli.options import DeviceFlag, MinKnown, MinProbability, Mode, ModelFile, OnErrorFlag, Threads

if TYPE_CHECKING:
    from maskwise.data.problems import Problem
    from maskwise.tasks.naming import NamedPhoto


@dataclass(frozen=True, kw_only=True)
class Command:
    """Find and name the things in a photograph, or in all photographs of a folder.

    Outlines everything, names each outline, and drops what is none of the model's classes. Prints a table for a single
    photograph, and the number of things for each of a folder.

    Examples:
      maskwise name photo.jpg
      maskwise name photo.jpg --overlay named.png -o named.json
      maskwise name photos -o named.json --overlay pictures
    """

    photos: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PHOTO|FOLDER")]
    """A photograph, or a folder of photographs; its sub-folders are read too."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """COCO file to write."""
    overlay: Path | None = None
    """Also draw the named things: a picture (PNG or JPEG), or a folder for the pictures of a folder."""
    top: int = 3
    """Number of classes per thing."""
    points_per_side: int = 24
    """Try this many points in each direction. More points find smaller things and take longer."""
    on_error: OnErrorFlag = "skip"
    min_score: float | None = None
    """Leave out things of a lower score, 0 to 1: how sure outline, name and being one of the classes are together
    (default: chosen on training photographs; 0 shows all)."""
    min_known: MinKnown = None
    min_probability: MinProbability = 0.0
    mode: Mode = "exact"
    model: ModelFile = None
    device: DeviceFlag = "cpu"
    threads: Threads = None

    def run(self) -> None:
        """Name, print, write."""
        from maskwise.model.predictor import Predictor
        from maskwise.model.segmenter import Segmenter
        from maskwise.reports.overlay import check_suffix
        from maskwise.tasks.naming import MIN_SCORE, CocoCollector, check_outputs, name_photos

        check_outputs(self.photos, self.output, self.overlay)
        if self.overlay is not None and not self.photos.is_dir():
            check_suffix(self.overlay)
        predictor = Predictor(
            self.model,
            mode=self.mode,
            device=self.device,
            threads=self.threads,
            min_known=self.min_known,
            min_probability=self.min_probability,
        )
        folder = self.photos if self.photos.is_dir() else self.photos.parent
        collector, problems = CocoCollector(predictor.info.categories, folder), list["Problem"]()
        for photo in name_photos(
            self.photos,
            Segmenter(threads=self.threads),
            predictor,
            top=self.top,
            points_per_side=self.points_per_side,
            min_score=MIN_SCORE if self.min_score is None else self.min_score,
            on_error=self.on_error,
            problems=problems,
        ):
            collector.add(photo)
            self._show(photo, folder)
        if self.output is not None:
            collector.write(self.output, problems)
            print(f"{self.output}: {len(collector.annotations)} things in {len(collector.images)} image(s)")
        if problems:
            print(f"{len(problems)} image(s) left out; the first: {problems[0].message}", file=sys.stderr)

    def _show(self, photo: NamedPhoto, folder: Path) -> None:
        """Print the things of a photograph, and draw them if asked."""
        from maskwise.cli.predict import print_table
        from maskwise.data.atomic_files import make_folder
        from maskwise.reports.overlay import write_overlay

        predictions = [thing.prediction for thing in photo.things]
        boxes = [",".join(map(str, thing.segment.mask.box_xywh)) for thing in photo.things]
        if self.photos.is_dir():
            print(f"{photo.path.relative_to(folder)}: {len(photo.things)} things")
        elif predictions:
            print_table(boxes, predictions)
        else:
            print("nothing that the model knows")
        if self.overlay is not None:
            target = self.overlay
            if self.photos.is_dir():
                target = self.overlay / photo.path.relative_to(folder).with_suffix(".png")
                make_folder(target.parent)
            write_overlay(target, photo.image, [thing.segment.mask for thing in photo.things], predictions)
