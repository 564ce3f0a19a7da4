"""Fuzz targets: each feeds bytes to one way in; only Maskwise's own errors may come out."""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from maskwise.data.coco_file import read_coco
from maskwise.data.images import load_image
from maskwise.data.label_maps import read_label_map
from maskwise.data.mask_files import read_instances, read_masks
from maskwise.data.mask_pixels import region_pixels
from maskwise.data.masks import Mask
from maskwise.data.palettes import read_palette
from maskwise.data.segment_files import read_segments
from maskwise.data.segmentations import mask_of_segmentation
from maskwise.errors import MaskwiseError
from maskwise.model.model_file import METADATA_KEY, ModelInfo
from maskwise.tasks.journal import HEADER, Journal
from maskwise.training.settings import settings_from_dict

IMAGE_HW = (24, 31)
"""Size of the image that masks are made for, pixels."""
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
DTYPES = ("bool", "uint8", "int8", "uint16", "int32", "int64", "float16", "float32", "float64")

Target = Callable[[bytes], None]


def mask_arrays(content: bytes) -> None:
    """The first bytes say type and shape, the rest are the values."""
    if len(content) < 4:
        return
    dtype = np.dtype(DTYPES[content[0] % len(DTYPES)])
    height, width = content[1] % 20, content[2] % 20
    values = np.resize(np.frombuffer(content[3:], dtype=np.uint8), max(height * width * dtype.itemsize, 1))
    array = values[: height * width * dtype.itemsize].view(dtype).reshape(height, width)
    region_pixels(array)


def shapes(content: bytes) -> None:
    """Numbers as a box, and as a polygon."""
    numbers = np.frombuffer(content[: len(content) // 8 * 8], dtype=np.float64)
    with ignored():
        Mask.from_box(numbers[:4].tolist(), IMAGE_HW)
    Mask.from_polygons([numbers, numbers[::-1]], IMAGE_HW)


def run_lengths(content: bytes) -> None:
    """Text as compressed run lengths, bytes as uncompressed ones."""
    with ignored():
        Mask.from_rle({"size": list(IMAGE_HW), "counts": content.decode("latin-1")})
    with ignored():
        Mask.from_rle({"size": list(IMAGE_HW), "counts": content})
    Mask.from_rle({"size": list(IMAGE_HW), "counts": list(content)})


def segmentations(content: bytes) -> None:
    """JSON as a `segmentation`."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return
    mask_of_segmentation(value, IMAGE_HW)


def coco_files(content: bytes) -> None:
    """A COCO file, its index and every mask."""
    coco = read_coco(written("coco.json", content), labelled=False, on_error="skip")
    _ = coco.categories, coco.problems
    for row in np.flatnonzero(coco.index.image >= 0)[:9].tolist():
        coco.ids(row)
        with ignored():
            coco.mask(row, IMAGE_HW)
        with ignored():
            coco.read_mask(row, Path("/dev/null"))


def segment_files(content: bytes) -> None:
    """SAM's lists, SA-1B and results lists."""
    read_segments(written("segments.json", content), FOLDER / "photo.jpg", on_error="skip")


def images(content: bytes) -> None:
    """A photograph."""
    load_image(written("image", content))


def mask_files(content: bytes) -> None:
    """A mask picture, and a picture of ids."""
    path = written("mask.png", content)
    with ignored():
        read_masks(path, IMAGE_HW)
    read_instances(path, IMAGE_HW)


def mask_stacks(content: bytes) -> None:
    """NumPy files."""
    with ignored():
        read_masks(written("mask.npy", content), IMAGE_HW)
    read_masks(written("mask.npz", content), IMAGE_HW)


def label_maps(content: bytes) -> None:
    """A label map, and a palette."""
    path = written("labels.png", content)
    with ignored():
        read_palette(path)
    read_label_map(path)


def model_metadata(content: bytes) -> None:
    """The metadata of a model file."""
    ModelInfo.from_metadata({METADATA_KEY: content.decode("utf-8", "replace")}, "fuzzed.onnx")


def recipes(content: bytes) -> None:
    """A training recipe."""
    try:
        values = tomllib.loads(content.decode("utf-8", "replace"))
    except (tomllib.TOMLDecodeError, RecursionError):
        return
    settings_from_dict(values, "fuzzed.toml")


def journals(content: bytes) -> None:
    """A journal of `label`, after a good first line."""
    path = written("o.json.partial", json.dumps(HEADER).encode() + b"\n" + content)
    with Journal(path) as journal:
        list(journal.results())


class ignored:  # noqa: N801 (reads like contextlib's)
    """Lets Maskwise's own errors pass, so that the next call runs too."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, MaskwiseError)


def written(name: str, content: bytes) -> Path:
    """Write a file into the folder of this process."""
    path = FOLDER / name
    path.write_bytes(content)
    return path


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        mask_arrays, shapes, run_lengths, segmentations, coco_files, segment_files, images, mask_files, mask_stacks,
        label_maps, model_metadata, recipes, journals,
    )
}  # fmt: skip
