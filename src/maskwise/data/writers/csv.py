"""Write named regions as CSV, a row for each region."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from maskwise.data.atomic_files import whole_file
from maskwise.data.writers.records import NamedImage, NamedRegion, WriteOptions
from maskwise.data.writers.rows import row_of

COLUMNS = (
    *("image_id", "file_name", "annotation_id", "name", "category_id", "score", "is_none", "known"),
    *("x", "y", "width", "height", "area", "top"),
)
"""See `row_of`; `top` has the most probable classes and their scores as JSON: [["cup", 0.9], ["bowl", 0.1]]."""


def write(images: Iterable[NamedImage], output: Path, options: WriteOptions) -> None:
    """Write a CSV file (UTF-8, RFC 4180): no outlines; an empty field where a value is unknown.

    Raises:
        InputError: see `whole_file`.
    """
    with (
        whole_file(output) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for image in images:
            for region in image.regions:
                row = {**row_of(image, region), "is_none": str(region.is_none).lower(), "top": _top(region)}
                writer.writerow(row)


def _top(region: NamedRegion) -> str:
    return json.dumps([[one.name, one.score] for one in region.top], ensure_ascii=False)
