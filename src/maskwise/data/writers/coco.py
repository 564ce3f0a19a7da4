"""Write named regions as a new COCO file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maskwise.data.atomic_files import whole_file
from maskwise.data.writers.records import NamedImage, NamedRegion, WriteOptions, outline_of


def write(images: Iterable[NamedImage], output: Path, options: WriteOptions) -> None:
    """Write a COCO file; annotations come first in it, so that none has to be kept.

    Raises:
        InputError: see `whole_file`.
    """
    records: list[str] = []  # As text: a sixth of the memory.
    written = False
    with whole_file(output) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write('{"annotations": [')
        for image in images:
            record: dict[str, Any] = {"id": image.image_id, "file_name": image.file_name}
            if image.image_hw is not None:
                record |= {"width": image.image_hw[1], "height": image.image_hw[0]}
            records.append(_json(record))
            for region in image.regions:
                file.write((", " if written else "") + _json(_annotation(image, region, options)))
                written = True
        categories = [{"id": category.id, "name": category.name} for category in options.categories]
        file.write(f'], "images": [{", ".join(records)}], "categories": {_json(categories)}}}\n')


def _annotation(image: NamedImage, region: NamedRegion, options: WriteOptions) -> dict[str, Any]:
    record: dict[str, Any] = {"id": region.annotation_id, "image_id": image.image_id}
    if region.category is not None:
        record["category_id"] = region.category.id
    if region.mask is not None:
        outline = outline_of(region.mask, polygons=options.polygons)
        record |= {"segmentation": outline, "bbox": list(region.mask.box_xywh), "area": region.mask.area, "iscrowd": 0}
    if region.score is not None:
        record["score"] = region.score
        record["top_category_ids"] = [one.category_id for one in region.top]
        record["top_scores"] = [one.score for one in region.top]
    if region.known is not None:
        record["known"] = region.known
    return record


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
