"""Write named regions as Label Studio's tasks with predictions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from maskwise.data.atomic_files import whole_file, write_text
from maskwise.data.label_studio_regions import Kind, region_values
from maskwise.data.masks import Mask
from maskwise.data.regions import Category
from maskwise.data.writers.cvat import xml_text
from maskwise.data.writers.records import NamedImage, NamedRegion, WriteOptions
from maskwise.errors import InputError

FROM_NAME, TO_NAME = "label", "image"
"""Names of the labels and of the image in the project's labelling configuration."""


def write(images: Iterable[NamedImage], output: Path, options: WriteOptions) -> None:
    """Write a list of tasks, and a labelling configuration that fits it to `OUTPUT.config.xml`.

    Each task has one prediction: a brush region (or with polygons one for each part) with its name, score and, as a
    note, the runners-up. Regions without a name are left out.

    Raises:
        InputError: see `whole_file`; or the size of an image is unknown.
    """
    write_text(output.with_name(output.name + ".config.xml"), labelling_config(options))
    with whole_file(output) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write("[")
        for number, image in enumerate(images):
            file.write((",\n" if number else "\n") + json.dumps(_task(image, options), ensure_ascii=False))
        file.write("\n]\n")


def labelling_config(options: WriteOptions) -> str:
    """Return the labelling configuration of a project for such tasks."""
    tag = "PolygonLabels" if options.polygons else "BrushLabels"
    labels = "".join(f"    <Label value={quoteattr(xml_text(one.name))}/>\n" for one in options.categories)
    return (
        f'<View>\n  <Image name="{TO_NAME}" value="$image" zoom="true"/>\n'
        f'  <{tag} name="{FROM_NAME}" toName="{TO_NAME}">\n{labels}  </{tag}>\n</View>\n'
    )


def _task(image: NamedImage, options: WriteOptions) -> dict[str, Any]:
    url = options.image_url + quote(image.file_name.encode("utf-8", "backslashreplace"))
    result = [record for region, name, mask in image.drawn for record in _results(image, (region, name, mask), options)]
    scores = [region.confidence for region, _, _ in image.drawn if region.confidence is not None]
    prediction: dict[str, Any] = {"model_version": options.model, "result": result}
    if scores:
        prediction["score"] = round(sum(scores) / len(scores), 6)
    return {"data": {"image": url}, "predictions": [prediction]}


def _results(
    image: NamedImage, drawn: tuple[NamedRegion, Category, Mask], options: WriteOptions
) -> Iterator[dict[str, Any]]:
    """Yield a region's records: one brush region, or a polygon for each part."""
    region, category, mask = drawn
    if image.image_hw is None:
        raise InputError(f"image id {image.image_id}: its size is unknown, and Label Studio needs it; name it first")
    height, width = image.image_hw
    common: dict[str, Any] = {
        "from_name": FROM_NAME,
        "to_name": TO_NAME,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "meta": {"text": [f"{one.name} {one.score:.1%}" for one in region.runners_up]},
    }
    if region.confidence is not None:
        common["score"] = region.confidence
    kind: Kind = "polygon" if options.polygons else "brush"
    for number, value in enumerate(region_values(mask, kind)):
        part_id = f"{region.annotation_id}-{number}" if number else str(region.annotation_id)
        labels = f"{kind}labels"
        yield {"id": part_id, "type": labels, **common, "value": {**value, labels: [category.name]}}
