"""Write a COCO file with names; everything else in it stays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64
from msgspec import Raw

from maskwise.data.atomic_files import whole_file
from maskwise.data.coco_file import CocoFile
from maskwise.data.coco_index import Text, image_numbers, json_text
from maskwise.data.problems import Id
from maskwise.data.regions import Category
from maskwise.data.writers.records import outline_of
from maskwise.errors import AnnotationError, MaskError

NoneMode = Literal["category", "keep", "drop"]
"""What becomes of annotations that are "none of these"."""
NONE_NAME = "none of these"
NONE_ID = 0
"""Id of the category of that name, unless the file has it for another one."""
REMOVED = object()
"""Stands for a value that is taken out of a record."""


@dataclass(frozen=True, eq=False)
class NamedAnnotations:
    """What is written into the annotations of a file, a row for each; class -1 leaves one as it is.

    Attributes:
        classes: the most probable classes, places in the model's list, the most probable first.
        scores: their probabilities, 0 to 1.
        known: probability of being one of the classes at all; not a number if the model cannot tell.
        none: whether they are "none of these".
        boxes: x, y, width and height of the masks, pixels.
        areas: pixels of the masks.
        image_hw: height and width of each image, pixels; 0 if unknown.
    """

    classes: Int32[np.ndarray, "annotations top"]
    scores: Float64[np.ndarray, "annotations top"]
    known: Float64[np.ndarray, " annotations"]
    none: Bool[np.ndarray, " annotations"]
    boxes: Int32[np.ndarray, "annotations 4"]
    areas: Int64[np.ndarray, " annotations"]
    image_hw: Int32[np.ndarray, "images 2"]


def write_named_coco(
    coco: CocoFile,
    known: Sequence[Category],
    named: NamedAnnotations,
    output: Path,
    *,
    none: NoneMode = "category",
    polygons: bool = False,
) -> None:
    """Write a COCO file with `category_id`, `score`, `top_category_ids` and `top_scores` in every named annotation.

    Models that can say "none of these" also give `known`, the probability that the region is one of the classes at all.

    `bbox`, `area`, `iscrowd`, `width` and `height` are filled in where they are missing, so that other tools can read
    the file. All other values are copied byte for byte, in their order. Classes keep the ids that the file gives to
    their names; the model's other classes are added to `categories`, under the model's ids where those are free.

    Args:
        coco: the segments.
        known: the model's classes.
        named: what to write.
        output: the file to write, whole or not at all.
        none: annotations that are "none of these" get a category of that name (`category`), lose their `category_id`
            (`keep`), or are left out (`drop`).
        polygons: write the outlines as polygons, also those of annotations that stay unnamed.
    """
    text = json_text(coco.path) if coco.text is None else coco.text
    sections = msgspec.json.decode(text, type=dict[str, Raw])
    categories, ids = with_known(sections.get("categories", Raw(b"[]")), [*known, *_with_none(named, none)])
    with whole_file(output) as temporary, open(temporary, "wb") as file:
        for number, key in enumerate(dict.fromkeys([*sections, "categories"])):
            file.write(b"%b%b: " % (b", " if number else b"{", _json(key)))
            if key == "annotations":
                _write_annotations(coco, text, named, (ids, none, polygons), file)
            elif key == "images":
                _write_images(sections[key], named.image_hw, file)
            else:
                file.write(categories if key == "categories" else memoryview(sections[key]))
        file.write(b"}\n")


def output_categories(
    given: Sequence[Category], known: Sequence[Category], named: NamedAnnotations, none: NoneMode
) -> tuple[tuple[Category, ...], list[Id]]:
    """Return the classes of an output, a file's own and then the model's others, and the id of each of the model's.

    With `none` as `category`, "none of these" is the last of them if any annotation is that.
    """
    ids: dict[str, Id] = {}
    for category in given:
        ids.setdefault(category.name, category.id)
    with_none = _with_none(named, none)
    _, of_known = _added(ids, [*known, *with_none])
    categories = [Category(number, name) for name, number in ids.items()]
    if with_none:  # The file may have it elsewhere in its list.
        categories.sort(key=lambda category: category.name == NONE_NAME)
    return tuple(categories), of_known


def _with_none(named: NamedAnnotations, none: NoneMode) -> list[Category]:
    return [Category(NONE_ID, NONE_NAME)] if none == "category" and named.none.any() else []


def with_known(given: Raw | bytes, known: Sequence[Category]) -> tuple[bytes, list[Id]]:
    """Return a file's categories with the model's added, and the id of each of the model's classes."""
    records = msgspec.json.decode(given, type=list[Raw])
    ids: dict[str, Id] = {}
    for record in records:
        fields = msgspec.json.decode(record)
        if isinstance(fields, dict) and "name" in fields and "id" in fields:
            ids.setdefault(fields["name"], fields["id"])
    added, of_known = _added(ids, known)
    written = [_json({"id": category.id, "name": category.name}) for category in added]
    return b"[" + b", ".join([*map(bytes, records), *written]) + b"]", of_known


