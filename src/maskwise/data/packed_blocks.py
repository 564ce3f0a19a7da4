"""Data sets that bring images and segments in one file, in blocks: WebDataset shards (tar) and Parquet."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from maskwise.data.image_blocks import Sample, cut, hash_of, parsed, sample_of
from maskwise.data.images import IMAGE_SUFFIXES
from maskwise.data.locations import Entry, is_url, joined, opened, read_ranges
from maskwise.errors import AnnotationError
from maskwise.extras import needs_extra

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIXES = (".parquet",)


@dataclass(frozen=True)
class _Part:
    """Where a file of a tar lies: its name, where its header and its content begin, and its length; bytes."""

    name: str
    header: int
    start: int
    length: int


@dataclass(frozen=True)
class _TarBlock:
    """Where a block begins in its tar, bytes, and its number of samples; 0 if the whole tar is read from end to end."""

    tar: Entry
    start: int = 0
    samples: int = 0


class TarBlocks:
    """WebDataset shards: files that share a name up to its first dot are one sample, an image and a JSON file.

    A tar on this disk is indexed and cut into blocks. One behind a URL, or a compressed one, is one block: it can only
    be read from its beginning.
    """

    categories = b"[]"

    def __init__(self, tars: Sequence[Entry], size: int) -> None:
        """List the samples.

        Args:
            tars: the shards.
            size: number of images per block, where a tar can be cut.

        Raises:
            AnnotationError: a file is not a tar, or is cut short.
        """
        self._blocks: list[_TarBlock] = []
        for tar in tars:
            if is_url(tar.location) or not tar.location.endswith(".tar"):
                self._blocks.append(_TarBlock(tar))
                continue
            starts = [min(part.header for part in pair if part) for pair in _samples_of(_index(tar.location))]
            self._blocks += [_TarBlock(tar, starts[first], end - first) for first, end in cut(len(starts), size)]

    def __len__(self) -> int:
        return len(self._blocks)

    def size(self, block: int) -> int:
        """Return the number of images of a block; 0 for a whole tar."""
        return self._blocks[block].samples

    def key(self, block: int) -> str:
        """Return a hash of the block's place, and of the tar's name, size and time."""
        one = self._blocks[block]
        return hash_of([posixpath.basename(one.tar.location), one.tar.stamp, str(one.start), str(one.samples)])

    def read(self, block: int) -> Iterator[Sample]:
        """Yield the samples of a block.

        Raises:
            AnnotationError: the tar cannot be read.
        """
        one = self._blocks[block]
        if not one.samples:
            yield from _streamed(one.tar.location)
            return
        for image, segments in islice(_samples_of(_index(one.tar.location, one.start)), one.samples):
            parts = [part for part in (image, segments) if part is not None]
            starts, lengths = [part.start for part in parts], [part.length for part in parts]
            contents = dict(zip(parts, read_ranges(one.tar.location, starts, lengths), strict=True))
            yield _packed(
                one.tar.location, *((part, contents.get(part) if part else None) for part in (image, segments))
            )


def _index(location: str, start: int = 0) -> Iterator[_Part]:
    """Yield the files of a tar on this disk, from a header on; contents are skipped."""
    try:
        with opened(location) as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.isfile():
                        yield _Part(member.name, member.offset, member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise AnnotationError(f"{location}: is not a tar that can be read ({error})") from error


def _samples_of(parts: Iterator[_Part]) -> Iterator[tuple[_Part | None, _Part | None]]:
    """Yield pairs of image and JSON; files of a sample follow each other, as WebDataset asks."""
    key: str | None = None
    pair: list[_Part | None] = [None, None]
    for part in parts:
        if _key(part.name) != key:
            if any(pair):
                yield pair[0], pair[1]
            key, pair = _key(part.name), [None, None]
        if part.name.lower().endswith(IMAGE_SUFFIXES):
            pair[0] = pair[0] or part
        elif part.name.lower().endswith(".json"):
            pair[1] = pair[1] or part
    if any(pair):
        yield pair[0], pair[1]


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.split(".", 1)[0])


def _streamed(location: str) -> Iterator[Sample]:
    """Yield the samples of a tar that is read from its beginning; one is in memory at a time."""
    contents: dict[str, bytes] = {}
    try:
        with opened(location) as file, tarfile.open(fileobj=file, mode="r|*") as tar:

            def parts() -> Iterator[_Part]:
                for member in tar:
                    if member.isfile() and (content := tar.extractfile(member)) is not None:
                        contents[member.name] = content.read()
                        yield _Part(member.name, 0, 0, member.size)

            for pair in _samples_of(parts()):
                yield _packed(location, *((part, contents.pop(part.name) if part else None) for part in pair))
                key = None if not contents else _key(next(reversed(contents)))
                for name in [name for name in contents if _key(name) != key]:
                    del contents[name]  # Of other kinds, which nothing asks for.
    except tarfile.TarError as error:
        raise AnnotationError(f"{location}: is not a tar that can be read ({error})") from error


def _packed(
    location: str, image: tuple[_Part | None, bytes | None], segments: tuple[_Part | None, bytes | None]
) -> Sample:
    """Return the sample of two files of a tar."""
    part = image[0] or segments[0]
    assert part is not None, "see `_samples_of`"
    where = f"{location}: {part.name}"
    if image[1] is None or segments[1] is None:
        fault = f"{where}: has no {'image' if image[1] is None else 'JSON file of segments'} of its name beside it"
        return Sample({"id": _key(part.name), "file_name": part.name}, where, [], fault=fault)
    return sample_of(parsed(segments[1]), where, part.name, _key(part.name), image=image[1])


class ParquetBlocks:
    """Parquet files with a row per image; a block is a row group.

    Columns: `image` (bytes; or a path or URL; or what Hugging Face writes, `bytes` and `path`), `annotations` (COCO
    records, as JSON or as lists of structs); and, if there are such, `image_id` or `id`, `file_name`, `width` and
    `height`.
    """

    categories = b"[]"

    def __init__(self, files: Sequence[Entry], images: str) -> None:
        """List the row groups.

        Args:
            files: the Parquet files.
            images: folder that paths of images are relative to.

        Raises:
            AnnotationError: a file is not Parquet, or has no columns `image` and `annotations`.
            MissingExtraError: pyarrow is not installed.
        """
        self._images = images
        self._blocks: list[tuple[Entry, int, int]] = []
        for entry in files:
            with opened(entry.location) as file:
                parquet = _parquet(file, entry.location)
                missing = {"image", "annotations"} - set(parquet.schema_arrow.names)
                if missing:
                    columns = ", ".join(parquet.schema_arrow.names)
                    raise AnnotationError(
                        f"{entry.location}: has no column {' and no column '.join(sorted(missing))}; it has {columns}"
                    )
                for group in range(parquet.num_row_groups):
                    self._blocks.append((entry, group, parquet.metadata.row_group(group).num_rows))

    def __len__(self) -> int:
        return len(self._blocks)

    def size(self, block: int) -> int:
        """Return the number of images of a block."""
        return self._blocks[block][2]

    def key(self, block: int) -> str:
        """Return a hash of the file's size and time, and of the place of the row group."""
        entry, group, rows = self._blocks[block]
        return hash_of([posixpath.basename(entry.location), entry.stamp, str(group), str(rows)])

    def read(self, block: int) -> Iterator[Sample]:
        """Yield the images of a block; a few rows are in memory at a time."""
        entry, group, _ = self._blocks[block]
        with opened(entry.location) as file:
            parquet = _parquet(file, entry.location)
            wanted = {"image", "annotations", "image_id", "id", "file_name", "width", "height"}
            columns = [name for name in parquet.schema_arrow.names if name in wanted]
            number = 0
            for batch in parquet.iter_batches(batch_size=16, row_groups=[group], columns=columns):
                for row in batch.to_pylist():
                    yield self._sample(row, f"{entry.location}: row {number} of group {group}")
                    number += 1

    def _sample(self, row: dict[str, Any], where: str) -> Sample:
        given = row["image"]
        if not isinstance(given, dict):
            given = {"bytes" if isinstance(given, bytes) else "path": given}
        image, content = given.get("path"), given.get("bytes")
        name = row.get("file_name") or image or posixpath.basename(where)
        image_id = next((row[key] for key in ("image_id", "id") if row.get(key) is not None), name)
        annotations = row["annotations"]
        if isinstance(annotations, (str, bytes)):
            annotations = parsed(annotations)
        elif isinstance(annotations, list):
            annotations = [_without_nulls(one) for one in annotations]
        stated = {key: row[key] for key in ("width", "height") if row.get(key) is not None}
        if isinstance(annotations, list):
            annotations = {"annotations": annotations, "image": {"id": image_id, **stated}}
        if content is None and image is None:
            return Sample({"id": image_id, "file_name": name}, where, [], fault=f"{where}: has no image")
        location = where if content is not None else joined(self._images, str(image))
        return sample_of(annotations, location, name, image_id, image=content)


def _parquet(file: Any, location: str) -> Any:
    with needs_extra("ray"):
        import pyarrow
        from pyarrow import parquet
    try:
        return parquet.ParquetFile(file)
    except pyarrow.ArrowException as error:
        raise AnnotationError(f"{location}: is not a Parquet file that can be read ({error})") from error


def _without_nulls(value: Any) -> Any:
    """Return a struct without the fields that it lacks: Parquet gives every row all of them."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return (
        value.decode("ascii", "replace") if isinstance(value, bytes) else value
    )  # Run lengths, as pycocotools has them.
