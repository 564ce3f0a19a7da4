"""Label maps: an image's classes painted as the pixel values of a PNG, one region per connected component."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int32, Int64, UInt8
from PIL import Image

from maskwise.errors import AnnotationError
from maskwise.masks import Mask
from maskwise.regions import Category, Regions, RegionSet

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The class names of a text file: line n (from 0) names pixel value n.

    Raises:
        AnnotationError: the file is missing or empty, or a name is empty or stands twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
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
            f"{path}: a label map has one 8-bit value a pixel, this has shape {array.shape} and type {array.dtype}"
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
        labels_dir: label maps, PNG; the image has the same name before the suffix.
        images_dir: the images.
        classes_file: line n (from 0) names pixel value n; values beyond are void.
        min_area: smaller components are left out, pixels.

    Raises:
        AnnotationError: no label map at all, a label map without an image, or one that cannot be read.
    """
    names = read_class_names(classes_file)
    label_paths = sorted(Path(labels_dir).glob("*.png"))
    if not label_paths:
        raise AnnotationError(f"{labels_dir}: has no label map (*.png)")
    images = np.array([os.fsencode(_image_of(path, Path(images_dir))) for path in label_paths], dtype=bytes)
    found = [_components(path, len(names), min_area) for path in label_paths]
    maps = np.repeat(np.arange(len(found), dtype=np.int32), [len(rows) for rows in found])
    value, component, area = np.concatenate(found).T
    regions = Regions(
        names=names,
        images=images,
        sources=(LabelMaps(tuple(label_paths), maps, value, component),),
        name=value.astype(np.int32),
        image=maps,
        stated_area=area.astype(np.float64),
        crowd=np.zeros(len(maps), dtype=bool),
        source=np.zeros(len(maps), dtype=np.int32),
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

    def ids(self, record: int) -> tuple[str, str]:
        """The label map's name without suffix, and name/value/component."""
        name = self.paths[self.map[record]].stem
        return name, f"{name}/{self.value[record]}/{self.component[record]}"

    def read_mask(self, record: int, _: Path) -> Mask:
        """The component's pixels.

        Raises:
            AnnotationError: the label map cannot be read again.
        """
        value, component = int(self.value[record]), int(self.component[record])
        return Mask.from_array(_numbered(self.paths[self.map[record]], value) == component)


def _image_of(label_path: Path, images_dir: Path) -> Path:
    for suffix in IMAGE_SUFFIXES:
        path = images_dir / (label_path.stem + suffix)
        if path.is_file():
            return path
    raise AnnotationError(
        f"{label_path}: the folder {images_dir} has no image {label_path.stem} ({', '.join(IMAGE_SUFFIXES)})"
    )


def _components(label_path: Path, classes: int, min_area: int) -> Int64[np.ndarray, "components 3"]:
    """Value, component number and pixels of every large enough component of a label map."""
    labels = read_label_map(label_path)
    found = []
    for value in np.unique(labels[labels < classes]).tolist():
        count, _, stats, _ = cv2.connectedComponentsWithStats((labels == value).astype(np.uint8), connectivity=8)
        areas = stats[1:count, cv2.CC_STAT_AREA].tolist()
        found += [(value, number, area) for number, area in enumerate(areas, start=1) if area >= min_area]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


@lru_cache(maxsize=8)
def _numbered(label_path: Path, value: int) -> np.ndarray:
    return cv2.connectedComponents((read_label_map(label_path) == value).astype(np.uint8), connectivity=8)[1]
