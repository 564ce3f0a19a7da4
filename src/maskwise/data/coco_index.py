"""An index of a COCO file: what is needed to choose among its annotations, and where in the file each one stands.

The file's text is looked through once. Of every record only the few fields below are decoded; polygons and run lengths,
most of the text, are skipped over and read when a mask is asked for.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64
from msgspec import UNSET, Raw, UnsetType

from maskwise.data.atomic_files import make_folder, whole_file
from maskwise.errors import AnnotationError

Text = bytes | mmap.mmap
"""JSON in UTF-8, in memory or mapped from its file."""
Id = int | float | str
CHUNK = 8192
"""Records decoded before their fields go into the columns."""
FORMAT = 1
"""Of cached indexes; part of their names, so that an older one is not taken for one of this form."""


class _Sections(msgspec.Struct):
    images: list[Raw] | UnsetType = UNSET
    annotations: list[Raw] | UnsetType = UNSET
    categories: list[Raw] | UnsetType = UNSET


class _Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    height: float | None = None
    width: float | None = None


class _Annotation(msgspec.Struct, gc=False):
    id: Id
    image_id: Id
    category_id: Id | None = None
    area: float | None = None
    iscrowd: Any = 0


class _Category(msgspec.Struct, gc=False):
    id: Id
    name: str


Record = TypeVar("Record", _Image, _Annotation, _Category)


@dataclass(frozen=True, eq=False, kw_only=True)
class CocoIndex:
    """Columns of a COCO file, a row for each image and each annotation, in the file's order.

    Ids and names that are not all whole numbers stand as JSON; see `value_of`.

    Attributes:
        image_id: of each image.
        file_name: of each image, UTF-8.
        height: of each image, pixels; not a number where the file does not state it.
        width: likewise.
        annotation_id: of each annotation.
        image: row of each annotation's image.
        category: row of each annotation's category; -1 where it has none that the file lists.
        area: of each annotation, pixels; not a number where the file does not state it.
        crowd: whether an annotation marks many objects at once.
        start: where in the text each annotation's record begins, bytes.
        length: of each annotation's record, bytes.
        category_id: of each category.
        category_name: of each category, UTF-8.
        has_categories: whether the file has a list of categories, if an empty one.
    """

    image_id: np.ndarray
    file_name: np.ndarray
    height: Float64[np.ndarray, " images"]
    width: Float64[np.ndarray, " images"]
    annotation_id: np.ndarray
    image: Int32[np.ndarray, " annotations"]
    category: Int32[np.ndarray, " annotations"]
    area: Float64[np.ndarray, " annotations"]
    crowd: Bool[np.ndarray, " annotations"]
    start: Int64[np.ndarray, " annotations"]
    length: Int32[np.ndarray, " annotations"]
    category_id: np.ndarray
    category_name: np.ndarray
    has_categories: Bool[np.ndarray, ""]


def value_of(column: np.ndarray, row: int) -> Id:
    """An id of a column.

    >>> column = id_column([7, "a"])
    >>> value_of(column, 0), value_of(column, 1)
    (7, 'a')
    """
    return int(column[row]) if column.dtype.kind == "i" else json.loads(column[row])


def id_column(ids: Sequence[Id]) -> np.ndarray:
    """Ids as 64-bit integers where all are that, else as JSON; 3.0, as tables write it, is 3."""
    ids = [int(value) if isinstance(value, float) and value.is_integer() else value for value in ids]
    if all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in ids):
        return np.array(ids, dtype=np.int64)
    return np.array([json.dumps(value).encode() for value in ids], dtype=bytes)


def json_text(path: Path) -> Text:
    """The text of a JSON file; mapped, not read, if it is UTF-8 already.

    Raises:
        AnnotationError: the file is missing, or not text.
    """
    try:
        with open(path, "rb") as file:
            beginning = file.read(4)
            encoding = json.detect_encoding(beginning)
            if encoding == "utf-8" and beginning:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return (beginning + file.read()).decode(encoding).encode()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: is not JSON ({error})") from error


def index_of(path: Path, text: Text) -> CocoIndex:
    """Look through a COCO file and check the keys that Maskwise relies on.

    Args:
        path: what messages call the file.
        text: of the file.

    Raises:
        AnnotationError: not JSON, not COCO's form, a missing key, a repeated id, or an unknown image; the message
            names the file and the record.
    """
    sections = _sections(path, text)
    assert sections.images is not UNSET, "see `_sections`"
    assert sections.annotations is not UNSET, "see `_sections`"
    images = _decoded(path, "images", sections.images, _Image)
    categories = [] if sections.categories is UNSET else _decoded(path, "categories", sections.categories, _Category)
    image_ids, category_ids = ([record.id for record in records] for records in (images, categories))
    columns = _annotation_columns(path, text, sections.annotations, _rows(image_ids), _rows(category_ids))
    index = CocoIndex(
        image_id=id_column(image_ids),
        file_name=np.array([image.file_name.encode() for image in images], dtype=bytes),
        height=_numbers([image.height for image in images]),
        width=_numbers([image.width for image in images]),
        category_id=id_column(category_ids),
        category_name=np.array([category.name.encode() for category in categories], dtype=bytes),
        has_categories=np.array(sections.categories is not UNSET),
        **columns,
    )
    _check(path, index, sections.annotations)
    return index


def _sections(path: Path, text: Text) -> _Sections:
    """The records of the three lists, not yet decoded."""
    try:
        sections = msgspec.json.decode(text, type=_Sections)
    except msgspec.ValidationError as error:
        section = re.search(r"\$\.(\w+)", str(error))
        if section is None:
            kind = "list" if bytes(text[:99]).lstrip().startswith(b"[") else "value"
            raise AnnotationError(
                f"{path}: is a JSON {kind}; a COCO file is an object with 'images' and 'annotations'"
            ) from error
        raise AnnotationError(f"{path}: has no list {section[1]!r}; a COCO file needs it") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: is not JSON ({error}, {_place(text, str(error))})") from error
    for name in ("images", "annotations"):
        if getattr(sections, name) is UNSET:
            raise AnnotationError(f"{path}: has no list {name!r}; a COCO file needs it")
    return sections


def _place(text: Text, message: str) -> str:
    """Line and column of the byte that a message names, else of the text's end."""
    byte = re.search(r"\(byte (\d+)\)", message)
    before = bytes(text[: int(byte[1])] if byte else text[:])
    line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return f"line {line} column {column}"


