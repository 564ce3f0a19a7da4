"""Write named regions as a FiftyOne dataset on disk."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from maskwise.data.atomic_files import whole_folder
from maskwise.data.masks import Mask
from maskwise.data.regions import Category
from maskwise.data.writers.records import NamedImage, NamedRegion, WriteOptions

FIELD = "maskwise"
"""The samples' field that has the detections."""


def write(images: Iterable[NamedImage], output: Path, options: WriteOptions) -> None:
    """Write a folder with `samples.json` and `metadata.json`, which FiftyOne reads as a `FiftyOneDataset`.

    File names are relative: give the folder of images as `rel_dir`. Regions without a name are left out.

    Raises:
        InputError: see `whole_folder`.

    Source:
        FiftyOne's importer of `LegacyFiftyOneDataset`, which needs no schema; a mask is a compressed .npy file of its
        box in base64.
    """
    with whole_folder(output) as temporary:
        info = {"model": options.model, "classes": [one.name for one in options.categories]}
        metadata = json.dumps({"media_type": "image", "info": info}, ensure_ascii=False)
        (temporary / "metadata.json").write_text(metadata + "\n", encoding="utf-8", errors="backslashreplace")
        with open(temporary / "samples.json", "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write('{"samples": [')
            for number, image in enumerate(images):
                file.write((",\n" if number else "\n") + json.dumps(_sample(image), ensure_ascii=False))
            file.write("\n]}\n")


def _sample(image: NamedImage) -> dict[str, Any]:
    detections = [_detection(region, category, mask) for region, category, mask in image.drawn]
    sample: dict[str, Any] = {"filepath": image.file_name}
    if image.image_hw is not None:
        height, width = image.image_hw
        sample["metadata"] = {"_cls": "ImageMetadata", "width": width, "height": height}
    return {**sample, FIELD: {"_cls": "Detections", "detections": detections}}


def _detection(region: NamedRegion, category: Category, mask: Mask) -> dict[str, Any]:
    height, width = mask.image_hw
    x, y, w, h = mask.box_xywh
    record: dict[str, Any] = {
        "_cls": "Detection",
        "label": category.name,
        "bounding_box": [x / width, y / height, w / width, h / height],
        "mask": _packed(mask.bits),
        "annotation_id": str(region.annotation_id),
        "top": [one.name for one in region.top],
        "top_scores": [one.score for one in region.top],
        "is_none": region.is_none,
    }
    optional = {"confidence": region.confidence, "known": region.known}
    return record | {key: value for key, value in optional.items() if value is not None}


def _packed(bits: np.ndarray) -> str:
    with io.BytesIO() as file:
        np.save(file, bits, allow_pickle=False)
        return base64.b64encode(zlib.compress(file.getvalue())).decode("ascii")
