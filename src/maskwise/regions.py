"""Labelled regions of images on disk: what training learns from and evaluation measures on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from maskwise.errors import AnnotationError
from maskwise.masks import Mask


@dataclass(frozen=True)
class Category:
    """A class by name, with its number in the annotations (COCO's have gaps)."""

    id: int
    name: str


@dataclass(frozen=True)
class LabelledRegion:
    """One annotated region; its mask is read only when asked for.

    Attributes:
        image_path: the image file.
        image_id: the image's id in its annotations.
        region_id: the region's id in its annotations.
        name: its class.
        area: pixels, as the annotations state it (COCO's sizes go by this).
        crowd: marks many objects at once; left out except in the published protocols.
        read_mask: gives the mask; raises AnnotationError or MaskError.
    """

    image_path: Path
    image_id: int | str
    region_id: int | str
    name: str
    area: float
    crowd: bool
    read_mask: Callable[[], Mask]


@dataclass(frozen=True)
class RegionSet:
    """Labelled regions and the classes they may have, in the annotations' order (regions of an image together)."""

    categories: tuple[Category, ...]
    regions: tuple[LabelledRegion, ...]

    def renamed(self, names: Mapping[str, str]) -> RegionSet:
        """The same with classes called otherwise; two classes of one new name become one.

        Raises:
            AnnotationError: a name to be replaced is not a class here.
        """
        self._refuse_unknown(names, "rename")
        categories = {names.get(c.name, c.name): c for c in reversed(self.categories)}
        return RegionSet(
            tuple(replace(c, name=name) for name, c in reversed(categories.items())),
            tuple(replace(region, name=names.get(region.name, region.name)) for region in self.regions),
        )

    def without(self, names: Sequence[str]) -> RegionSet:
        """The same without some classes and their regions.

        Raises:
            AnnotationError: a name is not a class here.
        """
        self._refuse_unknown(names, "ignore")
        return RegionSet(
            tuple(c for c in self.categories if c.name not in names),
            tuple(region for region in self.regions if region.name not in names),
        )

    def _refuse_unknown(self, names: Sequence[str] | Mapping[str, str], verb: str) -> None:
        known = [c.name for c in self.categories]
        for name in names:
            if name not in known:
                raise AnnotationError(f"cannot {verb} class {name!r}: the classes here are {', '.join(known)}")

    def by_image(self) -> Iterator[tuple[Path, list[LabelledRegion]]]:
        """The regions of each image together, in order."""
        for path, regions in groupby(self.regions, key=lambda region: region.image_path):
            yield path, list(regions)
