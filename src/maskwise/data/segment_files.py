"""Read segments in every form that tools write as a COCO file: SAM's lists, SA-1B, results lists, folders of these."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

from maskwise.data.atomic_files import read_json
from maskwise.data.coco_file import CocoFile, read_coco
from maskwise.data.coco_index import Text, id_column, index_of, json_text, value_of
from maskwise.data.image_paths import image_of_name, images_by_stem
from maskwise.data.images import IMAGE_SUFFIXES
from maskwise.data.problems import Id, OnError, Problem, refuse
from maskwise.errors import AnnotationError

COCO_DIGITS = 12
"""Digits of the file names of COCO's images, which are their ids."""


class _Form(msgspec.Struct):
    """The keys by which SAM's files differ from COCO's."""

    image: Raw | UnsetType = UNSET
    images: Raw | UnsetType = UNSET


def read_segments(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    images_of: str | os.PathLike[str] | None = None,
    on_error: OnError = "stop",
) -> CocoFile:
    """Index segments in any form that tools write; they need no categories.

    Accepted are a COCO file; the list of SAM's mask generator; a file of SA-1B; a results list (records with
    `image_id` and `segmentation` or `bbox`); and a folder of such files. A list of SAM names no image: its photograph
    is the one given, or the one in the folder that has the file's name.

    Args:
        path: the JSON file, or a folder of them.
        images: the photograph, or the folder of photographs.
        images_of: COCO file that names the images of a results list (default: image ids that are file names).
        on_error: see `read_coco`; `skip` also leaves out files of a folder that cannot be used.

    Returns:
        A COCO file; annotations of lists are numbered from 1.

    Raises:
        AnnotationError: see `read_coco`; a file has another form, or the image of a list cannot be told.
    """
    path = Path(path)
    if not path.is_dir():
        text = json_text(path)
        if not _is_of_other_form(text):
            return read_coco(path, labelled=False, on_error=on_error)
    photos = _Photographs(Path(images), None if images_of is None else Path(images_of))
    merged = _Merged()
    if path.is_dir():
        _add_folder(path, photos, merged)
    else:
        merged.add(_as_coco(path, read_json(path), photos))
    text = json.dumps({"images": list(merged.images.values()), "annotations": merged.annotations}).encode()
    index = index_of(path, text)
    if merged.problems:
        found = [*index.problems.tolist(), *(json.dumps(asdict(problem)).encode() for problem in merged.problems)]
        index = replace(index, problems=np.array(found, dtype=object))
    coco = CocoFile(path, index, text)
    if on_error == "stop":
        refuse(coco.problems)
    return coco


def _is_of_other_form(text: Text) -> bool:
    try:
        form = msgspec.json.decode(text, type=_Form | list[Raw])
    except (msgspec.DecodeError, RecursionError):  # Of no form; `read_coco` says what is wrong.
        return False
    return isinstance(form, list) or (form.image is not UNSET and form.images is UNSET)


@dataclass
class _Merged:
    """Images and annotations of several files as one COCO file."""

    images: dict[str, Any] = field(default_factory=dict)
    annotations: list[Any] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    renumber: bool = False

    def add(self, content: dict[str, Any]) -> None:
        """Add the images and annotations of one file; images of one id are one."""
        for image in content["images"]:
            self.images.setdefault(json.dumps(image.get("id") if isinstance(image, dict) else image), image)
        for record in content["annotations"]:
            needs_id = isinstance(record, dict) and (self.renumber or "id" not in record)
            self.annotations.append({**record, "id": len(self.annotations) + 1} if needs_id else record)


def _add_folder(folder: Path, photos: _Photographs, merged: _Merged) -> None:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".json" and file.name[0] != ".")
    if not files:
        raise AnnotationError(f"{folder}: has no JSON file of segments")
    merged.renumber = True
    for file in files:
        try:
            content = read_json(file)
            if isinstance(content, dict) and "images" in content:
                raise AnnotationError(f"{file}: is a whole COCO file; give it alone, not in a folder")
            merged.add(_as_coco(file, content, photos))
        except AnnotationError as error:
            message = str(error)
            merged.problems.append(Problem(message if str(file) in message else f"{file}: {message}", file.stem))


