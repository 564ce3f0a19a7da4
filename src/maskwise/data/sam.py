"""Read SAM's output as a COCO file of one image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from maskwise.data.atomic_files import read_json
from maskwise.data.coco_file import CocoFile, read_coco
from maskwise.data.coco_index import Text, index_of, json_text
from maskwise.errors import AnnotationError


class _Form(msgspec.Struct):
    """The keys by which SAM's files differ from COCO's."""

    image: Raw | UnsetType = UNSET
    images: Raw | UnsetType = UNSET


def read_segments(path: Path, file_name: str) -> CocoFile:
    """Index a COCO file of segments, or SAM's output as a COCO file of one image; errors as in `read_coco`.

    Args:
        path: the JSON file.
        file_name: of the photograph, which a list of segments does not name.
    """
    text = json_text(path)
    if not _is_of_sam(text):
        return read_coco(path, labelled=False)
    content = read_json(path)
    try:
        text = json.dumps(_sam_as_coco(content, file_name)).encode()
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from error
    return CocoFile(path, index_of(path, text), text)


def _sam_as_coco(content: Any, file_name: str) -> dict[str, Any]:
    """What SAM writes, as a COCO file of one image.

    Args:
        content: of a JSON file: the list of SAM's automatic mask generator, or an object of SA-1B with `image`.
        file_name: of the photograph that a list is of.
    """
    if isinstance(content, list):
        image, records = {"id": 1, "file_name": file_name}, content
        of_images = {json.dumps(record["image_id"]) for record in content if _has_image_id(record)}
        if len(of_images) > 1:
            raise AnnotationError(
                f"the list has segments of several images (image_id {', '.join(sorted(of_images)[:3])}) and does not"
                f" say which is {file_name}; give a COCO file, or a list of this image's segments only"
            )
    else:
        image = {**content["image"], "id": 1} if isinstance(content["image"], dict) else content["image"]
        records = content.get("annotations")
    if isinstance(records, list):
        records = [
            {"id": number, **record, "image_id": 1} if isinstance(record, dict) else record
            for number, record in enumerate(records, start=1)
        ]
    return {"images": [image], "annotations": records}


def _has_image_id(record: Any) -> bool:
    return isinstance(record, dict) and "image_id" in record


def _is_of_sam(text: Text) -> bool:
    try:
        form = msgspec.json.decode(text, type=_Form | list[Raw])
    except (msgspec.DecodeError, RecursionError):  # Of neither form; `read_coco` says what is wrong.
        return False
    return isinstance(form, list) or (form.image is not UNSET and form.images is UNSET)
