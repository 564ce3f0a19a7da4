"""Read and write files by path or by URL (s3://, gs://, https:// ...), for work that many machines share.

Paths need nothing else. URLs go through fsspec and need the extra `ray`; each kind of store also needs its own package.
"""

from __future__ import annotations

import glob
import os
import posixpath
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from maskwise.data.atomic_files import make_folder, whole_file
from maskwise.data.plain_files import check_plain_file
from maskwise.errors import ImageError, InputError
from maskwise.extras import needs_extra

WHOLE_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory", "oci", "oss", "r2")
"""Kinds of stores where a file that is written appears whole or not at all; elsewhere a file is renamed when done."""
MAX_GAP = 65_536
"""Ranges of one file that are at most this far apart are read together, bytes."""


@dataclass(frozen=True)
class Entry:
    """A file of a folder.

    Attributes:
        location: its path or URL.
        stamp: what changes when it is written again, as far as its folder tells: its size, and a time or a hash.
    """

    location: str
    stamp: str


def is_url(location: str) -> bool:
    """Return whether a location is a URL other than file://.

    >>> is_url("s3://bucket/a.jpg"), is_url("file:///a.jpg"), is_url("a.jpg")
    (True, False, False)
    """
    return "://" in location and not location.startswith("file://")


def plain(location: str | os.PathLike[str]) -> str:
    """Return a location as text, file:// URLs as paths.

    >>> plain("file:///photos/a.jpg")
    '/photos/a.jpg'
    """
    return os.fspath(location).removeprefix("file://")


def absolute(location: str | os.PathLike[str]) -> str:
    """Return a location that means the same in every process, whatever folder it runs in.

    >>> absolute("s3://bucket/a.jpg"), absolute("file:///photos/a.jpg")
    ('s3://bucket/a.jpg', '/photos/a.jpg')
    """
    text = plain(location)
    return text if is_url(text) else os.path.abspath(text)


def joined(folder: str, name: str) -> str:
    """Return the location of a name in a folder; a name that is a URL or an absolute path stays.

    >>> joined("s3://bucket/photos/", "a/b.jpg"), joined("photos", "/other/b.jpg")
    ('s3://bucket/photos/a/b.jpg', '/other/b.jpg')
    """
    if is_url(name) or name.startswith(("file://", "/")) or not folder:
        return plain(name)
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else os.path.join(folder, name)


def base_name(location: str) -> str:
    """Return the last part of a location."""
    return posixpath.basename(location.rstrip("/"))


def is_folder(location: str) -> bool:
    """Return whether a location is a folder that is there."""
    if not is_url(location):
        return os.path.isdir(location)
    store, path = _store(location)
    return bool(store.isdir(path))


def files_in(folder: str) -> list[Entry]:
    """Return the files of a folder by name, without hidden ones; none if there is no such folder."""
    if not is_url(folder):
        if not os.path.isdir(folder):
            return []
        with os.scandir(folder) as entries:
            files = [Entry(entry.path, file_stamp(entry.path)) for entry in entries if entry.is_file()]
    else:
        store, path = _store(folder)
        store.invalidate_cache()  # Others write there meanwhile.
        try:
            infos = store.ls(path, detail=True)
        except FileNotFoundError:
            return []
        files = [Entry(store.unstrip_protocol(info["name"]), _stamp(info)) for info in infos if info["type"] == "file"]
    return sorted((one for one in files if base_name(one.location)[0] != "."), key=lambda one: one.location)


def matching(pattern: str) -> list[Entry]:
    """Return the files of a folder, of a pattern (photos/*.tar), or the one file of that name."""
    if is_folder(pattern):
        return files_in(pattern)
    if not is_url(pattern):
        return [Entry(path, file_stamp(path)) for path in sorted(glob.glob(pattern) or [pattern])]
    store, path = _store(pattern)
    infos = store.glob(path, detail=True) if glob.has_magic(path) else {path: store.info(path)}
    return [Entry(store.unstrip_protocol(name), _stamp(info)) for name, info in sorted(infos.items())]


