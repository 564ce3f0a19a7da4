"""Index COCO files: the columns needed to choose among annotations, and the place of each in the file.

The text is scanned once. Only a few fields of every record are decoded; polygons and run lengths, most of the text, are
skipped and read on demand.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import mmap
import re
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64
from msgspec import UNSET, Raw, UnsetType

from maskwise.data.atomic_files import make_folder, whole_file
from maskwise.data.plain_files import check_plain_file, shortened
from maskwise.data.problems import Id, Problem
from maskwise.errors import AnnotationError

Text = bytes | mmap.mmap
"""JSON in UTF-8, in memory or mapped from its file."""
CHUNK = 8192
"""Records of which the places in the text are looked up together."""
MAX_PADDING = 50_000_000
"""From this many bytes on, a column of texts of very different lengths is kept as objects."""
FORMAT = 2
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
        problems: faults of records, as JSON; see `Problem`.
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
    problems: np.ndarray


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
    check_plain_file(path, "annotation file", AnnotationError)
    try:
        with open(path, "rb") as file:
            beginning = file.read(4)
            encoding = json.detect_encoding(beginning)
            if encoding == "utf-8" and beginning:
                _check_utf8(path, file)
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return (beginning + file.read()).decode(encoding).encode()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: is not JSON ({error})") from error


def _check_utf8(path: Path, file: BinaryIO) -> None:
    """Refuse a file that is not UTF-8 somewhere: JSON decoders look at it only where they decode."""
    decoder, position = codecs.getincrementaldecoder("utf-8")(), 0
    file.seek(0)
    try:
        while chunk := file.read(1 << 20):
            decoder.decode(chunk)
            position += len(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{path}: is not UTF-8 text near byte {position + error.start}; save it as UTF-8"
        ) from error


def index_of(path: Path, text: Text) -> CocoIndex:
    """Index a COCO file. Records that cannot be used are noted in `problems`, and the others are kept.

    Args:
        path: name of the file in messages.
        text: of the file.

    Raises:
        AnnotationError: not JSON, or not COCO's form as a whole.
    """
    sections = _sections(path, text)
    assert sections.images is not UNSET, "see `_sections`"
    assert sections.annotations is not UNSET, "see `_sections`"
    problems: list[Problem] = []
    images = [image for _, image in _decoded(path, "images", sections.images, _Image, problems)]
    raw_categories = [] if sections.categories is UNSET else sections.categories
    # The VGG Image Annotator lists each category again for every image.
    categories = {
        (_plain_id(one.id), one.name): one
        for _, one in _decoded(path, "categories", raw_categories, _Category, problems)
    }.values()
    image_rows = _Rows(path, "images", [image.id for image in images], problems)
    category_rows = _Rows(path, "categories", [category.id for category in categories], problems)
    columns = _annotation_columns(path, text, sections.annotations, (image_rows, category_rows), problems)
    return CocoIndex(
        image_id=id_column([image.id for image in images]),
        file_name=_texts([image.file_name for image in images]),
        height=_numbers([image.height for image in images]),
        width=_numbers([image.width for image in images]),
        category_id=id_column([category.id for category in categories]),
        category_name=_texts([category.name for category in categories]),
        has_categories=np.array(sections.categories is not UNSET),
        problems=_texts([json.dumps(asdict(problem)) for problem in problems]),
        **columns,
    )


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
    except RecursionError as error:
        raise AnnotationError(f"{path}: has lists or objects nested too deep; COCO's form needs five levels") from error
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


def _decoded(
    path: Path, section: str, raws: Sequence[Raw], kind: type[Record], problems: list[Problem]
) -> Iterator[tuple[int, Record]]:
    """Yield the records of a section that can be decoded, with their numbers; the others become problems."""
    decode = msgspec.json.Decoder(kind).decode
    for number, raw in enumerate(raws):
        try:
            record = decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            row = number if section == "annotations" else None
            problems.append(Problem(f"{path}: {section}[{number}] {_fault(raw, kind, error)}", row=row))
        else:
            yield number, record


def image_numbers(raws: Sequence[Raw]) -> list[int]:
    """Return the places of the image records that an index has, in the order of its rows."""
    return [number for number, _ in _decoded(Path(), "images", raws, _Image, [])]


def _fault(raw: Raw, kind: type[Record], error: Exception) -> str:
    keys = _keys(raw)
    for field in msgspec.structs.fields(kind):
        if field.required and field.name not in keys:
            return f"has no {field.name!r}"
    return f"is not of COCO's form ({shortened(str(error))})"


def _keys(raw: Raw) -> Collection[str]:
    try:
        return msgspec.json.decode(raw, type=dict[str, Raw]).keys()
    except (msgspec.DecodeError, UnicodeDecodeError):  # Not an object.
        return ()


class _Rows:
    """The rows of a section by id.

    Ids are whole numbers or strings, and 3.0 is 3. A reference "3" meets the id 3, and 3 meets "3", if no other id
    reads the same: tools mix them up. An id that stands twice belongs to no row: it could mean either.
    """

    def __init__(self, path: Path, section: str, ids: Sequence[Id], problems: list[Problem]) -> None:
        self._exact: dict[Id, int] = {}
        self._read: dict[str, int] = {}
        self.twice: set[Id] = set()
        for row, value in enumerate(map(_plain_id, ids)):
            if value in self._exact:
                if value not in self.twice:
                    problems.append(Problem(f"{path}: id {_shown(value)} stands twice in {section!r}"))
                self.twice.add(value)
            self._exact[value] = row
            self._read[str(value)] = -1 if str(value) in self._read else row
        for value in self.twice:
            self._exact[value] = self._read[str(value)] = -1

    def of(self, value: Id) -> int:
        """Return the row of an id; -1 if there is none."""
        value = _plain_id(value)
        return self._exact[value] if value in self._exact else self._read.get(str(value), -1)


def _plain_id(value: Id) -> Id:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(value: Id) -> str:
    """Return an id as JSON has it, so that "3" and 3 differ in messages."""
    return shortened(json.dumps(value, ensure_ascii=False))


def _numbers(values: Sequence[float | None]) -> Float64[np.ndarray, " n"]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _texts(texts: Sequence[str]) -> np.ndarray:
    """Return texts as a column, shared by all lengths: one long name must not make every row long."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    longest = max(map(len, encoded), default=0)
    if longest * len(encoded) > MAX_PADDING and longest > 8 * sum(map(len, encoded)) / len(encoded):
        return np.array(encoded, dtype=object)
    return np.array(encoded, dtype=bytes)


