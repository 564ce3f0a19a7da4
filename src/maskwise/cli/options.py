"""Flags and types that commands share."""

from __future__ import annotations

import csv
import inspect
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import tyro

T = TypeVar("T")
STANDARD_OUTPUT = Path("-")
"""Stands for standard output where a file to write is asked for."""


def parse_flags(command: type[T], args: list[str], prog: str, default: Any = None) -> T:
    """Parse a command's flags; wrong flags exit with 2.

    Args:
        command: dataclass whose docstring is the help text, examples included.
        args: the arguments after the verb.
        prog: name of the command in the help.
        default: a command whose values replace the dataclass's defaults.
    """
    # tyro alone would drop the examples of the docstring as a section of its own.
    more = {} if default is None else {"default": default}
    return tyro.cli(command, args=args, prog=prog, description=inspect.getdoc(command), **more)


def write_json_output(path: Path, value: Any) -> None:
    """Write JSON to a file, whole or not at all; `-` is standard output."""
    from maskwise.data.atomic_files import write_json

    if path == STANDARD_OUTPUT:
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        write_json(path, value)


def class_list(text: str | None) -> list[str] | None:
    """Return the names of --classes: between commas, as a line of CSV; None without the flag.

    >>> class_list('cup, "salt, pepper"')
    ['cup', 'salt, pepper']
    """
    if text is None:
        return None
    names = next(csv.reader([text], skipinitialspace=True), [])
    return [name.strip() for name in names if name.strip()]


def wrong_usage(verb: str, message: str) -> NoReturn:
    """Print what is wrong with a command's flags and exit with 2."""
    print(f"maskwise {verb}: {message}", file=sys.stderr)
    raise SystemExit(2)


Mode = Annotated[
    Literal["auto", "exact", "shared"],
    tyro.conf.arg(
        help="exact crops around every mask, so that no answer depends on the other masks; auto shares crops between"
        " nearby masks of similar size once there are eight or more: faster, and some names change; shared uses at most"
        " eight crops of a kind per image: fastest, and small regions are named less well."
    ),
]
DeviceFlag = Annotated[Literal["cpu", "cuda"], tyro.conf.arg(help="Where the model runs.")]
ModelFile = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="FILE|NAME", help="Model file, or a name that `maskwise models` lists (default: the built-in model)."
    ),
]
Threads = Annotated[int | None, tyro.conf.arg(metavar="N", help="CPU threads (default: all available cores).")]
ClassNames = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="A,B,...",
        help="Only these of the model's classes; their probabilities then add up to 1. A name with a comma goes between"
        " double quotes.",
    ),
]
FormatFlag = Annotated[
    Literal["coco", "csv", "jsonl", "parquet", "cvat", "label-studio", "yolo", "fiftyone"] | None,
    tyro.conf.arg(
        help="Format of the output (default: by its suffix: .json is COCO, .csv, .jsonl, .parquet, .xml is CVAT). yolo"
        " and fiftyone are folders."
    ),
]
PolygonsFlag = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help="Write outlines as polygons instead of run lengths, for tools that read no run lengths."),
]
ImageUrl = Annotated[
    str,
    tyro.conf.arg(metavar="URL", help="For label-studio: what stands before the images' file names in the tasks."),
]
MinKnown = Annotated[
    float | None,
    tyro.conf.arg(
        metavar="0..1",
        help='A region is "none of these" if it is less probable that it is one of the classes at all (default: as the'
        " model says, so that 97 % of true objects stay; 0 names everything).",
    ),
]
MinProbability = Annotated[
    float,
    tyro.conf.arg(metavar="0..1", help='A region is "none of these" if its most probable class is less probable.'),
]
OnErrorFlag = Annotated[
    Literal["skip", "stop"],
    tyro.conf.arg(help="skip leaves faulty records and images out and counts them; stop ends with an error."),
]
