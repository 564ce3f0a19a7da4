"""Apply corrections of an audit to a COCO file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from maskwise.data.atomic_files import check_output, read_json, write_json
from maskwise.data.problems import Id
from maskwise.errors import AnnotationError


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of an annotation.

    Attributes:
        annotation_id: of the annotation.
        name: its new name; None takes the annotation out.
    """

    annotation_id: Id
    name: str | None


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
) -> tuple[int, int]:
    """Write a COCO file with corrected names; all else in it stays as it is.

    Args:
        annotations: COCO file to correct.
        corrections: each of an annotation in it; names that it lacks become new categories.
        output: COCO file to write, whole or not at all.

    Returns:
        How many annotations have a new name, and how many were taken out.

    Raises:
        AnnotationError: an annotation is not in the file, or the file is not COCO.
        InputError: a file cannot be read or written.
    """
    check_output(output, inputs=[annotations])
    content: Any = read_json(Path(annotations))
    try:
        by_id = {record["id"]: record for record in content["annotations"]}
        ids = {category["name"]: category["id"] for category in content["categories"]}
    except (KeyError, TypeError) as error:
        raise AnnotationError(f"{annotations}: is no COCO file with annotations and categories") from error
    out: set[Id] = set()
    for correction in corrections:
        if correction.annotation_id not in by_id:
            raise AnnotationError(f"{annotations}: has no annotation {correction.annotation_id}; was it this file?")
        if correction.name is None:
            out.add(correction.annotation_id)
            continue
        if correction.name not in ids:
            ids[correction.name] = _free_id(ids.values())
            content["categories"].append({"id": ids[correction.name], "name": correction.name})
        by_id[correction.annotation_id]["category_id"] = ids[correction.name]
    content["annotations"] = [record for record in content["annotations"] if record["id"] not in out]
    write_json(Path(output), content, indent=None)
    return len(corrections) - len(out), len(out)


def _free_id(used: Any) -> int:
    """Return the first whole number above all that are used."""
    return max([number for number in used if isinstance(number, int)], default=0) + 1
