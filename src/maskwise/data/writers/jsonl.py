"""Write named regions as JSON lines, an object for each region."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from maskwise.data.atomic_files import whole_file
from maskwise.data.writers.records import NamedImage, WriteOptions, outline_of
from maskwise.data.writers.rows import row_of


def write(images: Iterable[NamedImage], output: Path, options: WriteOptions) -> None:
    """Write JSON lines: the columns of `row_of`, `top` and `segmentation` (COCO's).

    Raises:
        InputError: see `whole_file`.
    """
    with whole_file(output) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
        for image in images:
            for region in image.regions:
                row = row_of(image, region)
                row["top"] = [vars(one) for one in region.top]
                row["segmentation"] = (
                    None if region.mask is None else outline_of(region.mask, polygons=options.polygons)
                )
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
