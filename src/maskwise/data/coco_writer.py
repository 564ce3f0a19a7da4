"""Write a COCO file with names; everything else in it stays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from jaxtyping import Float64, Int32
from msgspec import Raw

from maskwise.data.atomic_files import whole_file
from maskwise.data.coco_file import CocoFile
from maskwise.data.coco_index import Text, json_text
from maskwise.data.problems import Id
from maskwise.data.regions import Category


def write_named_coco(
    coco: CocoFile,
    known: Sequence[Category],
    classes: Int32[np.ndarray, "annotations top"],
    scores: Float64[np.ndarray, "annotations top"],
    output: Path,
) -> None:
    """Write a COCO file with `category_id`, `score`, `top_category_ids` and `top_scores` in every annotation.

    All other fields, and every order, stay; lists other than `annotations` and `categories` are copied byte for byte.
    Classes keep the ids that the file gives to their names. The model's other classes are added to `categories`, under
    the model's ids where those are free.

    Args:
        coco: the segments.
        known: the model's classes.
        classes: the most probable classes of each annotation, places in `known`, the most probable first.
        scores: their probabilities, 0 to 1.
        output: the file to write, whole or not at all.
    """
    text = json_text(coco.path) if coco.text is None else coco.text
    sections = msgspec.json.decode(text, type=dict[str, Raw])
    categories, ids = _with_known(json.loads(bytes(sections.get("categories", b"[]"))), known)
    with whole_file(output) as temporary, open(temporary, "wb") as file:
        for number, key in enumerate(dict.fromkeys([*sections, "categories"])):
            file.write(b"%b%b: " % (b", " if number else b"{", _json(key)))
            if key == "annotations":
                rows = (([ids[i] for i in of.tolist()], p.tolist()) for of, p in zip(classes, scores, strict=True))
                _write_annotations(coco, text, rows, file)
            else:
                file.write(_json(categories) if key == "categories" else memoryview(sections[key]))
        file.write(b"}\n")


def _with_known(given: list[dict[str, Any]], known: Sequence[Category]) -> tuple[list[dict[str, Any]], list[Id]]:
    """Return a file's categories with the model's added, and the id of each of the model's classes."""
    categories = list(given)
    ids = {record["name"]: record["id"] for record in categories}
    for category in known:
        if category.name not in ids:
            taken = set(ids.values())
            next_free = max((value for value in taken if isinstance(value, int)), default=0) + 1
            ids[category.name] = category.id if category.id not in taken else next_free
            categories.append({"id": ids[category.name], "name": category.name})
    return categories, [ids[category.name] for category in known]


def _write_annotations(
    coco: CocoFile, text: Text, names: Iterable[tuple[list[Id], list[float]]], file: BinaryIO
) -> None:
    file.write(b"[")
    places = zip(coco.index.start.tolist(), coco.index.length.tolist(), names, strict=True)
    for row, (start, length, (category_ids, scores)) in enumerate(places):
        named = {
            **json.loads(text[start : start + length]),
            "category_id": category_ids[0],
            "score": scores[0],
            "top_category_ids": category_ids,
            "top_scores": scores,
        }
        file.write((b", " if row else b"") + _json(named))
    file.write(b"]")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
