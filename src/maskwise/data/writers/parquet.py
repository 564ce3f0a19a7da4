"""Write named regions as Parquet, a row for each region."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maskwise.data.atomic_files import whole_file
from maskwise.data.problems import Id
from maskwise.data.writers.records import NamedImage, NamedRegion, WriteOptions, outline_of
from maskwise.data.writers.rows import row_of
from maskwise.extras import needs_extra

GROUP = 2000
"""Rows that are kept before they are written."""


def write(images: Iterable[NamedImage], output: Path, options: WriteOptions) -> None:
    """Write a Parquet file: the columns of `row_of`, `top` and `segmentation` (COCO's, as JSON).

    Ids are text: COCO's may be numbers or text.

    Raises:
        InputError: see `whole_file`.
        MissingExtraError: pyarrow is not installed.
    """
    with needs_extra("parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    top = pa.struct({"name": pa.string(), "category_id": pa.string(), "score": pa.float64()})
    schema = pa.schema(
        {
            **dict.fromkeys(("image_id", "file_name", "annotation_id", "name", "category_id"), pa.string()),
            "score": pa.float64(),
            "is_none": pa.bool_(),
            "known": pa.float64(),
            **dict.fromkeys(("x", "y", "width", "height"), pa.int32()),
            "area": pa.int64(),
            "top": pa.list_(top),
            "segmentation": pa.string(),
        }
    )
    rows: list[dict[str, Any]] = []
    with whole_file(output) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for image in images:
            rows += [_row(image, region, options) for region in image.regions]
            if len(rows) >= GROUP:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _row(image: NamedImage, region: NamedRegion, options: WriteOptions) -> dict[str, Any]:
    row = row_of(image, region)
    row["file_name"] = image.file_name.encode(errors="backslashreplace").decode()
    for name in ("image_id", "annotation_id", "category_id"):
        row[name] = _text(row[name])
    row["top"] = [{**vars(one), "category_id": _text(one.category_id)} for one in region.top]
    outline = None if region.mask is None else outline_of(region.mask, polygons=options.polygons)
    row["segmentation"] = None if outline is None else json.dumps(outline)
    return row


def _text(value: Id | None) -> str | None:
    return None if value is None else str(value)