def _as_coco(path: Path, content: Any, photos: _Photographs) -> dict[str, Any]:
    """Return a file's content as lists of images and annotations.

    Raises:
        AnnotationError: it has another form, or its image cannot be told.
    """
    try:
        if isinstance(content, dict):
            return _sa_1b_as_coco(content, path)
        if not isinstance(content, list):
            raise AnnotationError("is neither a list nor an object")
        if any(_has_image_id(record) for record in content):
            return _results_as_coco(content, photos)
        image = {"id": photos.of_file(path), "file_name": photos.of_file(path)}
        return {"images": [image], "annotations": [_of_image(record, image["id"]) for record in content]}
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from error


def _sa_1b_as_coco(content: dict[str, Any], path: Path) -> dict[str, Any]:
    image, records = content.get("image"), content.get("annotations")
    if not isinstance(records, list):
        raise AnnotationError("'annotations' is not a list")
    if isinstance(image, dict):
        image = {**image, "id": image.get("image_id", path.stem)}
    image_id = image["id"] if isinstance(image, dict) else path.stem
    return {"images": [image], "annotations": [_of_image(record, image_id) for record in records]}


def _results_as_coco(records: list[Any], photos: _Photographs) -> dict[str, Any]:
    ids = {json.dumps(record["image_id"]): record["image_id"] for record in records if _has_image_id(record)}
    return {"images": list(photos.of_ids(ids.values())), "annotations": records}


def _of_image(record: Any, image_id: Id) -> Any:
    return {**record, "image_id": image_id} if isinstance(record, dict) else record


def _has_image_id(record: Any) -> bool:
    return isinstance(record, dict) and "image_id" in record


class _Photographs:
    """Tells which photograph a list of segments is of."""

    def __init__(self, path: Path, images_of: Path | None) -> None:
        self._path, self._images_of = path, images_of

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return images_by_stem(self._path)

    def of_file(self, path: Path) -> str:
        """Return the file name of the photograph of a list without image ids.

        Raises:
            AnnotationError: the folder has none of the file's name, or several.
        """
        return self._path.name if not self._path.is_dir() else image_of_name(path, self._by_stem, self._path).name

    def of_ids(self, ids: Iterable[Id]) -> Iterator[dict[str, Any]]:
        """Yield a record for each image of a results list.

        Raises:
            AnnotationError: it cannot be told which photographs are meant.
        """
        wanted = list(ids)
        if self._images_of is not None:
            yield from self._of_truth(wanted, self._images_of)
        elif not self._path.is_dir():
            if len(wanted) > 1:
                shown = ", ".join(sorted(map(str, wanted))[:3])
                raise AnnotationError(
                    f"the list has segments of several images (image_id {shown}) and does not say which is"
                    f" {self._path.name}; give a COCO file, or a list of this image's segments only"
                )
            yield from ({"id": value, "file_name": self._path.name} for value in wanted)
        else:
            yield from ({"id": value, "file_name": self._of_id(value)} for value in wanted)

    def _of_truth(self, wanted: list[Id], path: Path) -> Iterator[dict[str, Any]]:
        truth = read_coco(path, labelled=False, on_error="skip")
        index = truth.index
        chosen = set(id_column(wanted).tolist()) if index.image_id.dtype.kind == "i" else {*map(json.dumps, wanted)}
        for row in range(len(index.file_name)):
            value = value_of(index.image_id, row)
            if (value if index.image_id.dtype.kind == "i" else json.dumps(value)) in chosen:
                sizes = {"height": float(index.height[row]), "width": float(index.width[row])}
                known = {key: int(size) for key, size in sizes.items() if not np.isnan(size)}
                yield {"id": value, "file_name": truth.file_name(row), **known}

    def _of_id(self, value: Id) -> str:
        """Return the file that an id names: with or without its suffix, or with COCO's leading zeros."""
        text = str(value)
        if Path(text).suffix.lower() in IMAGE_SUFFIXES:
            return text
        files = self._by_stem.get(text) or self._by_stem.get(text.zfill(COCO_DIGITS)) or []
        if len(files) != 1:
            which = "could be of several files" if files else "names no file"
            raise AnnotationError(
                f"image_id {text} {which} in {self._path}; give the COCO file that lists the images: --images-of"
            )
        return files[0].name
