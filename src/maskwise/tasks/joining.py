"""Join shards into one COCO file."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from msgspec import Raw

from maskwise.data.atomic_files import check_output, whole_file
from maskwise.data.locations import found, joined, plain, read_file
from maskwise.errors import AnnotationError
from maskwise.tasks.shard_files import Line, decoded, shard_of
from maskwise.tasks.sharded_labelling import MANIFEST


@dataclass(frozen=True)
class Joined:
    """The result of `join_shards`.

    Attributes:
        images: number of images.
        annotations: number of annotations.
        renumbered: whether annotations got new ids, from 1, because some ids stood several times.
    """

    images: int
    annotations: int
    renumbered: bool


def join_shards(folder: str | os.PathLike[str], output: str | os.PathLike[str]) -> Joined:
    """Write one COCO file from the shards of `label_shards`; one shard is in memory at a time.

    Images and annotations stand in the order of the shards. If annotation ids stand several times, as where each
    image numbers its own, annotations are numbered from 1.

    Args:
        folder: of the shards, path or URL.
        output: the file to write, whole or not at all.

    Raises:
        AnnotationError: the folder has no manifest (the run has not ended), or a shard is missing or has changed.
        InputError: the output cannot be written.

    Example:
        join_shards("named", "named.json")
    """
    folder, output = plain(folder), Path(output)
    check_output(output)
    place = joined(folder, MANIFEST)
    if not found(place):
        raise AnnotationError(f"{folder}: has no {MANIFEST}, so the run has not ended; repeat `maskwise label` first")
    manifest: dict[str, Any] = json.loads(read_file(place, AnnotationError, "manifest"))
    counts = {"images": 0, "annotations": 0}
    with whole_file(output) as temporary, open(temporary, "wb") as file:
        file.write(b'{"images": [')
        ids = array("q")
        for line in _lines(folder, manifest, check=True):
            if bytes(line.image) != b"null":
                _write(file, bytes(line.image), counts, "images")
            ids.extend(hash(_id_of(record)) for record in line.annotations)
        renumber = len(np.unique(np.frombuffer(ids, dtype=np.int64))) < len(ids) if ids else False
        file.write(b'], "annotations": [')
        for line in _lines(folder, manifest, check=False):
            for record in line.annotations:
                number = counts["annotations"] + 1
                _write(file, _with_id(record, number) if renumber else bytes(record), counts, "annotations")
        file.write(b'], "categories": ' + json.dumps(manifest["categories"], ensure_ascii=False).encode() + b"}\n")
    return Joined(counts["images"], counts["annotations"], renumber)


def _lines(folder: str, manifest: dict[str, Any], *, check: bool) -> Iterator[Line]:
    for shard in manifest["shards"]:
        location = joined(folder, shard["file"])
        content = read_file(location, AnnotationError, "shard")
        if check and shard_of(content, shard["file"]).sha256 != shard["sha256"]:
            raise AnnotationError(f"{location}: is not as the manifest says; remove it, and repeat `maskwise label`")
        yield from decoded(content, shard["file"])


def _write(file: BinaryIO, record: bytes, counts: dict[str, int], kind: str) -> None:
    file.write((b", " if counts[kind] else b"") + record)
    counts[kind] += 1


def _fields(record: Raw) -> dict[str, Raw]:
    try:
        return msgspec.json.decode(record, type=dict[str, Raw])
    except msgspec.ValidationError:  # Not an object.
        return {}


def _id_of(record: Raw) -> bytes:
    return bytes(_fields(record).get("id", b"null"))


def _with_id(record: Raw, number: int) -> bytes:
    fields = {key: bytes(value) for key, value in _fields(record).items()} | {"id": b"%d" % number}
    return b"{" + b", ".join(json.dumps(key).encode() + b": " + value for key, value in fields.items()) + b"}"