def _decoded(path: Path, section: str, raws: Sequence[Raw], kind: type[Record], first: int = 0) -> list[Record]:
    """Records of a section, the first of which has a given number."""
    decode = msgspec.json.Decoder(kind).decode
    records = []
    try:
        for raw in raws:
            records.append(decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        where = f"{path}: {section}[{first + len(records)}]"
        keys = _keys(raws[len(records)])
        for field in msgspec.structs.fields(kind):
            if field.required and field.name not in keys:
                raise AnnotationError(f"{where} has no {field.name!r}") from error
        raise AnnotationError(f"{where} is not of COCO's form ({error})") from error
    return records


def _keys(raw: Raw) -> Collection[str]:
    try:
        return msgspec.json.decode(raw, type=dict[str, Raw]).keys()
    except msgspec.ValidationError:  # Not an object.
        return ()


def _rows(ids: Sequence[Id]) -> dict[Id, int]:
    return {value: row for row, value in enumerate(ids)}


def _numbers(values: Sequence[float | None]) -> Float64[np.ndarray, " n"]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _annotation_columns(
    path: Path, text: Text, raws: Sequence[Raw], image_rows: dict[Id, int], category_rows: dict[Id, int]
) -> dict[str, np.ndarray]:
    """The columns of annotations; -1 for images and categories that the file does not list."""
    ids: list[Id] = []
    columns: dict[str, np.ndarray] = {
        "image": np.empty(len(raws), dtype=np.int32),
        "category": np.empty(len(raws), dtype=np.int32),
        "area": np.empty(len(raws), dtype=np.float64),
        "crowd": np.empty(len(raws), dtype=bool),
        "start": np.empty(len(raws), dtype=np.int64),
        "length": np.empty(len(raws), dtype=np.int32),
    }
    for first in range(0, len(raws), CHUNK):
        rows = slice(first, first + CHUNK)
        records = _decoded(path, "annotations", raws[rows], _Annotation, first)
        ids += [record.id for record in records]
        columns["image"][rows] = [image_rows.get(record.image_id, -1) for record in records]
        columns["category"][rows] = [
            -1 if record.category_id is None else category_rows.get(record.category_id, -1) for record in records
        ]
        columns["area"][rows] = _numbers([record.area for record in records])
        columns["crowd"][rows] = [bool(record.iscrowd) for record in records]
        columns["start"][rows], columns["length"][rows] = _places(text, raws[rows])
    return {"annotation_id": id_column(ids), **columns}


def _places(text: Text, raws: Sequence[Raw]) -> tuple[list[int], list[int]]:
    """Where in the text objects that follow each other in a list begin, and how long they are, bytes."""
    starts, lengths = [], []
    end = _address(raws[0]) - _address(text)  # Records are views of the text.
    for raw in raws:
        starts.append(text.find(b"{", end))  # Nothing but white space and a comma stands between two.
        lengths.append(memoryview(raw).nbytes)
        end = starts[-1] + lengths[-1]
    return starts, lengths


def _address(text: Text | Raw) -> int:
    return np.frombuffer(text, dtype=np.uint8).ctypes.data


def _check(path: Path, index: CocoIndex, annotations: Sequence[Raw]) -> None:
    """Refuse ids that stand twice, and annotations of images that are not listed."""
    ids = {"images": index.image_id, "annotations": index.annotation_id, "categories": index.category_id}
    for section, column in ids.items():
        order = np.argsort(column, kind="stable")
        again = order[1:][column[order[1:]] == column[order[:-1]]]
        if len(again):
            raise AnnotationError(f"{path}: id {value_of(column, int(again.min()))} stands twice in {section!r}")
    for row in np.flatnonzero(index.image < 0)[:1]:
        unknown = msgspec.json.decode(annotations[row], type=_Annotation)
        raise AnnotationError(
            f"{path}: annotation id {unknown.id} is of image id {unknown.image_id}, which is not among 'images'"
        )


def cached_index(path: Path, text: Text, folder: Path) -> CocoIndex:
    """The index of a file, kept in a folder under the hash of the file's bytes.

    Args:
        path: the file.
        text: of the file.
        folder: made if missing.

    Raises:
        AnnotationError: see `index_of`.
        InputError: the folder cannot be written to.
    """
    kept = folder / f"coco-{FORMAT}-{hashlib.sha256(text).hexdigest()}.npz"
    index = _kept_index(kept)
    if index is None:
        index = index_of(path, text)
        make_folder(folder)
        with whole_file(kept) as temporary:
            np.savez(temporary, **{field.name: getattr(index, field.name) for field in fields(index)})
    return index


def _kept_index(path: Path) -> CocoIndex | None:
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as columns:
            return CocoIndex(**{field.name: columns[field.name] for field in fields(CocoIndex)})
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # Damaged, or not ours: it is made anew.
        return None
