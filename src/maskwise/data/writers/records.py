"""Named regions on their way into a file: what every writer gets, image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskwise.data.masks import Mask
from maskwise.data.problems import Id
from maskwise.data.regions import Category

DEFAULT_IMAGE_URL = "/data/local-files/?d="
"""What Label Studio puts before the paths of files in its local storage."""


@dataclass(frozen=True)
class ScoredClass:
    """A class that a region may have.

    Attributes:
        name: the class.
        category_id: its id in the output.
        score: its probability, 0 to 1.
    """

    name: str
    category_id: Id
    score: float


@dataclass(frozen=True, eq=False, kw_only=True)
class NamedRegion:
    """A region and its name.

    Attributes:
        annotation_id: its id.
        mask: its pixels; None if they cannot be read.
        category: the name that it gets; None if it gets none.
        score: probability of its most probable class, 0 to 1; None if the model did not name it.
        top: the model's most probable classes, the most probable first.
        known: probability of being one of the classes at all, 0 to 1; None if the model cannot tell.
        is_none: whether it is "none of these".
    """

    annotation_id: Id
    mask: Mask | None
    category: Category | None
    score: float | None = None
    top: tuple[ScoredClass, ...] = ()
    known: float | None = None
    is_none: bool = False

    @property
    def confidence(self) -> float | None:
        """How sure the name is, 0 to 1: of "none of these" the probability that it is none; None if unknown."""
        if self.is_none:
            return None if self.known is None else round(1 - self.known, 6)
        return self.score

    @property
    def runners_up(self) -> tuple[ScoredClass, ...]:
        """The classes that it was not given."""
        return self.top if self.is_none else self.top[1:]


@dataclass(frozen=True, eq=False, kw_only=True)
class NamedImage:
    """An image and its named regions.

    Attributes:
        image_id: its id.
        file_name: its file name, as the input has it.
        image_hw: height and width, pixels; None if unknown.
        regions: any number.
    """

    image_id: Id
    file_name: str
    image_hw: tuple[int, int] | None
    regions: tuple[NamedRegion, ...]

    @property
    def drawn(self) -> list[tuple[NamedRegion, Category, Mask]]:
        """The regions that annotation tools can show: with a name and a mask."""
        return [
            (region, region.category, region.mask)
            for region in self.regions
            if region.category is not None and region.mask is not None
        ]


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How regions are written.

    Attributes:
        categories: all classes that a region may have, in the order of the output's list of classes.
        model: name of the model.
        polygons: polygons in place of run lengths, where the format has both.
        image_url: what stands before the file names, where the format has the images' addresses.
    """

    categories: tuple[Category, ...]
    model: str = "maskwise"
    polygons: bool = False
    image_url: str = DEFAULT_IMAGE_URL


Write = Callable[[Iterable[NamedImage], Path, WriteOptions], None]
"""Writes images, read one after the other, to a path: whole or not at all."""


def outline_of(mask: Mask, *, polygons: bool) -> dict[str, Any] | list[list[float]]:
    """Return a mask as COCO's `segmentation`: run lengths or polygons."""
    if not polygons:
        return mask.to_rle()
    from maskwise.data.outlines import mask_polygons

    return [polygon.ravel().tolist() for polygon in mask_polygons(mask)]
