"""Label maps: PNGs whose pixel values are classes; each connected component is a region."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int32, Int64, UInt8
from PIL import Image

from maskwise.data.images import image_size
from maskwise.data.masks import Mask
from maskwise.data.regions import Category, Regions, RegionSet
from maskwise.errors import AnnotationError, ImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The class names of a text file: line n (from 0) names pixel value n.

    Raises:
        AnnotationError: the file is missing or empty, or a name is empty or stands twice.
    """
    try:
        # Some editors put a byte order mark before all: hence -sig.
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: the list of classes cannot be read ({error})") from error
    names = tuple(line.strip() for line in lines)
    if not names or not all(names) or len(set(names)) < len(names):
        raise AnnotationError(f"{path}: must name each class once, one a line, without empty lines")
    return names


def read_label_map(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "height width"]:
    """The pixel values of a label map: grey values, or palette indices.

    Raises:
        AnnotationError: the file is missing, not an image, or has colours instead of one value a pixel.
    """
    try:
        with Image.open(path) as file:
            array = np.asarray(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AnnotationError(f"{path}: the label map cannot be read ({error})") from error
    if array.ndim != 2 or array.dtype != np.uint8:
        raise AnnotationError(
            f"{path}: a label map has one 8-bit value a pixel, this has shape {array.shape} and type {array.dtype};"
            " save it as a grey PNG of 8 bits, or with a palette"
        )
    return array


def regions_from_label_maps(
    labels_dir: str | os.PathLike[str],
    images_dir: str | os.PathLike[str],
    classes_file: str | os.PathLike[str],
    *,
    min_area: int = 1,
) -> RegionSet:
    """Every connected component (8-neighbourhood) of every class is a region. Touching objects of one class are one.

    Args:
        labels_dir: label maps, PNG; the image has the same name before the suffix, and the same size.
        images_dir: the images.
        classes_file: line n (from 0) names pixel value n; values beyond are void.
        min_area: smaller components are left out, pixels.

    Raises:
        AnnotationError: no such folder or no label map in it; a label map that cannot be read, has no image or
            several, or is of another size than its image.
    """
    names = read_class_names(classes_file)
    label_paths = _files(labels_dir, (".png",))
    if not label_paths:
        raise AnnotationError(f"{labels_dir}: has no label map (*.png)")
    candidates = defaultdict(list)
    for path in _files(images_dir, IMAGE_SUFFIXES):
        candidates[path.stem].append(path)
    images, found = [], []
    for path in label_paths:
        images.append(_image_of(path, candidates[path.stem], Path(images_dir)))
        labels = read_label_map(path)
        _check_size(labels, path, images[-1])
        found.append(_components(labels, len(names), min_area))
    maps = np.repeat(np.arange(len(found), dtype=np.int32), [len(rows) for rows in found])
    value, component, area = np.concatenate(found).T
    regions = Regions(
        names=names,
        images=np.array([os.fsencode(image) for image in images], dtype=bytes),
        readers=(LabelMaps(tuple(label_paths), maps, value, component),),
        name=value.astype(np.int32),
        image=maps,
        stated_area=area.astype(np.float64),
        crowd=np.zeros(len(maps), dtype=bool),
        reader=np.zeros(len(maps), dtype=np.int32),
        record=np.arange(len(maps), dtype=np.int64),
    )
    return RegionSet(tuple(Category(value, name) for value, name in enumerate(names)), regions)


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """Label maps as a source of regions: a record is a connected component of a class.

    Attributes:
        paths: the label maps.
        map: number of each record's label map.
        value: its pixel value.
        component: its number among the components of that value in the label map, from 1.
    """

    paths: tuple[Path, ...]
    map: Int32[np.ndarray, " records"]
    value: Int64[np.ndarray, " records"]
    component: Int64[np.ndarray, " records"]

    def ids(self, record: int, /) -> tuple[str, str]:
        """The label map's name without suffix, and name/value/component."""
        name = self.paths[self.map[record]].stem
        return name, f"{name}/{self.value[record]}/{self.component[record]}"

    def read_mask(self, record: int, _: Path, /) -> Mask:
        """The component's pixels.

        Raises:
            AnnotationError: the label map cannot be read again.
        """
        value, component = int(self.value[record]), int(self.component[record])
        numbers, boxes = _numbered(self.paths[self.map[record]], value)
        x, y, w, h = boxes[component].tolist()
        return Mask.from_array(numbers[y : y + h, x : x + w] == component, origin_xy=(x, y), image_hw=numbers.shape)


def _files(folder: str | os.PathLike[str], suffixes: tuple[str, ...]) -> list[Path]:
    """Files of a folder that end so, in capitals or not, by name; hidden ones (macOS leaves ._NAME.png) are none."""
    if not Path(folder).is_dir():
        raise AnnotationError(f"{folder}: there is no such folder; label maps and images each need one")
    files = (path for path in Path(folder).iterdir() if path.suffix.lower() in suffixes)
    return sorted(path for path in files if not path.name.startswith("."))


def _image_of(label_path: Path, candidates: list[Path], images_dir: Path) -> Path:
    """The image of a label map, among the files of its name."""
    others = [path for path in candidates if path != label_path]  # Both kinds may lie in one folder.
    if not others:
        raise AnnotationError(
            f"{label_path}: the folder {images_dir} has no image {label_path.stem} ({', '.join(IMAGE_SUFFIXES)})"
        )
    if len(others) > 1:
        names = " and ".join(path.name for path in others)
        raise AnnotationError(f"{label_path}: could be of {names} in {images_dir}; leave one of them")
    return others[0]


def _check_size(labels: np.ndarray, label_path: Path, image: Path) -> None:
    try:
        height, width = image_size(image)
    except ImageError:  # Not of the map's making: whoever reads the image meets it, and may skip it.
        return
    if labels.shape != (height, width):
        raise AnnotationError(
            f"{label_path}: is {labels.shape[1]} x {labels.shape[0]} pixels, its image {image.name} {width} x {height}"
            " (width x height); give a label map of the image's size, enlarged without mixing values (nearest pixel)"
        )


def _components(
    labels: UInt8[np.ndarray, "height width"], classes: int, min_area: int
) -> Int64[np.ndarray, "components 3"]:
    """Value, component number and pixels of every large enough component of a label map."""
    found = []
    for value in np.unique(labels[labels < classes]).tolist():
        count, _, stats, _ = cv2.connectedComponentsWithStats((labels == value).astype(np.uint8), connectivity=8)
        areas = stats[1:count, cv2.CC_STAT_AREA].tolist()
        found += [(value, number, area) for number, area in enumerate(areas, start=1) if area >= min_area]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


@lru_cache(maxsize=8)
def _numbered(
    label_path: Path, value: int
) -> tuple[Int32[np.ndarray, "height width"], Int32[np.ndarray, "components 4"]]:
    """The component number of every pixel, and every component's left, top, width and height, pixels; 0 is the rest."""
    bits = (read_label_map(label_path) == value).astype(np.uint8)
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(bits, connectivity=8)
    return numbers, stats[:, : cv2.CC_STAT_AREA]
