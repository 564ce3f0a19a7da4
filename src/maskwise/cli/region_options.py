"""Flags for the labelled regions that a command reads."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from maskwise.cli.options import OnErrorFlag, wrong_usage

if TYPE_CHECKING:
    from maskwise.data.regions import RegionSet


@dataclass(frozen=True, kw_only=True)
class RegionFlags:
    """Labelled regions: a COCO file, or label maps."""

    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGES")]
    """Folder of the images."""
    annotations: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[ANNOTATIONS]")] = None
    """COCO file; omit it with --label-maps."""
    label_maps: Path | None = None
    """Folder of label maps (PNG or TIFF; pixel values are classes), instead of a COCO file; connected components are
    regions."""
    classes: Path | None = None
    """With --label-maps: text file whose line n (from 0) names pixel value n."""
    palette: Path | None = None
    """With --label-maps in colours, in place of --classes: text file with lines `R G B name`, or JSON."""
    ignore: tuple[str, ...] = ()
    """Classes to ignore, by their names in the annotations."""
    rename: tuple[str, ...] = ()
    """Rename annotation classes, for example sofa=couch."""
    min_area: float | None = None
    """Ignore regions smaller than this, pixels; with --label-maps a number below 1 is a share of the image."""
    on_error: OnErrorFlag = "stop"
    allow_outside: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Allow file names that leave the folder of images."""

    @property
    def name(self) -> str:
        """Name of the regions in a report: the COCO file's, or the label maps' folder and the folder around it."""
        if self.annotations is not None:
            return self.annotations.absolute().name
        assert self.label_maps is not None, "see `check`"
        return "/".join(self.label_maps.absolute().parts[-2:])

    def check(self, verb: str) -> None:
        """Exit with 2 if flags contradict each other.

        Args:
            verb: the command.
        """
        if (self.annotations is None) == (self.label_maps is None):
            wrong_usage(verb, "give either ANNOTATIONS (a COCO file) or --label-maps")
        given = (self.classes is not None) + (self.palette is not None)
        if given != (self.label_maps is not None):
            wrong_usage(verb, "--label-maps goes with --classes, or with --palette for maps in colours")
        if self.annotations is not None and self.min_area is not None and 0 < self.min_area < 1:
            wrong_usage(verb, f"--min-area {self.min_area:g}: give pixels, 1 or more; a share needs --label-maps")
        for text in self.rename:
            if not all(text.partition("=")):
                wrong_usage(verb, f"--rename {text}: give OLD=NEW")

    def read(self, speck: float = 0) -> RegionSet:
        """Read the regions; print remarks about what was left out.

        Args:
            speck: components of label maps that are smaller are left out unless --min-area says otherwise; share of the
                image.

        Raises:
            AnnotationError: the annotations cannot be used, or have no such class to ignore or rename.
        """
        regions = self._read(speck)
        for note in regions.notes:
            print(note, file=sys.stderr)
        if regions.problems:
            print(f"{len(regions.problems)} faults left out; the first: {regions.problems[0].message}", file=sys.stderr)
        if len(regions.regions) and regions.regions.crowd.all():
            regions = regions.as_single_objects()
            print(
                f"all {len(regions.regions)} regions are marked iscrowd, as CVAT marks brush masks:"
                " used as single objects",
                file=sys.stderr,
            )
        return regions.without(self.ignore).renamed(dict(text.split("=", 1) for text in self.rename))

    def _read(self, speck: float) -> RegionSet:
        from maskwise.data.coco_regions import regions_from_coco
        from maskwise.data.label_maps import regions_from_label_maps

        if self.annotations is None:
            assert self.label_maps is not None, "see `check`"
            min_area = speck if self.min_area is None else self.min_area
            return regions_from_label_maps(
                self.label_maps,
                self.images,
                self.classes,
                palette=self.palette,
                min_area=min_area,
                on_error=self.on_error,
            )
        regions = regions_from_coco(
            self.annotations, self.images, on_error=self.on_error, allow_outside=self.allow_outside
        )
        if self.min_area:  # Slow for a file that does not state areas: the masks are read.
            regions = regions.only(regions.regions.areas() >= self.min_area)
        return regions
