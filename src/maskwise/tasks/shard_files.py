"""Shards: files with the results of a block of images, in JSON lines or Parquet."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import msgspec
from msgspec import Raw

from maskwise.data.locations import found, read_file
from maskwise.data.problems import Problem
from maskwise.errors import AnnotationError
from maskwise.extras import needs_extra

ShardFormat = Literal["jsonl", "parquet"]
FORMATS: tuple[ShardFormat, ...] = ("jsonl", "parquet")


@dataclass(frozen=True)
class Names:
    """The names of an annotation, for columns.

    Attributes:
        name: the most probable class, or "none of these".
        score: probability of the most probable class, 0 to 1.
        known: probability of being one of the classes at all; None if the model cannot tell.
        none: whether it is "none of these".
        top_names: the most probable classes, the most probable first.
        top_scores: their probabilities.
    """

    name: str
    score: float
    known: float | None
    none: bool
    top_names: tuple[str, ...]
    top_scores: tuple[float, ...]


@dataclass(frozen=True)
class LabelledImage:
    """What a shard holds of an image.

    Attributes:
        image: its record; None for annotations of no image.
        annotations: the annotations with their names, JSON.
        names: of each annotation; None where there is a problem.
        problems: the faults; `row` is the place among the annotations.
        dropped: number of annotations left out because they are "none of these".
    """

    image: dict[str, Any] | None
    annotations: list[bytes]
    names: list[Names | None]
    problems: list[Problem]
    dropped: int = 0


@dataclass(frozen=True)
class Shard:
    """A finished shard, as the manifest lists it.

    Attributes:
        file: name in the folder.
        images: number of images.
        annotations: number of annotations.
        named: how many have a name or are "none of these".
        none: how many of these are "none of these".
        problems: number of faults.
        bytes: size of the file.
        sha256: of the file.
    """

    file: str
    images: int
    annotations: int
    named: int
    none: int
    problems: int
    bytes: int
    sha256: str


class Line(msgspec.Struct):
    """A line of a shard: an image, its annotations as in a COCO file, and their names.

    Attributes:
        image: record of the image, as in COCO's `images`; null for annotations of no image.
        annotations: records, as in COCO's `annotations`.
        names: the name of each annotation; null where there is a problem.
        none: how many annotations are "none of these", also those left out.
        dropped: how many of these are left out.
        problems: what is wrong, each with `message` and `annotation_id`.
    """

    image: Raw
    annotations: list[Raw]
    names: list[str | None]
    none: int
    dropped: int
    problems: list[dict[str, Any]]


def encoded(images: Sequence[LabelledImage], kind: ShardFormat) -> bytes:
    """Return the file of a shard.

    Raises:
        MissingExtraError: Parquet is asked for and pyarrow is not installed.
    """
    lines = [_line(image) for image in images]
    if kind == "jsonl":
        return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    return _parquet(images, lines)


def _line(image: LabelledImage) -> Line:
    return Line(
        image=Raw(_json(image.image)),
        annotations=[Raw(_one_line(record)) for record in image.annotations],
        names=[None if names is None else names.name for names in image.names],
        none=image.dropped + sum(names is not None and names.none for names in image.names),
        dropped=image.dropped,
        problems=[{"message": one.message, "annotation_id": one.annotation_id} for one in image.problems],
    )


def _one_line(record: bytes) -> bytes:
    """Return a JSON value without line breaks: records are copied from files that may be indented."""
    return msgspec.json.format(record, indent=-1) if b"\n" in record or b"\r" in record else record


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _parquet(images: Sequence[LabelledImage], lines: Sequence[Line]) -> bytes:
    """Return a table with a row per annotation, and one for each image that has none."""
    with needs_extra("ray"):
        import pyarrow as pa
        from pyarrow import parquet
    texts, numbers = pa.list_(pa.string()), pa.list_(pa.float64())
    # Ids may be numbers or texts: the columns hold them as JSON does.
    kinds = {"image_id": pa.string(), "file_name": pa.string(), "annotation_id": pa.string(), "name": pa.string()}
    kinds |= {"score": pa.float64(), "known": pa.float64(), "none": pa.bool_(), "top_names": texts}
    kinds |= {"top_scores": numbers, "problem": pa.string(), "annotation": pa.string(), "line": pa.string()}
    rows = []
    for image, line in zip(images, lines, strict=True):
        whole = msgspec.structs.replace(line, annotations=[], names=[])
        first = msgspec.json.encode(whole).decode("utf-8", "replace")
        faults = {one.row: one.message for one in image.problems}
        start = _image_row(image.image)
        for row, record in enumerate(image.annotations):
            names = image.names[row]
            more = {} if names is None else asdict(names)
            annotation_id = msgspec.json.decode(record, type=dict[str, Raw]).get("id") if record[:1] == b"{" else None
            more["annotation_id"] = None if annotation_id is None else bytes(annotation_id).decode()
            more |= {"problem": faults.get(row), "annotation": record.decode("utf-8", "replace")}
            rows.append({**start, **more, "line": first if row == 0 else None})
        if not image.annotations:
            problem = image.problems[0].message if image.problems else None
            rows.append({**start, "problem": problem, "line": first})
    table = pa.Table.from_pylist(rows, schema=pa.schema(kinds.items()))
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _image_row(image: dict[str, Any] | None) -> dict[str, Any]:
    if image is None:
        return {}
    return {"image_id": _json(image["id"]).decode(), "file_name": image["file_name"]}


def decoded(content: bytes, name: str) -> Iterator[Line]:
    """Yield the lines of a shard, of either format.

    Args:
        content: of the file.
        name: of the file; its suffix tells the format.

    Raises:
        AnnotationError: it is not a shard, or is cut short.
    """
    try:
        if name.endswith(".parquet"):
            yield from _lines_of_parquet(content)
        else:
            if content and not content.endswith(b"\n"):
                raise AnnotationError(f"{name}: is cut short")
            yield from map(msgspec.json.Decoder(Line).decode, content.splitlines())
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError) as error:
        raise AnnotationError(f"{name}: is not a shard of Maskwise ({error})") from error


def _lines_of_parquet(content: bytes) -> Iterator[Line]:
    with needs_extra("ray"):
        import pyarrow as pa
        from pyarrow import parquet
    try:
        table = parquet.read_table(io.BytesIO(content), columns=["line", "annotation", "name"])
    except pa.ArrowException as error:
        raise KeyError(str(error)) from error
    line: Line | None = None
    for row in table.to_pylist():
        if row["line"] is not None:
            if line is not None:
                yield line
            line = msgspec.json.decode(row["line"], type=Line)
        if line is not None and row["annotation"] is not None:
            line.annotations.append(Raw(row["annotation"].encode()))
            line.names.append(row["name"])
    if line is not None:
        yield line


def shard_of(content: bytes, name: str) -> Shard:
    """Return what the manifest says of a shard.

    Raises:
        AnnotationError: it is not a shard, or is cut short.
    """
    counts = {"images": 0, "annotations": 0, "named": 0, "none": 0, "problems": 0}
    for line in decoded(content, name):
        counts["images"] += bytes(line.image) != b"null"
        counts["annotations"] += len(line.annotations) + line.dropped
        counts["named"] += sum(one is not None for one in line.names) + line.dropped
        counts["none"] += line.none
        counts["problems"] += len(line.problems)
    return Shard(name, **counts, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def finished_shard(location: str, name: str) -> Shard | None:
    """Return a shard that is there and whole; None else.

    Args:
        location: of the file.
        name: of the file.
    """
    if not found(location):
        return None
    try:
        return shard_of(read_file(location, AnnotationError, "shard"), name)
    except AnnotationError:  # Damaged: made again.
        return None
