"""Write named regions as text files for YOLO's segmentation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from maskwise.data.atomic_files import whole_folder
from maskwise.data.masks import Mask
from maskwise.data.outlines import joined, mask_polygons
from maskwise.data.writers.records import NamedImage, WriteOptions
from maskwise.errors import InputError

NOT_YAML = re.compile("[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""Characters that must be escaped in a YAML text between double quotes, besides quotes and backslashes."""


def write(images: Iterable[NamedImage], output: Path, options: WriteOptions) -> None:
    """Write a folder with `data.yaml` and `labels/`, a text file for each image; the images are not copied.

    A line is a class number and a polygon, in shares of the image. Several parts, and holes, are joined by cuts of no
    width, since a line has one polygon. Regions without a name are left out. Scores have no place.

    Raises:
        InputError: see `whole_folder`; a file name leaves the folder, or two images would share a text file.

    Source:
        Ultralytics' documentation, instance segmentation datasets.
    """
    numbers = {category.name: number for number, category in enumerate(options.categories)}
    seen: dict[PurePosixPath, str] = {}
    with whole_folder(output) as temporary:
        lines = [f"  {number}: {yaml_text(name)}\n" for name, number in numbers.items()]
        text = "path: .  # this folder; the photographs belong into its folder images\ntrain: images\nval: images\n"
        (temporary / "data.yaml").write_text(text + "names:\n" + "".join(lines), encoding="utf-8")
        for image in images:
            name = PurePosixPath(image.file_name.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts or not name.name or ":" in name.parts[0]:
                raise InputError(f"{image.file_name}: leaves the folder of images; YOLO needs file names inside it")
            label = name.with_suffix(".txt")
            if label in seen:
                raise InputError(f"{seen[label]} and {image.file_name} would share {label} in YOLO's form; rename one")
            seen[label] = image.file_name
            path = temporary / "labels" / label
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [f"{numbers[category.name]} {_points(mask)}\n" for _, category, mask in image.drawn]
            path.write_text("".join(rows), encoding="ascii")


def yaml_text(text: str) -> str:
    r"""Return a text as YAML between double quotes.

    >>> print(yaml_text('a "b": \\ c\n'))
    "a \"b\": \\ c\n"
    """
    quoted = json.dumps(text, ensure_ascii=False)
    return NOT_YAML.sub(lambda match: f"\\U{ord(match[0]):08x}", quoted)


def _points(mask: Mask) -> str:
    height, width = mask.image_hw
    shares = joined(mask_polygons(mask)) / np.array([width, height])
    return " ".join(f"{value:.6f}".rstrip("0").rstrip(".") for value in shares.ravel().tolist())
