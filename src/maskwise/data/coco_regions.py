"""Read the labelled regions of a COCO file."""

from __future__ import annotations

import os

import numpy as np

from maskwise.data.coco_file import read_coco
from maskwise.data.image_paths import find_images
from maskwise.data.regions import Regions, RegionSet


def regions_from_coco(
    path: str | os.PathLike[str],
    images_dir: str | os.PathLike[str],
    *,
    cache: str | os.PathLike[str] | None = None,
    images_required: bool = True,
) -> RegionSet:
    """Read the labelled regions of a COCO file: crowds included and marked, images in the file's order.

    Args:
        path: the JSON file.
        images_dir: folder that its `file_name`s are relative to.
        cache: see `read_coco`.
        images_required: whether a missing image file is an error now; if not, reading the image fails later.

    Raises:
        AnnotationError: see `read_coco`; also an image id without a file.
        InputError: see `read_coco`.
    """
    coco = read_coco(path, labelled=True, cache=cache)
    order = np.argsort(coco.index.image, kind="stable")
    rows, of_row = np.unique(coco.index.image[order], return_inverse=True)
    paths = [os.fsencode(file) for file in find_images(coco, images_dir, rows.tolist(), required=images_required)]
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
    return RegionSet(categories, by_category).renamed({})  # Two categories of one name are one class.
