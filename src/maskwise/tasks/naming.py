"""Name the things in photographs: outline everything, name each outline, drop what is none of the classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskwise.data.atomic_files import check_output, write_json
from maskwise.data.images import IMAGE_SUFFIXES, ImageSource, Pixels, as_pixels, load_image
from maskwise.data.masks import Mask
from maskwise.data.problems import OnError, Problem, write_problems
from maskwise.data.regions import Category
from maskwise.errors import ImageError, InputError
from maskwise.model.prediction import Prediction
from maskwise.model.predictor import Predictor
from maskwise.model.segmenter import Segment, Segmenter
from maskwise.progress import Progress
from maskwise.tasks.segmenting import photos_in, record_of

MIN_SCORE = 0.7
"""Things of a lower score are left out: the best F1 at IoU 0.5 on held-out training photographs."""
NESTED = 0.8
"""A segment of which at least this share lies in another one of its class is a part of it, or it is a group."""


@dataclass(frozen=True, eq=False)
class Thing:
    """A thing in a photograph.

    Attributes:
        segment: its outline.
        prediction: its name.
    """

    segment: Segment
    prediction: Prediction

    @property
    def score(self) -> float:
        """How sure outline and name are: predicted IoU x probability of being known x probability of the name."""
        known = 1.0 if self.prediction.known is None else self.prediction.known
        return self.segment.score * known * self.prediction.probability


@dataclass(frozen=True, eq=False)
class NamedPhoto:
    """A photograph and the things in it, the surest first."""

    path: Path
    image: Pixels
    things: list[Thing]


def name_things(
    image: ImageSource,
    segmenter: Segmenter,
    predictor: Predictor,
    *,
    top: int = 5,
    points_per_side: int = 24,
    min_score: float = MIN_SCORE,
) -> list[Thing]:
    """Find and name the things in a photograph.

    Segments that are "none of these" by the predictor's limits are dropped. Of nested segments of one class the outer
    one stays, unless it holds several things of that class side by side: then these stay.

    Args:
        image: height x width x 3, uint8, RGB; or what `load_image` takes, such as a path.
        segmenter: outlines.
        predictor: names.
        top: how many classes each prediction holds.
        points_per_side: points of the segmenter's grid in each direction.
        min_score: things of a lower `Thing.score` are left out, 0 to 1.

    Returns:
        The things, the surest first.

    Raises:
        ImageError, InputError: see `Segmenter.segment` and `Predictor.predict`.
    """
    pixels = as_pixels(image)
    segments = segmenter.segment(pixels, points_per_side=points_per_side)
    predictions = predictor.predict(pixels, [segment.mask for segment in segments], top=top)
    pairs = zip(segments, predictions, strict=True)
    return things_of([Thing(segment, prediction) for segment, prediction in pairs], min_score)


def things_of(named: Sequence[Thing], min_score: float) -> list[Thing]:
    """Return what is a thing among named segments, the surest first.

    Args:
        named: segments of a photograph with their names.
        min_score: see `name_things`.
    """
    things = without_nested([one for one in named if not one.prediction.is_none])
    return sorted((one for one in things if one.score >= min_score), key=lambda thing: -thing.score)


def without_nested(things: Sequence[Thing]) -> list[Thing]:
    """Return the things without parts of others of their class and without groups of several of them."""
    inside: dict[int, list[int]] = {}
    for outer, inner in _nested_pairs(things):
        inside.setdefault(outer, []).append(inner)
    dropped: set[int] = set()
    for outer in sorted(inside, key=lambda number: things[number].segment.mask.area):  # Groups of groups last.
        parts = [inner for inner in inside[outer] if inner not in dropped]
        apart = _apart([things[inner] for inner in parts])
        if len(apart) > 1 and max(one.score for one in apart) >= things[outer].score:
            dropped.add(outer)
        else:
            dropped.update(parts)
    return [thing for number, thing in enumerate(things) if number not in dropped]


def _nested_pairs(things: Sequence[Thing]) -> Iterator[tuple[int, int]]:
    """Yield pairs of an outer and an inner thing of one class."""
    for outer, one in enumerate(things):
        for inner, other in enumerate(things):
            larger = (one.segment.mask.area, -outer) > (other.segment.mask.area, -inner)
            if outer != inner and larger and one.prediction.name == other.prediction.name:
                shared = overlap(one.segment.mask, other.segment.mask)
                if shared >= NESTED * other.segment.mask.area:
                    yield outer, inner


def _apart(things: Sequence[Thing]) -> list[Thing]:
    """Return things that lie side by side, the surest first."""
    kept: list[Thing] = []
    for thing in sorted(things, key=lambda one: -one.score):
        shares = (overlap(thing.segment.mask, one.segment.mask) / thing.segment.mask.area for one in kept)
        if all(share < 1 - NESTED for share in shares):
            kept.append(thing)
    return kept


def overlap(one: Mask, other: Mask) -> int:
    """Return how many pixels two masks of an image share.

    >>> overlap(Mask.from_box((0, 0, 4, 4), (9, 9)), Mask.from_box((2, 3, 5, 5), (9, 9)))
    2
    """
    (x0, y0, w0, h0), (x1, y1, w1, h1) = one.box_xywh, other.box_xywh
    left, top, right, bottom = max(x0, x1), max(y0, y1), min(x0 + w0, x1 + w1), min(y0 + h0, y1 + h1)
    if left >= right or top >= bottom:
        return 0
    parts = (mask.crop(left, top, right, bottom) for mask in (one, other))
    return int(np.count_nonzero(np.logical_and(*parts)))


def iou(one: Mask, other: Mask) -> float:
    """Return the pixels that two masks of an image share, as a share of those of either, 0 to 1.

    >>> round(iou(Mask.from_box((0, 0, 4, 4), (9, 9)), Mask.from_box((2, 3, 5, 5), (9, 9))), 4)
    0.0513
    """
    shared = overlap(one, other)
    return shared / (one.area + other.area - shared)


def name_photos(
    photos: str | os.PathLike[str],
    segmenter: Segmenter,
    predictor: Predictor,
    *,
    top: int = 5,
    points_per_side: int = 24,
    min_score: float = MIN_SCORE,
    on_error: OnError = "skip",
    problems: list[Problem] | None = None,
) -> Iterator[NamedPhoto]:
    """Yield a photograph, or each of a folder, with the things in it.

    Args:
        photos: an image file, or a folder with sub-folders.
        segmenter: outlines.
        predictor: names.
        top: how many classes each prediction holds.
        points_per_side: points of the segmenter's grid in each direction.
        min_score: things of a lower `Thing.score` are left out, 0 to 1.
        on_error: `skip` leaves unreadable photographs of a folder out; `stop` raises the first fault.
        problems: gets the photographs that were left out.

    Raises:
        ImageError: the photograph cannot be read; with `stop` also one of a folder.
        InputError: there is no such file, or no image in the folder.
    """
    path = Path(photos)
    one = not path.is_dir()
    files = [path] if one else list(photos_in(path))
    if not files:
        raise InputError(f"{path}: no image in this folder; accepted are {', '.join(IMAGE_SUFFIXES)}")
    with Progress(len(files), "name", "images") as progress:
        for file in files:
            try:
                image = load_image(file)
            except ImageError as error:
                if one or on_error == "stop":
                    raise
                if problems is not None:
                    problems.append(Problem(str(error)))
            else:
                things = name_things(
                    image, segmenter, predictor, top=top, points_per_side=points_per_side, min_score=min_score
                )
                yield NamedPhoto(file, image, things)
            progress.update()


class CocoCollector:
    """Collects named photographs as a COCO file."""

    def __init__(self, categories: Sequence[Category], folder: Path) -> None:
        """Start with no photograph.

        Args:
            categories: the model's classes.
            folder: file names are relative to it.
        """
        self._categories, self._folder = categories, folder
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, photo: NamedPhoto) -> None:
        """Add a photograph with its things."""
        height, width = photo.image.shape[:2]
        name = os.path.relpath(photo.path, self._folder)
        self.images.append({"id": len(self.images) + 1, "file_name": name, "width": width, "height": height})
        for thing in photo.things:
            record = record_of(thing.segment, len(self.annotations) + 1, len(self.images))
            names = thing.prediction.names
            record |= {
                "category_id": thing.prediction.category_id,
                "score": round(thing.score, 6),
                "top_category_ids": [name.category_id for name in names],
                "top_scores": [round(name.probability, 6) for name in names],
            }
            if thing.prediction.known is not None:
                record["known"] = round(thing.prediction.known, 6)
            self.annotations.append(record)

    def write(self, output: Path, problems: Sequence[Problem] = ()) -> None:
        """Write the COCO file, whole or not at all, and the problems beside it."""
        categories = [{"id": category.id, "name": category.name} for category in self._categories]
        content = {"images": self.images, "annotations": self.annotations, "categories": categories}
        write_json(output, content, indent=None)
        write_problems(output.with_name(output.name + ".problems.json"), problems)


def check_outputs(photos: Path, output: Path | None, overlay: Path | None) -> None:
    """Refuse outputs that cannot be written, before the work.

    Raises:
        InputError: see `check_output`; or the overlays of a folder are to go into a file.
    """
    if output is not None:
        check_output(output, inputs=[photos] if photos.is_file() else [])
    if overlay is not None and photos.is_dir() and overlay.is_file():
        raise InputError(f"{overlay}: is a file; give a folder for the pictures of a folder of photographs")
