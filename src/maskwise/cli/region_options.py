"""Flags for the labelled regions that a command reads."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from maskwise.cli.options import wrong_usage

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
    ignore: tuple[str, ...] = ()
    """Classes to ignore, by their names in the annotations."""
    rename: tuple[str, ...] = ()
    """Rename annotation classes, for example sofa=couch."""
    min_area: int = 0
    """Ignore regions smaller than this, pixels."""

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
        if (self.label_maps is None) != (self.classes is None):
            wrong_usage(verb, "--label-maps and --classes go together")
        for text in self.rename:
            if not all(text.partition("=")):
                wrong_usage(verb, f"--rename {text}: give OLD=NEW")

    def read(self) -> RegionSet:
        """Read the regions.

        Raises:
            AnnotationError: the annotations cannot be used, or have no such class to ignore or rename.
        """
        from maskwise.data.coco_regions import regions_from_coco
        from maskwise.data.label_maps import regions_from_label_maps

        if self.annotations is None:
            assert self.label_maps is not None, "see `check`"
            assert self.classes is not None, "see `check`"
            regions = regions_from_label_maps(self.label_maps, self.images, self.classes, min_area=self.min_area)
        else:
            regions = regions_from_coco(self.annotations, self.images)
            if self.min_area:  # Slow for a file that does not state areas: the masks are read.
                regions = regions.only(regions.regions.areas() >= self.min_area)
        for note in regions.notes:
            print(note, file=sys.stderr)
        if len(regions.regions) and regions.regions.crowd.all():
            regions = regions.as_single_objects()
            print(
                f"all {len(regions.regions)} regions are marked iscrowd, as CVAT marks brush masks:"
                " used as single objects",
                file=sys.stderr,
            )
        return regions.without(self.ignore).renamed(dict(text.split("=", 1) for text in self.rename))
