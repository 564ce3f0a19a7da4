"""Apply corrections of an audit to a COCO file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from maskwise.data.atomic_files import check_output, read_json, write_json
from maskwise.data.problems import Id
from maskwise.data.segmentations import mask_of_segmentation, outline_fields
from maskwise.errors import AnnotationError


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of an annotation, or a new annotation.

    Attributes:
        name: its new name; None takes the annotation out.
        annotation_id: of the annotation; None for a new one.
        image_id: of the image of a new one.
        segmentation: outline of a new one, as COCO run lengths.
    """

    name: str | None
    annotation_id: Id | None = None
    image_id: Id | None = None
    segmentation: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        new = self.image_id is not None and self.segmentation is not None and self.name is not None
        if new == (self.annotation_id is not None):
            raise ValueError("give annotation_id and name; or image_id, segmentation and name of a new annotation")


@dataclass(frozen=True)
class Corrected:
    """How many annotations `apply_corrections` changed.

    Attributes:
        renamed: annotations with a new name.
        removed: annotations that were taken out.
        added: new annotations.
    """

    renamed: int
    removed: int
    added: int


def read_corrections(path: str | os.PathLike[str]) -> list[Correction]:
    """Read the corrections that the page of an audit saves.

    Raises:
        AnnotationError: the file is not a list of corrections.
        InputError: it cannot be read.
    """
    try:
        return msgspec.convert(read_json(Path(path)), list[Correction])
    except msgspec.ValidationError as error:
        raise AnnotationError(f"{path}: is not what the page of an audit saves ({error})") from error


def apply_corrections(
    annotations: str | os.PathLike[str], corrections: Sequence[Correction], output: str | os.PathLike[str]
) -> Corrected:
    """Write a COCO file with corrected names and new annotations; all else in it stays as it is.

    Args:
        annotations: COCO file to correct.
        corrections: each of an annotation or an image in it; names that it lacks become new categories.
        output: COCO file to write, whole or not at all.

    Raises:
        AnnotationError: an annotation or an image is not in the file, the file is not COCO, or an outline is damaged.
        InputError: a file cannot be read or written.
    """
    check_output(output, inputs=[annotations])
    content: Any = read_json(Path(annotations))
    try:
        by_id = {record["id"]: record for record in content["annotations"]}
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        ids = {category["name"]: category["id"] for category in content["categories"]}
    except (KeyError, TypeError) as error:
        raise AnnotationError(f"{annotations}: is no COCO file with images, annotations and categories") from error
    out: set[Id] = set()
    added: list[dict[str, Any]] = []
    for correction in corrections:
        if correction.segmentation is not None:
            if correction.image_id not in sizes:
                raise AnnotationError(f"{annotations}: has no image {correction.image_id}; was it this file?")
            category = _category_id(content, ids, str(correction.name))
            mask = mask_of_segmentation(correction.segmentation, sizes[correction.image_id])
            new_id = _free_id([*by_id, *(record["id"] for record in added)])
            added.append(
                {"id": new_id, "image_id": correction.image_id, "category_id": category, **outline_fields(mask)}
            )
            continue
        if correction.annotation_id is None or correction.annotation_id not in by_id:
            raise AnnotationError(f"{annotations}: has no annotation {correction.annotation_id}; was it this file?")
        if correction.name is None:
            out.add(correction.annotation_id)
            continue
        by_id[correction.annotation_id]["category_id"] = _category_id(content, ids, correction.name)
    content["annotations"] = [record for record in content["annotations"] if record["id"] not in out] + added
    write_json(Path(output), content, indent=None)
    return Corrected(len(corrections) - len(out) - len(added), len(out), len(added))


def _category_id(content: Any, ids: dict[str, Any], name: str) -> Any:
    """Return the id of a category, which is added if it is new."""
    if name not in ids:
        ids[name] = _free_id(ids.values())
        content["categories"].append({"id": ids[name], "name": name})
    return ids[name]


def _free_id(used: Any) -> int:
    """Return the first whole number above all that are used."""
    return max([number for number in used if isinstance(number, int)], default=0) + 1
