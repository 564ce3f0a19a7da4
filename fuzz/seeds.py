"""First inputs of each target: small and right, so that the fuzzer starts from the form."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

RLE = {"size": [24, 31], "counts": "X5;0000i<"}
SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 24, "width": 31}],
    "categories": [{"id": 1, "name": "cup"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": SQUARE, "area": 100, "iscrowd": 0},
        {"id": 2, "image_id": 1, "segmentation": {"size": [24, 31], "counts": [100, 20, 624]}, "bbox": [1, 2, 3, 4]},
        {"id": "3", "image_id": 1.0, "bbox": [1, 2, 3, 4], "iscrowd": 1},
    ],
}
MODEL = {
    "format": "maskwise-region-classifier", "format_version": 2, "name": "m", "shares": True, "temperature": 1.5,
    "categories": [{"id": 1, "name": "cup"}, {"id": "b", "name": "cat"}], "batch_size": 8, "training": {},
    "view": {"kind": "crop", "size": 168, "context": 1.5, "min_side": 64, "wide_context": 3.0, "wide_min_side": 96},
}  # fmt: skip
RECIPE = b"""
weights = "timm"
[network]
trunk = "resnet50"
sites = ["conv1"]
[view]
size = 224
[[data.sources]]
images = "a"
annotations = "b.json"
[schedule]
steps = 10
lr_trunk = 1e-4
"""
RESULT = {
    "key": "a", "image_hw": [24, 31], "classes": [[1, 0], None], "scores": [[0.9, 0.1], None],
    "boxes": [[1, 2, 3, 4], None], "areas": [12, None],
    "problems": [{"message": "x", "image_id": 1, "annotation_id": 2, "row": 1}],
}  # fmt: skip


SHAPES = ([1, 2, 9, 2, 9, 12, 1, 12.5], [1e9, -1e9, 3e7, np.nan, np.inf, 5])
"""Numbers of boxes and polygons, good and bad."""


def seeds(target: str) -> Iterator[bytes]:
    """Yield the first inputs of a target."""
    texts = {
        "segmentations": [
            SQUARE, SQUARE[0], [[2, 2], [12, 2], [12, 12]], RLE, [RLE], np.eye(24, 31, dtype=int).tolist()
        ],
        "coco_files": [COCO],
        "segment_files": [
            {"image": {"image_id": 3, "file_name": "a.jpg"}, "annotations": COCO["annotations"]},
            [{"segmentation": RLE, "area": 3}],
            [{"image_id": 4, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
        ],
        "model_metadata": [MODEL],
        "journals": [RESULT],
    }  # fmt: skip
    bare: dict[str, Iterable[bytes]] = {
        "mask_arrays": (bytes([kind, 12, 15, *values]) for kind in range(9) for values in ([0, 1, 0, 1], range(200))),
        "shapes": (np.array(numbers).tobytes() for numbers in SHAPES),
        "run_lengths": [b"X5;0000i<", bytes([100, 20, 255, 200, 169]), b"0130000"],
        "mask_stacks": stacks(),
        "recipes": [RECIPE],
        "images": pictures(),
        "mask_files": pictures(),
        "label_maps": (*pictures(), b"0 0 128 sky\n128 64 128 road\n", b'{"sky": [0, 0, 128]}'),
    }
    yield from (json.dumps(value).encode() for value in texts.get(target, ()))
    yield from bare.get(target, ())


def stacks() -> Iterator[bytes]:
    """Yield NumPy files of one mask and of several."""
    for array in (np.eye(24, 31, dtype=bool), np.zeros((2, 24, 31), dtype=np.float32)):
        for save in (np.save, np.savez):
            stream = io.BytesIO()
            save(stream, array)
            yield stream.getvalue()


def pictures() -> Iterator[bytes]:
    """Yield small pictures in every format that is read."""
    grey = Image.fromarray((np.indices((24, 31)).sum(axis=0) % 5 > 2).astype(np.uint8) * 255)
    for mode, kind in (
        ("L", "PNG"), ("1", "PNG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("I;16", "PNG"), ("RGB", "JPEG"),
        ("RGB", "WEBP"), ("RGB", "BMP"), ("L", "TIFF"), ("F", "TIFF"), ("P", "GIF"), ("RGB", "PPM"),
        ("RGB", "JPEG2000"),
    ):  # fmt: skip
        stream = io.BytesIO()
        grey.convert(mode).save(stream, kind)
        yield stream.getvalue()
