"""The columns of tables of named regions: one row for each region."""

from __future__ import annotations

from typing import Any

from maskwise.data.writers.records import NamedImage, NamedRegion


def row_of(image: NamedImage, region: NamedRegion) -> dict[str, Any]:
    """Return a region's values by column; None where a value is unknown.

    The columns: `image_id`, `file_name`, `annotation_id`, `name` and `category_id` (none if the region is unnamed),
    `score` (0 to 1), `is_none`, `known` (0 to 1), `x`, `y`, `width`, `height` (the box, pixels), `area` (pixels).
    """
    box = (None,) * 4 if region.mask is None else region.mask.box_xywh
    return {
        "image_id": image.image_id,
        "file_name": image.file_name,
        "annotation_id": region.annotation_id,
        "name": None if region.category is None else region.category.name,
        "category_id": None if region.category is None else region.category.id,
        "score": region.score,
        "is_none": region.is_none,
        "known": region.known,
        **dict(zip(("x", "y", "width", "height"), box, strict=True)),
        "area": None if region.mask is None else region.mask.area,
    }