def _annotation_columns(
    path: Path, text: Text, raws: Sequence[Raw], rows: tuple[_Rows, _Rows], problems: list[Problem]
) -> dict[str, np.ndarray]:
    """Return the columns of annotations; image -1 marks records that cannot be used.

    Args:
        path: name of the file in messages.
        text: of the file.
        raws: the records.
        rows: of images and of categories.
        problems: gets the faults of records.
    """
    image_rows, category_rows = rows
    ids: list[Id] = [f"#{row}" for row in range(len(raws))]
    columns: dict[str, np.ndarray] = {
        "image": np.full(len(raws), -1, dtype=np.int32),
        "category": np.full(len(raws), -1, dtype=np.int32),
        "area": np.full(len(raws), np.nan),
        "crowd": np.zeros(len(raws), dtype=bool),
        "start": np.empty(len(raws), dtype=np.int64),
        "length": np.empty(len(raws), dtype=np.int32),
    }
    for row, record in _decoded(path, "annotations", raws, _Annotation, problems):
        ids[row] = record.id
        columns["image"][row] = image_rows.of(record.image_id)
        if columns["image"][row] < 0:
            why = "stands twice in" if _plain_id(record.image_id) in image_rows.twice else "is not among"
            of_image = f"annotation id {_shown(record.id)} is of image id {_shown(record.image_id)}"
            message = f"{path}: {of_image}, which {why} 'images'"
            problems.append(Problem(message, record.image_id, record.id, row))
        if record.category_id is not None:
            columns["category"][row] = category_rows.of(record.category_id)
        if record.area is not None:
            columns["area"][row] = record.area
        columns["crowd"][row] = bool(record.iscrowd)
    for first in range(0, len(raws), CHUNK):
        part = slice(first, first + CHUNK)
        columns["start"][part], columns["length"][part] = _places(text, raws[part])
    annotation_id = id_column(ids)
    _note_repeated(path, annotation_id, problems)
    return {"annotation_id": annotation_id, **columns}


def _note_repeated(path: Path, column: np.ndarray, problems: list[Problem]) -> None:
    order = np.argsort(column, kind="stable")
    for row in order[1:][column[order[1:]] == column[order[:-1]]].tolist():
        value = value_of(column, row)
        problems.append(Problem(f"{path}: id {_shown(value)} stands twice in 'annotations'", annotation_id=value))


def _places(text: Text, raws: Sequence[Raw]) -> tuple[list[int], list[int]]:
    """Return where in the text the records of a list start, and their lengths; bytes."""
    starts, lengths = [], []
    end = _address(raws[0]) - _address(text)  # Records are views of the text.
    for raw in raws:
        view = memoryview(raw)
        # Only white space and a comma stand between two objects; a faulty record may be of another kind.
        starts.append(text.find(b"{" if view[0] == ord("{") else bytes(view), end))
        lengths.append(view.nbytes)
        end = starts[-1] + lengths[-1]
    return starts, lengths


def _address(text: Text | Raw) -> int:
    return np.frombuffer(text, dtype=np.uint8).ctypes.data


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
            columns = {field.name: getattr(index, field.name) for field in fields(index)}
            if all(column.dtype != object for column in columns.values()):
                np.savez(temporary, allow_pickle=False, **columns)
    return index


def _kept_index(path: Path) -> CocoIndex | None:
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as columns:
            return CocoIndex(**{field.name: columns[field.name] for field in fields(CocoIndex)})
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # Damaged, or not ours: made again.
        return None
