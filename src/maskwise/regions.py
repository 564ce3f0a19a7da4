"""Labelled regions of images on disk: what training learns from and evaluation measures on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maskwise.errors import AnnotationError, ImageError, naming_mask
from maskwise.images import Pixels, load_image
from maskwise.masks import Mask, check_size


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

    def mask_of(self, image_hw: tuple[int, int]) -> Mask:
        """The mask, refused where it is not of the image's size.

        Args:
            image_hw: the image's height and width, pixels.

        Raises:
            MaskError: it has another size, or cannot be used; the message names the region.
        """
        mask = self.read_mask()
        with naming_mask(f"annotation id {self.region_id} of image {self.image_path.name} (id {self.image_id})"):
            check_size(mask, image_hw)
        return mask


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


def read_by_image(
    regions: Sequence[LabelledRegion], *, unreadable: list[ImageError] | None = None
) -> Iterator[tuple[list[int], Pixels, list[Mask]]]:
    """Each image once, in order of first mention, with the numbers of its regions in the sequence and their masks.

    Args:
        regions: the regions.
        unreadable: gets the errors of images that cannot be used, whose regions are then left out.

    Raises:
        ImageError: an image cannot be used, and `unreadable` is left out.
        MaskError: a mask cannot be used or has another size than its image; the message names the region.
    """
    of_image: dict[Path, list[int]] = {}
    for number, region in enumerate(regions):
        of_image.setdefault(region.image_path, []).append(number)
    for path, numbers in of_image.items():
        try:
            image = load_image(path)
        except ImageError as error:
            if unreadable is None:
                raise
            unreadable.append(error)
            continue
        yield numbers, image, [regions[number].mask_of(image.shape[:2]) for number in numbers]