def _added(ids: dict[str, Id], known: Sequence[Category]) -> tuple[list[Category], list[Id]]:
    """Add the model's classes to a file's ids by name; return the added ones, and the id of each of the model's."""
    taken = set(map(str, ids.values()))
    added = []
    for category in known:
        if category.name not in ids:
            numbers = [int(value) for value in ids.values() if isinstance(value, (int, float))]
            free = category.id if str(category.id) not in taken else max(numbers, default=0) + 1
            ids[category.name] = free
            taken.add(str(free))
            added.append(Category(free, category.name))
    return added, [ids[category.name] for category in known]


def _write_images(given: Raw, image_hw: Int32[np.ndarray, "images 2"], file: BinaryIO) -> None:
    records = msgspec.json.decode(given, type=list[Raw])
    rows = dict(zip(image_numbers(records), image_hw.tolist(), strict=True))
    file.write(b"[")
    for number, record in enumerate(records):
        height, width = rows.get(number, (0, 0))
        more = {"width": width, "height": height} if height else {}
        file.write((b", " if number else b"") + _filled(record, {}, more))
    file.write(b"]")


def _write_annotations(
    coco: CocoFile, text: Text, named: NamedAnnotations, how: tuple[list[Id], NoneMode, bool], file: BinaryIO
) -> None:
    ids, none, polygons = how
    file.write(b"[")
    places = zip(coco.index.start.tolist(), coco.index.length.tolist(), strict=True)
    written = 0
    for row, (start, length) in enumerate(places):
        record = text[start : start + length]
        if named.none[row] and none == "drop":
            continue
        if named.classes[row, 0] >= 0:
            category_ids, scores = [ids[place] for place in named.classes[row]], named.scores[row].tolist()
            known = None if np.isnan(named.known[row]) else float(named.known[row])
            none_id = None if not named.none[row] else ids[-1] if none == "category" else REMOVED
            shape = named.boxes[row].tolist(), int(named.areas[row])
            record = named_record(record, category_ids, scores=scores, known=known, none_id=none_id, shape=shape)
        if polygons and (outline := _polygons(coco, row, named)):
            record = _filled(record, {"segmentation": outline}, {})
        file.write((b", " if written else b"") + record)
        written += 1
    file.write(b"]")


def named_record(
    record: bytes,
    category_ids: Sequence[Id],
    *,
    scores: Sequence[float],
    known: float | None,
    none_id: Any,
    shape: tuple[Sequence[float], int],
) -> bytes:
    """Return an annotation with its names; `bbox`, `area` and `iscrowd` are filled in where they are missing.

    Args:
        record: the annotation, JSON.
        category_ids: the most probable classes, the most probable first.
        scores: their probabilities, 0 to 1.
        known: probability of being one of the classes at all; None if the model cannot tell.
        none_id: None unless it is "none of these"; then the id to write, or REMOVED.
        shape: x, y, width and height of the mask, and its pixels.
    """
    names: dict[str, Any] = {
        "category_id": category_ids[0] if none_id is None else none_id,
        "score": scores[0],
        "top_category_ids": list(category_ids),
        "top_scores": list(scores),
    }
    if known is not None:
        names["known"] = known
    return _filled(record, names, {"bbox": list(shape[0]), "area": shape[1], "iscrowd": 0})


def _polygons(coco: CocoFile, row: int, named: NamedAnnotations) -> list[list[float]] | None:
    """Return an annotation's outline as polygons; None if it cannot be read, or the size of its image is unknown."""
    image = int(coco.index.image[row])
    image_hw = size_of_image(coco, named, image) if image >= 0 else None
    try:
        outline = None if image_hw is None else outline_of(coco.mask(row, image_hw), polygons=True)
    except (MaskError, AnnotationError):
        return None
    assert not isinstance(outline, dict)
    return outline


def size_of_image(coco: CocoFile, named: NamedAnnotations, image: int) -> tuple[int, int] | None:
    """Return height and width of an image, by its row, as it was read or else as the file states; None if unknown."""
    height, width = named.image_hw[image].tolist()
    if not height and not np.isnan(coco.index.height[image] + coco.index.width[image]):
        height, width = int(coco.index.height[image]), int(coco.index.width[image])
    return (height, width) if height > 0 and width > 0 else None


def _filled(record: bytes | Raw, values: dict[str, Any], missing: dict[str, Any]) -> bytes:
    """Return a record with some values set, and others where it has none; all else is copied byte for byte."""
    try:
        fields = msgspec.json.decode(record, type=dict[str, Raw])
    except msgspec.ValidationError:  # Not an object.
        return bytes(record)
    absent = {key: value for key, value in missing.items() if bytes(fields.get(key, b"null")) in (b"null", b"[]")}
    if not values and not absent:
        return bytes(record)
    written = {key: bytes(value) for key, value in fields.items() if key not in absent}
    written |= {key: _json(value) for key, value in (absent | values).items() if value is not REMOVED}
    written = {key: value for key, value in written.items() if values.get(key) is not REMOVED}
    return b"{" + b", ".join(_json(key) + b": " + value for key, value in written.items()) + b"}"


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")
