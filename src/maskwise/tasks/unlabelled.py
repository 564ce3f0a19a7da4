"""Find things without a label: segments that are surely one of the classes and that no label covers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maskwise.data.problems import Problem
from maskwise.data.regions import LabelledRegion, RegionSet, read_by_image
from maskwise.errors import InputError
from maskwise.model.predictor import Predictor
from maskwise.model.segmenter import Segmenter
from maskwise.progress import Progress
from maskwise.tasks.naming import MIN_SCORE, name_things
from maskwise.tasks.suspicions import Suspicion

MAX_COVERED = 0.2
"""Maximum share of a thing without a label that may lie under labels: more, and it is a part or a group of these."""


def find_unlabelled(
    regions: RegionSet,
    predictor: Predictor,
    segmenter: Segmenter,
    *,
    min_score: float = MIN_SCORE,
    skip: tuple[type[InputError], ...] = (),
    problems: list[Problem] | None = None,
) -> Iterator[tuple[LabelledRegion, Suspicion]]:
    """Yield things of the classes that no label covers, each as a region and as a suspicion.

    Only images with at least one label are looked at, and only names that `regions.categories` has are given.

    Args:
        regions: the labels; crowds cover what lies under them.
        predictor: names.
        segmenter: outlines.
        min_score: things of a lower `Thing.score` are left out, 0 to 1.
        skip: kinds of faults whose regions are left out.
        problems: gets the skipped faults.

    Raises:
        ImageError, MaskError, AnnotationError: an image or a mask cannot be used; see `read_by_image`.
    """
    classes = {category.name for category in regions.categories}
    by_image = read_by_image(regions.regions, skip=skip, problems=problems)
    with Progress(len(np.unique(regions.regions.image)), "find unlabelled", "images") as progress:
        for numbers, image, masks in by_image:
            labelled = regions.regions[numbers[0]]
            covered = np.zeros(image.shape[:2], dtype=bool)
            for mask in masks:
                covered |= mask.to_array()
            for thing in name_things(image, segmenter, predictor, min_score=min_score):
                mask, prediction = thing.segment.mask, thing.prediction
                if prediction.name in classes and covered[mask.to_array()].mean() <= MAX_COVERED:
                    yield (
                        labelled.beside(mask, region_id=-1, name=prediction.name),
                        Suspicion(
                            kind="unlabelled",
                            score=round(thing.score, 4),
                            image_id=labelled.image_id,
                            file_name=labelled.image_path.name,
                            suggested=prediction.name,
                            probability=round(prediction.probability, 4),
                            known=None if prediction.known is None else round(prediction.known, 4),
                            segmentation=mask.to_rle(),
                        ),
                    )
            progress.update()
