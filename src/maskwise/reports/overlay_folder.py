"""Draw the named annotations of a COCO file on their photographs."""

from __future__ import annotations

import os
from pathlib import Path

from maskwise.data.atomic_files import make_folder
from maskwise.data.coco_file import CocoFile, read_coco
from maskwise.data.coco_index import value_of
from maskwise.data.image_paths import find_each_image
from maskwise.data.images import load_image
from maskwise.data.regions import grouped
from maskwise.errors import InputError
from maskwise.progress import Progress
from maskwise.reports.named_records import named_record
from maskwise.reports.overlay import write_overlay


def write_overlays(
    named: str | os.PathLike[str],
    images_dir: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    allow_outside: bool = False,
) -> int:
    """Draw a picture of every image that has annotations, under its name with the suffix .png.

    Regions without a class, or of "none of these", have a grey outline. Images and masks that cannot be used are left
    out, as `label` leaves them unnamed.

    Args:
        named: COCO file with names, as `label` writes it.
        images_dir: folder of the images.
        folder: folder to write; made if missing.
        allow_outside: whether file names may leave the folder of images.

    Returns:
        The number of pictures.

    Raises:
        AnnotationError: the file cannot be read, or there is no such folder of images.
        InputError: a picture cannot be written.
    """
    coco = read_coco(named, labelled=False, on_error="skip")
    groups = [rows.tolist() for rows in grouped(coco.index.image) if coco.index.image[rows[0]] >= 0]
    images = [int(coco.index.image[rows[0]]) for rows in groups]
    paths = find_each_image(coco, images_dir, images, allow_outside=allow_outside)
    target, written = make_folder(folder), 0
    with Progress(len(groups), "draw", "images") as progress:
        for image, rows, path in zip(images, groups, paths, strict=True):
            if isinstance(path, str):
                written += _draw(coco, rows, path, target / _picture_name(coco, image))
            progress.update()
    return written


def _picture_name(coco: CocoFile, image: int) -> str:
    """Return a name in the folder: that of the image, its folders joined, since two may have images of one name."""
    parts = [part for part in Path(coco.file_name(image).replace("\\", "/")).with_suffix(".png").parts if part != ".."]
    return "_".join(part for part in parts if part != "/") or f"{value_of(coco.index.image_id, image)}.png"


def _draw(coco: CocoFile, rows: list[int], path: str, target: Path) -> bool:
    """Draw one image; return whether it could be read and has a usable mask."""
    names = {category.id: category.name for category in coco.categories}
    try:
        image = load_image(path)
    except InputError:
        return False
    masks, predictions = [], []
    for row in rows:
        try:
            mask = coco.mask(row, (image.shape[0], image.shape[1]))
        except InputError:
            continue
        masks.append(mask)
        predictions.append(named_record(coco, row).prediction(names))
    if masks:
        write_overlay(target, image, masks, predictions)
    return bool(masks)
