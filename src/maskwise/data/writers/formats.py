"""The formats that named regions can be written in, and the choice of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

from maskwise.data.atomic_files import check_output, check_output_folder
from maskwise.data.writers.records import NamedImage, Write, WriteOptions
from maskwise.errors import InputError

FormatName = Literal["coco", "csv", "jsonl", "parquet", "cvat", "label-studio", "yolo", "fiftyone"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of named regions.

    Attributes:
        name: what the user calls it.
        suffix: the suffix of paths that chooses it; None if only the name does.
        folder: whether it is a folder.
        polygons: whether it has polygons in place of run lengths; None if it never has run lengths.
    """

    name: FormatName
    suffix: str | None = None
    folder: bool = False
    polygons: bool | None = True


FORMATS = {
    one.name: one
    for one in (
        Format(name="coco", suffix=".json"),
        Format(name="csv", suffix=".csv", polygons=False),
        Format(name="jsonl", suffix=".jsonl"),
        Format(name="parquet", suffix=".parquet"),
        Format(name="cvat", suffix=".xml"),
        Format(name="label-studio"),
        Format(name="yolo", folder=True, polygons=None),
        Format(name="fiftyone", folder=True, polygons=False),
    )
}
assert tuple(FORMATS) == get_args(FormatName)


def format_of(output: Path, name: FormatName | None = None, *, polygons: bool = False) -> Format:
    """Return the format to write.

    Args:
        output: the path to write; its suffix chooses unless there is a name.
        name: the format.
        polygons: whether polygons are asked for in place of run lengths.

    Raises:
        InputError: an unknown suffix or name, or the format has no polygons.
    """
    if name is not None and name not in FORMATS:
        raise InputError(f"format {name!r}; accepted are {', '.join(FORMATS)}")
    suffix = output.suffix.lower()
    chosen = FORMATS[name] if name else next((one for one in FORMATS.values() if one.suffix == suffix), None)
    if chosen is None:
        if output.is_dir():
            raise InputError(f"{output}: is a folder; give the name of a file, or of a format that is a folder")
        suffixes = ", ".join(f"{one.suffix} ({one.name})" for one in FORMATS.values() if one.suffix)
        others = ", ".join(one.name for one in FORMATS.values() if not one.suffix)
        raise InputError(f"{output}: unknown suffix; accepted are {suffixes}; or name the format: {others}")
    if polygons and chosen.polygons is False:
        able = ", ".join(one.name for one in FORMATS.values() if one.polygons)
        raise InputError(f"{chosen.name} has no polygons; leave them out, or choose one of {able}")
    return chosen


def check_output_of(form: Format, output: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that cannot be written, before the work.

    Raises:
        InputError: see `check_output`; a folder that is not empty; or the file names a folder's format.
        MissingExtraError: the format's package is not installed.
    """
    if form.folder:
        check_output_folder(output)
    else:
        check_output(output, inputs=inputs)
    if form.name == "parquet":
        from maskwise.extras import needs_extra

        with needs_extra("parquet"):
            import pyarrow.parquet  # noqa: F401


def write_named(form: Format, images: Iterable[NamedImage], output: Path, options: WriteOptions) -> None:
    """Write named regions, whole or not at all.

    Args:
        form: the format.
        images: read one after the other.
        output: the file or folder.
        options: see `WriteOptions`.

    Raises:
        InputError: the output cannot be written, or the format cannot hold these images.
        MissingExtraError: the format's package is not installed.
    """
    write: Write = import_module(f"maskwise.data.writers.{form.name.replace('-', '_')}").write
    write(images, output, options)
