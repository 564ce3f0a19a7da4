"""Label maps: PNGs whose pixel values are classes; each connected component is a region."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int32, Int64, Integer

from maskwise.data.images import IMAGE_SUFFIXES, image_size, open_limited
from maskwise.data.masks import Mask
from maskwise.data.plain_files import check_plain_file
from maskwise.data.regions import Category, Regions, RegionSet
from maskwise.errors import AnnotationError, ImageError

LABEL_SUFFIXES = (".png", ".tif", ".tiff")


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read class names from a text file: line n (from 0) names pixel value n.

    Raises:
        AnnotationError: the file is missing or empty, or a name is empty or stands twice.
    """
    try:
        # -sig: some editors start files with a byte order mark.
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: the list of classes cannot be read ({error})") from error
    names = tuple(line.strip() for line in lines)
    if not names or not all(names) or len(set(names)) < len(names):
        raise AnnotationError(f"{path}: must name each class once, one a line, without empty lines")
    return names


def read_label_map(path: str | os.PathLike[str]) -> Integer[np.ndarray, "height width"]:
    """Read the pixel values of a label map: grey values of 1 to 16 bits, or palette indices.

    Raises:
        AnnotationError: the file is missing, not an image, or has colours instead of one value per pixel.
    """
    check_plain_file(path, "label map", AnnotationError)
    try:
        with open_limited(path) as file:
            array = np.asarray(file)
    except ImageError as error:  # Too many pixels.
        raise AnnotationError(str(error)) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise AnnotationError(f"{path}: the label map cannot be read ({error})") from error
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.ndim != 2 or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 65_535:
        raise AnnotationError(
            f"{path}: a label map has one whole number per pixel, this has shape {array.shape} and type {array.dtype};"
            " save it as a grey PNG, or with a palette"
        )
    return array


def regions_from_label_maps(
    labels_dir: str | os.PathLike[str],
    images_dir: str | os.PathLike[str],
    classes_file: str | os.PathLike[str],
    *,
    min_area: int = 1,
) -> RegionSet:
    """Read the connected components (8-neighbourhood) of every class as regions; touching objects of a class are one.

    Pixel values without a line in the file of classes are void; the set's `notes` count them.

    Args:
        labels_dir: label maps, PNG or TIFF. Each has the size of its image and its name, perhaps with an ending such as
            `_mask` or `_gtFine_labelIds`.
        images_dir: the images.
        classes_file: line n (from 0) names pixel value n.
        min_area: minimum size of a component, pixels.

    Raises:
        AnnotationError: no such folder or no label map in it; a label map that cannot be read, has no image or
            several, or is of another size than its image.
    """
    names = read_class_names(classes_file)
    label_paths = _files(labels_dir, LABEL_SUFFIXES)
    if not label_paths:
        raise AnnotationError(f"{labels_dir}: has no label map ({', '.join(f'*{end}' for end in LABEL_SUFFIXES)})")
    candidates = defaultdict(list)
    for path in _files(images_dir, IMAGE_SUFFIXES):
        candidates[path.stem].append(path)
    images, components, void, pixels = [], [], Counter[int](), 0
    for path in label_paths:
        images.append(_image_of(path, candidates, Path(images_dir)))
        labels = read_label_map(path)
        _check_size(labels, path, images[-1])
        components.append(_components(labels, len(names), min_area))
        values, counts = np.unique(labels[labels >= len(names)], return_counts=True)
        void.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        pixels += labels.size
    maps = np.repeat(np.arange(len(components), dtype=np.int32), [len(rows) for rows in components])
    value, component, area = np.concatenate(components).T
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
    categories = tuple(Category(value, name) for value, name in enumerate(names))
    return RegionSet(categories, regions, _void_note(void, pixels, classes_file))


def _void_note(void: Counter[int], pixels: int, classes_file: str | os.PathLike[str]) -> tuple[str, ...]:
    if not void:
        return ()
    values = ", ".join(map(str, sorted(void)[:6])) + (", ..." if len(void) > 6 else "")
    share = sum(void.values()) / pixels
    return (f"pixel values {values} ({share:.1%} of all pixels) have no line in {classes_file} and are void",)


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """Reads masks from label maps: a record is a connected component of a class.

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
        """Return the label map's name without suffix, and name/value/component."""
        name = self.paths[self.map[record]].stem
        return name, f"{name}/{self.value[record]}/{self.component[record]}"

    def read_mask(self, record: int, _: Path, /) -> Mask:
        """Read the pixels of a component.

        Raises:
            AnnotationError: the label map cannot be read again.
        """
        value, component = int(self.value[record]), int(self.component[record])
        numbers, boxes = _numbered(self.paths[self.map[record]], value)
        x, y, w, h = boxes[component].tolist()
        return Mask.from_array(numbers[y : y + h, x : x + w] == component, origin_xy=(x, y), image_hw=numbers.shape)


def _files(folder: str | os.PathLike[str], suffixes: tuple[str, ...]) -> list[Path]:
    """Return files with these suffixes, in capitals or not, by name, without hidden ones (macOS leaves ._NAME.png)."""
    if not Path(folder).is_dir():
        raise AnnotationError(f"{folder}: there is no such folder; label maps and images each need one")
    files = (path for path in Path(folder).iterdir() if path.suffix.lower() in suffixes)
    return sorted(path for path in files if not path.name.startswith("."))


def _image_of(label_path: Path, candidates: Mapping[str, list[Path]], images_dir: Path) -> Path:
    """Return the image of a label map: of its name, or of the longest part of it that ends before _, - or a dot."""
    parts = re.split(r"(?=[_.\-])", label_path.stem)
    others: list[Path] = []
    for count in range(len(parts), 0, -1):
        stem = "".join(parts[:count])
        named = [*candidates.get(stem, ()), *candidates.get(f"{stem}_leftImg8bit", ())]
        others = [path for path in named if path != label_path]  # Both kinds may lie in one folder.
        if others:
            break
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
    except ImageError:  # Found again when the image is read, and may be skipped there.
        return
    if labels.shape != (height, width):
        raise AnnotationError(
            f"{label_path}: is {labels.shape[1]} x {labels.shape[0]} pixels, its image {image.name} {width} x {height}"
            " (width x height); give a label map of the image's size, enlarged without mixing values (nearest pixel)"
        )


def _components(
    labels: Integer[np.ndarray, "height width"], classes: int, min_area: int
) -> Int64[np.ndarray, "components 3"]:
    """Return value, component number and pixels of every large enough component of a label map."""
    rows = []
    for value in np.unique(labels[labels < classes]).tolist():
        count, _, stats, _ = cv2.connectedComponentsWithStats((labels == value).astype(np.uint8), connectivity=8)
        areas = stats[1:count, cv2.CC_STAT_AREA].tolist()
        rows += [(value, number, area) for number, area in enumerate(areas, start=1) if area >= min_area]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


@lru_cache(maxsize=8)
def _numbered(
    label_path: Path, value: int
) -> tuple[Int32[np.ndarray, "height width"], Int32[np.ndarray, "components 4"]]:
    """Return the component number of every pixel (0: none), and each component's left, top, width and height."""
    bits = (read_label_map(label_path) == value).astype(np.uint8)
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(bits, connectivity=8)
    return numbers, stats[:, : cv2.CC_STAT_AREA]
