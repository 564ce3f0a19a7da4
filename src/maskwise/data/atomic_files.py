"""Write files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from maskwise.data.plain_files import shortened
from maskwise.errors import AnnotationError, InputError


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `path` only when the block ends without an error.

    The temporary file lies in the same folder, keeps the suffix (writers choose their format by it), is
    flushed to disk before the rename, and is removed if the block raises.

    Raises:
        InputError: the folder of `path` does not exist or cannot be written to, or the block raises an OSError, as
            where the disk is full; what stood at `path` is still there.
    """
    path = Path(os.path.realpath(path))  # A link stays, and what it leads to is written.
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise InputError(
            f"{path}: cannot write there ({error.strerror}); give a path in an existing, writable folder"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); nothing there was changed: make room, or give"
            " another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary folder to write into; it becomes `path` only when the block ends without an error.

    Raises:
        InputError: see `check_output_folder`; or the block raises an OSError, as where the disk is full.
    """
    path = Path(path)
    check_output_folder(path)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent))
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error.strerror}); give a path in a writable folder") from error
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        if path.exists():  # It is empty.
            path.rmdir()
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); make room, or give another place"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output_folder(path: str | os.PathLike[str]) -> None:
    """Refuse an output folder that cannot be made, before the work is done.

    Raises:
        InputError: it is a file, or a folder that is not empty, or the folder around it does not exist.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = "is a folder that is not empty" if path.is_dir() else "is a file"
        raise InputError(f"{path}: {what}; give the name of a new folder, or empty this one")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it, or give another path")


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what `whole_file` and `whole_folder` have left of processes killed while they wrote `path`."""
    path = Path(path)
    for leftover in path.parent.glob(f".{path.stem}-????????{path.suffix}"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write `value` as JSON (UTF-8, non-ASCII kept), whole or not at all."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        AnnotationError: the file is missing or is not JSON; the message has line and column.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: is not JSON ({error})") from error


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and its parents, unless it is there.

    Raises:
        InputError: it cannot be made, or is a file.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made a folder ({error.strerror}); give another output folder") from error
    return Path(path)


def check_output(path: str | os.PathLike[str], *, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Refuse an output file that cannot be written, before the work is done.

    Args:
        path: the file to write.
        inputs: files that must not be overwritten.

    Raises:
        InputError: it is a folder or a device, its folder does not exist, or it is one of the inputs.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{shortened(str(path))}: cannot be written ({reason}); give another path") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a folder; give the name of a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is not a plain file, and is not replaced; give the path of a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it, or give another path")
    for other in inputs:
        if path.exists() and Path(other).exists() and path.samefile(other):
            raise InputError(f"{path}: is the input itself; give another name, so that it is not written over")