def file_stamp(path: str) -> str:
    """Return what changes when a file on this disk is written again; nothing for a URL or a file that is not there."""
    if is_url(path):
        return ""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _stamp(info: dict[str, Any]) -> str:
    keys = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created")
    return f"{info.get('size')} {next((info[key] for key in keys if key in info), '')}"


def read_file(location: str, kind: type[InputError] = ImageError, what: str = "image file") -> bytes:
    """Return the bytes of a file.

    Args:
        location: path or URL.
        kind: the error of a file that cannot be used.
        what: what the file should be, for the message.

    Raises:
        InputError: the given kind of it: there is no such file, it is no plain file, or it may not be read.
    """
    with naming_faults(location, kind, what):
        if not is_url(location):
            check_plain_file(location, what, kind)
            return Path(location).read_bytes()
        store, path = _store(location)
        return bytes(store.cat_file(path))


@contextmanager
def naming_faults(location: str, kind: type[InputError], what: str) -> Iterator[None]:
    """Turn errors of the block that are a file's own into one line; a fault of the network stays what it is.

    Args:
        location: of the file.
        kind: the error to raise.
        what: what the file should be, for the message.

    Raises:
        InputError: the given kind of it.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise kind(f"{location}: no such {what}") from error
    except (PermissionError, IsADirectoryError) as error:
        raise kind(f"{location}: cannot be read ({error.strerror or error})") from error
    except OSError as error:
        if is_url(location):  # Perhaps the network: repeated later, not noted as a fault of the file.
            raise
        raise kind(f"{location}: cannot be read ({error.strerror or error})") from error


def read_ranges(location: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
    """Return parts of a file, neighbours in one read.

    Args:
        location: path or URL.
        starts: where the parts begin, bytes.
        lengths: of the parts, bytes.

    Raises:
        InputError: the file cannot be read.
    """
    parts: dict[int, bytes] = {}
    with naming_faults(location, InputError, "file"), opened(location) as file:
        order = sorted(range(len(starts)), key=starts.__getitem__)
        while order:
            first, end, count = starts[order[0]], 0, 0
            for place in order:
                if count and starts[place] - end > MAX_GAP:
                    break
                end, count = max(end, starts[place] + lengths[place]), count + 1
            file.seek(first)
            content = file.read(end - first)
            for place in order[:count]:
                parts[place] = content[starts[place] - first : starts[place] - first + lengths[place]]
            order = order[count:]
    return [parts[place] for place in range(len(starts))]


@contextmanager
def opened(location: str) -> Iterator[BinaryIO]:
    """Open a file to read, anywhere in it."""
    if not is_url(location):
        with open(location, "rb") as file:
            yield file
    else:
        store, path = _store(location)
        with store.open(path, "rb") as file:
            yield file


def write_file(location: str, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    if not is_url(location):
        with whole_file(location) as temporary:
            temporary.write_bytes(content)
        return
    store, path = _store(location)
    if location.split("://", maxsplit=1)[0] in WHOLE_STORES:
        store.pipe_file(path, content)
    else:
        temporary_path = posixpath.join(posixpath.dirname(path), f".{uuid.uuid4().hex}-{posixpath.basename(path)}")
        store.pipe_file(temporary_path, content)
        store.mv(temporary_path, path)


def make_location(folder: str) -> None:
    """Make a folder and its parents, unless it is there.

    Raises:
        InputError: it cannot be made.
    """
    if not is_url(folder):
        make_folder(folder)
    else:
        store, path = _store(folder)
        store.makedirs(path, exist_ok=True)


def remove_file(location: str) -> None:
    """Remove a file, if it is there."""
    if not is_url(location):
        Path(location).unlink(missing_ok=True)
    else:
        store, path = _store(location)
        if store.exists(path):
            store.rm_file(path)


def found(location: str) -> bool:
    """Return whether there is such a file."""
    if not is_url(location):
        return os.path.isfile(location)
    store, path = _store(location)
    return bool(store.isfile(path))


def _store(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL and the path in it.

    Raises:
        MissingExtraError: fsspec is not installed.
        InputError: there is no such kind of store, or its package is not installed.
    """
    with needs_extra("ray"):
        import fsspec
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"{url}: cannot be opened ({error})") from error
