"""Find the image files that a COCO file names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from maskwise.data.coco_file import CocoFile
from maskwise.data.coco_index import value_of
from maskwise.errors import AnnotationError


def find_images(
    coco: CocoFile, images_dir: str | os.PathLike[str], images: Iterable[int], *, required: bool = True
) -> list[str]:
    """The files of images, given by their rows.

    The file system is asked once for each folder, not once for each of a hundred thousand images.

    Raises:
        AnnotationError: there is no such folder, or no such file in it and it is required.
    """
    if not Path(images_dir).is_dir():
        raise AnnotationError(f"{images_dir}: there is no such folder of images")
    folders: dict[str, tuple[str, set[str]]] = {}
    paths = []
    for image in images:
        parent, name = os.path.split(coco.file_name(image))
        if parent not in folders:
            folders[parent] = (str(Path(images_dir, parent)), _files_in(Path(images_dir, parent)))
        folder, listed = folders[parent]
        paths.append(os.path.join(folder, name))
        if required and name not in listed and not os.path.isfile(paths[-1]):  # Letter case may not matter there.
            image_id = value_of(coco.index.image_id, image)
            raise AnnotationError(
                f"{coco.path}: image id {image_id} is {name}, which is not in the folder {images_dir}"
            )
    return paths


def _files_in(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file()}
