"""Read the labelled regions of a COCO file."""

from __future__ import annotations

import os

import numpy as np

from maskwise.data.coco_file import label_problems, read_coco
from maskwise.data.coco_index import value_of
from maskwise.data.image_paths import expected_files, find_each_image
from maskwise.data.problems import OnError, Problem, refuse
from maskwise.data.regions import Regions, RegionSet
from maskwise.errors import AnnotationError


def regions_from_coco(
    path: str | os.PathLike[str],
    images_dir: str | os.PathLike[str],
    *,
    cache: str | os.PathLike[str] | None = None,
    images_required: bool = True,
    on_error: OnError = "stop",
    allow_outside: bool = False,
) -> RegionSet:
    """Read the labelled regions of a COCO file: crowds included and marked, images in the file's order.

    Args:
        path: the JSON file.
        images_dir: folder that its `file_name`s are relative to.
        cache: see `read_coco`.
        images_required: whether a missing image file is a fault now; if not, reading the image fails later.
        on_error: `stop` refuses a file with faulty records and lists them all; `skip` leaves them out and notes them in
            the set's `problems`.
        allow_outside: whether file names may leave the folder of images.

    Raises:
        AnnotationError: see `read_coco`; also an image id without a file.
        InputError: see `read_coco`.
    """
    coco = read_coco(path, labelled=True, on_error="skip", cache=cache)
    problems = [*coco.problems, *label_problems(coco)]
    order = np.argsort(coco.index.image, kind="stable")
    order = order[(coco.index.image[order] >= 0) & (coco.index.category[order] >= 0)]
    rows, of_row = np.unique(coco.index.image[order], return_inverse=True)
    results = find_each_image(coco, images_dir, rows.tolist(), allow_outside=allow_outside)
    if not images_required:
        results = expected_files(coco, images_dir, rows.tolist(), results)
    missing = np.array([isinstance(result, AnnotationError) for result in results], dtype=bool)
    problems += [
        Problem(str(results[place]), value_of(coco.index.image_id, int(rows[place])))
        for place in np.flatnonzero(missing).tolist()
    ]
    if on_error == "stop":
        refuse(problems)
    order, of_row = order[~missing[of_row]], of_row[~missing[of_row]]
    paths = [b"" if isinstance(result, AnnotationError) else os.fsencode(result) for result in results]
    images, image = np.unique(np.array(paths, dtype=bytes), return_inverse=True)  # Two ids may be of one file.
    categories = coco.categories
    by_category = Regions(
        names=tuple(category.name for category in categories),
        images=images,
        readers=(coco,),
        name=coco.index.category[order],
        image=image[of_row].astype(np.int32),
        stated_area=coco.index.area[order],
        crowd=coco.index.crowd[order],
        reader=np.zeros(len(order), dtype=np.int32),
        record=order,
    )
    # Two categories of one name are one class.
    return RegionSet(categories, by_category, problems=tuple(problems)).renamed({})
