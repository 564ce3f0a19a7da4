"""Check segments, annotations or label maps: every fault, and what is in them. Changes nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from maskwise.concurrency import prefetch
from maskwise.data.coco_file import CocoFile, label_problems
from maskwise.data.coco_index import value_of
from maskwise.data.image_paths import find_each_image
from maskwise.data.images import load_image
from maskwise.data.label_maps import regions_from_label_maps
from maskwise.data.problems import Problem
from maskwise.data.regions import grouped, read_by_image
from maskwise.data.segment_files import read_segments
from maskwise.errors import AnnotationError, ImageError, InputError
from maskwise.progress import Progress
from maskwise.tasks.evaluation import COCO_BOUNDS, COCO_SIZES
from maskwise.tasks.metrics import size_bins

FORMS = {list: "polygons", dict: "run lengths", type(None): "box only", str: "other"}
"""Forms of a mask by the type of `segmentation`."""


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes:
        contents: what there is: names and numbers, in the order to show.
        problems: every fault, in the order of the file.
    """

    contents: dict[str, int]
    problems: tuple[Problem, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain JSON values."""
        return {"contents": self.contents, "problems": [problem.to_dict() for problem in self.problems]}


class _Record(msgspec.Struct):
    segmentation: Any = None


def check_segments(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    images_of: str | os.PathLike[str] | None = None,
    allow_outside: bool = False,
) -> Check:
    """Check a COCO file or segments in another form, and with a folder of images these too.

    Args:
        path: the file; see `read_segments` for the forms.
        images: folder of the images, or one photograph (default: masks are checked by the sizes that the file states).
        images_of: COCO file that names the images of a results list.
        allow_outside: whether file names may leave the folder of images.

    Raises:
        AnnotationError: the file cannot be read at all, or the folder of images is missing.
    """
    coco = read_segments(path, Path(path).parent if images is None else images, images_of=images_of, on_error="skip")
    problems = list(coco.problems)
    if coco.index.has_categories:
        problems += label_problems(coco, unnamed=False)
    areas = np.full(len(coco.index.start), np.nan)
    folder = None if images is None else Path(images)
    folder = folder.parent if folder is not None and folder.is_file() else folder
    problems += prefetch(_mask_problems(coco, folder, areas, allow_outside=allow_outside))
    return Check(_contents(coco, areas), tuple(problems))


def _mask_problems(coco: CocoFile, folder: Path | None, areas: np.ndarray, *, allow_outside: bool) -> Iterator[Problem]:
    """Yield the faults of images and masks; fill in the areas of the others."""
    groups = [rows.tolist() for rows in grouped(coco.index.image) if coco.index.image[rows[0]] >= 0]
    images = [int(coco.index.image[rows[0]]) for rows in groups]
    paths: list[str | AnnotationError | None] = [None] * len(images)
    if folder is not None:
        paths = list(find_each_image(coco, folder, images, allow_outside=allow_outside))
    with Progress(len(groups), "check", "images") as progress:
        for image, rows, path in zip(images, groups, paths, strict=True):
            image_id = value_of(coco.index.image_id, image)
            try:
                image_hw = None if path is None else _image_hw(path)
            except InputError as error:
                yield Problem(str(error), image_id)
            else:
                yield from _problems_of_rows(coco, rows, image_hw, areas)
            progress.update()


def _image_hw(path: str | AnnotationError) -> tuple[int, int]:
    """Decode an image, since a file cut short has a good header."""
    if isinstance(path, AnnotationError):
        raise path
    pixels = load_image(path)
    return pixels.shape[0], pixels.shape[1]


def _problems_of_rows(
    coco: CocoFile, rows: list[int], image_hw: tuple[int, int] | None, areas: np.ndarray
) -> Iterator[Problem]:
    for row in rows:
        image_id, annotation_id = coco.ids(row)
        try:
            mask = coco.mask(row, image_hw) if image_hw is not None else coco.read_mask(row, Path(os.devnull))
        except ImageError:  # Neither an image nor a stated size: nothing to check the mask against.
            continue
        except InputError as error:
            yield Problem(str(error), image_id, annotation_id, row)
        else:
            areas[row] = mask.area


def _contents(coco: CocoFile, areas: np.ndarray) -> dict[str, int]:
    index = coco.index
    per_image = np.bincount(index.image[index.image >= 0], minlength=len(index.file_name))
    used = np.unique(index.category[index.category >= 0])
    contents = {
        "images": len(index.file_name),
        "images without annotations": int((per_image == 0).sum()),
        "annotations": len(index.start),
        "most annotations of an image": int(per_image.max(initial=0)),
        "classes": len(index.category_name),
        "classes with annotations": len(used),
        "annotations without a class": int((index.category < 0).sum()),
        "crowds": int(index.crowd.sum()),
    }
    contents |= {form: count for form, count in sorted(_forms(coco).items()) if count}
    known = areas[~np.isnan(areas)]
    counts = np.bincount(size_bins(known, COCO_BOUNDS), minlength=len(COCO_SIZES)).tolist()
    return contents | {f"{name} regions": count for name, count in zip(COCO_SIZES, counts, strict=True)}


def _forms(coco: CocoFile) -> Counter[str]:
    """Count the forms in which masks are given."""
    forms: Counter[str] = Counter()
    for row in range(len(coco.index.start)):
        try:
            given = msgspec.json.decode(coco.record(row), type=_Record).segmentation
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        forms["box only" if given in ([], {}) else FORMS.get(type(given), "other")] += 1
    return Counter({f"masks as {form}": count for form, count in forms.items()})


def check_label_maps(
    labels_dir: str | os.PathLike[str],
    images_dir: str | os.PathLike[str],
    classes_file: str | os.PathLike[str] | None = None,
    *,
    palette: str | os.PathLike[str] | None = None,
) -> Check:
    """Check label maps and their images.

    Args:
        labels_dir: folder of label maps; see `regions_from_label_maps`.
        images_dir: the images.
        classes_file: line n (from 0) names pixel value n.
        palette: in place of it, for label maps in colours.

    Raises:
        AnnotationError: there is no such folder, no usable label map in it, or the list of classes cannot be used.
    """
    regions = regions_from_label_maps(labels_dir, images_dir, classes_file, palette=palette, on_error="skip")
    problems = [*regions.problems, *(Problem(note) for note in regions.notes)]
    areas = regions.regions.areas()
    with Progress(len(regions.regions), "check", "regions") as progress:
        for numbers, _, _ in read_by_image(regions.regions, skip=(InputError,), problems=problems):
            progress.update(len(numbers))
    counts = np.bincount(size_bins(areas, COCO_BOUNDS), minlength=len(COCO_SIZES)).tolist()
    contents = {
        "label maps": len(regions.regions.images) + len(regions.problems),
        "components": len(regions.regions),
        "classes": len(regions.categories),
        "classes with components": len(regions.regions.counts()),
    }
    contents |= {f"{name} regions": count for name, count in zip(COCO_SIZES, counts, strict=True)}
    return Check(contents, tuple(problems))
