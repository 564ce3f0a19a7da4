"""Find segments of nothing: outlines in labelled photographs that touch no labelled region."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskwise.data.images import Pixels
from maskwise.data.masks import Mask
from maskwise.data.regions import Category, LabelledRegion, Regions, RegionSet, read_by_image
from maskwise.errors import AnnotationError
from maskwise.model.segmenter import Segmenter
from maskwise.progress import Progress

MAX_TOUCH = 0.02
"""Maximum share of a segment that may lie on labelled regions."""
MIN_AREA = 100
"""Minimum size of a segment, pixels."""
POINTS_PER_SIDE = 12


def segments_of_nothing(segmenter: Segmenter, image: Pixels, objects: list[Mask]) -> Iterator[Mask]:
    """Yield the segments of a photograph that touch no object.

    Args:
        segmenter: finds segments.
        image: height x width x 3, uint8, RGB.
        objects: masks of everything that is labelled in it.
    """
    taken = np.zeros(image.shape[:2], dtype=bool)
    for one in objects:
        taken |= one.to_array()
    for segment in segmenter.segment(image, points_per_side=POINTS_PER_SIDE):
        array = segment.mask.to_array()
        if segment.mask.area >= MIN_AREA and (array & taken).sum() <= MAX_TOUCH * segment.mask.area:
            yield segment.mask


def find_nothing(regions: RegionSet, segmenter: Segmenter | None = None) -> RegionSet:
    """Return the segments of labelled photographs that touch no labelled region, for `fit_classes(nothing=...)`.

    Args:
        regions: every object of the classes must be labelled in their images; crowds count.
        segmenter: finds segments (default: the built-in one); about 2 s a photograph on two cores.

    Raises:
        AnnotationError: there is none.
        ImageError, MaskError: an image or a mask cannot be used.
    """
    segmenter = segmenter or Segmenter()
    found: list[LabelledRegion] = []
    by_image = read_by_image(regions.regions)
    with Progress(len(np.unique(regions.regions.image)), "find nothing", "images") as progress:
        for numbers, image, objects in by_image:
            of_image = regions.regions[numbers[0]]
            for mask in segments_of_nothing(segmenter, image, objects):
                found.append(of_image.beside(mask, region_id=len(found), name="nothing"))
            progress.update()
    if not found:
        raise AnnotationError("no segment of these photographs lies apart from all labelled regions")
    return RegionSet((Category(0, "nothing"),), Regions.of(found))
