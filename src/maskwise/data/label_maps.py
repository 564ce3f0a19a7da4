"""Label maps: PNGs whose pixel values are classes; each connected component is a region."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int32, Int64, Integer, UInt8
from PIL import Image

from maskwise.data.image_paths import image_of_name, images_by_stem, plain_names
from maskwise.data.images import DECODING_ERRORS, image_size, open_limited
from maskwise.data.masks import Mask
from maskwise.data.palettes import Palette, read_palette
from maskwise.data.plain_files import check_plain_file
from maskwise.data.problems import OnError, Problem, refuse
from maskwise.data.regions import Category, Regions, RegionSet
from maskwise.errors import AnnotationError, ImageError

LABEL_SUFFIXES = (".png", ".tif", ".tiff")

SPECK = 0.001
"""Components below this share of the image are specks to `fit`: they are many and look like nothing. On CamVid, a model
of 30 regions a class names 94.8 % without them and 89.1 % with them (benchmarks/results/specks.md)."""


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
    with _opened(path) as file:
        array = np.asarray(file)
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.ndim != 2 or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 65_535:
        raise AnnotationError(
            f"{path}: a label map has one whole number per pixel, this has shape {array.shape} and type {array.dtype};"
            " save it as a grey PNG, or name its colours with --palette"
        )
    return array


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open a label map; what fails in the block is an error of the label map.

    Raises:
        AnnotationError: the file is missing, too large, or not an image.
    """
    check_plain_file(path, "label map", AnnotationError)
    try:
        with open_limited(path) as file:
            yield file
    except ImageError as error:  # Too many pixels.
        raise AnnotationError(str(error)) from error
    except DECODING_ERRORS as error:
        raise AnnotationError(f"{path}: the label map cannot be read ({error})") from error


def regions_from_label_maps(
    labels_dir: str | os.PathLike[str],
    images_dir: str | os.PathLike[str],
    classes_file: str | os.PathLike[str] | None = None,
    *,
    palette: str | os.PathLike[str] | None = None,
    min_area: float = 1,
    on_error: OnError = "stop",
) -> RegionSet:
    """Read the connected components (8-neighbourhood) of every class as regions; touching objects of a class are one.

    Pixel values without a line in the file of classes are void; the set's `notes` count them.

    Args:
        labels_dir: label maps, PNG or TIFF. Each has the size of its image and its name, perhaps with an ending such as
            `_mask` or `_gtFine_labelIds`.
        images_dir: the images.
        classes_file: line n (from 0) names pixel value n.
        palette: in place of `classes_file`, for label maps in colours: names the colours, see `read_palette`.
        min_area: minimum size of a component, pixels; below 1: share of its label map's pixels.
        on_error: `stop` lists all faulty label maps and refuses them; `skip` leaves them out and notes them in the
            set's `problems`.

    Raises:
        AnnotationError: neither or both of `classes_file` and `palette`; no such folder or no usable label map in it;
            with `stop` also a label map that cannot be read, has no image or several, or is of another size than its
            image.
    """
    if (classes_file is None) == (palette is None):
        raise AnnotationError("label maps need either a list of classes or a palette")
    colours = None if palette is None else read_palette(palette)
    names = colours.names if colours is not None else read_class_names(classes_file or "")
    label_paths = plain_names(labels_dir, LABEL_SUFFIXES)
    if not label_paths:
        raise AnnotationError(f"{labels_dir}: has no label map ({', '.join(f'*{end}' for end in LABEL_SUFFIXES)})")
    candidates = images_by_stem(images_dir)
    usable, images, components, void, pixels, small = [], [], [], Counter[str](), 0, 0
    problems: list[Problem] = []
    for path in label_paths:
        try:
            image = image_of_name(path, candidates, Path(images_dir))
            labels, of_void = _read_labels(path, len(names), colours)
            _check_size(labels, path, image)
        except AnnotationError as error:
            problems.append(Problem(str(error), path.stem))
            continue
        usable.append(path)
        images.append(image)
        every = _components(labels, len(names))
        components.append(every[every[:, 2] >= (min_area if min_area >= 1 else min_area * labels.size)])
        small += len(every) - len(components[-1])
        void.update(of_void)
        pixels += labels.size
    if on_error == "stop" or not usable:
        refuse(problems)
    maps = np.repeat(np.arange(len(components), dtype=np.int32), [len(rows) for rows in components])
    value, component, area = np.concatenate(components).T
    regions = Regions(
        names=names,
        images=np.array([os.fsencode(image) for image in images], dtype=bytes),
        readers=(LabelMaps(tuple(usable), maps, value, component, colours),),
        name=value.astype(np.int32),
        image=maps,
        stated_area=area.astype(np.float64),
        crowd=np.zeros(len(maps), dtype=bool),
        reader=np.zeros(len(maps), dtype=np.int32),
        record=np.arange(len(maps), dtype=np.int64),
    )
    categories = tuple(Category(value, name) for value, name in enumerate(names))
    notes = (*_void_note(void, pixels, palette or classes_file or ""), *_small_note(small, small + len(maps), min_area))
    return RegionSet(categories, regions, notes, tuple(problems))


def _small_note(small: int, total: int, min_area: float) -> tuple[str, ...]:
    if not small:
        return ()
    bound = f"{min_area:g} pixels" if min_area >= 1 else f"{min_area:.2g} of the image"
    return (f"{small} of {total} components are smaller than {bound} and left out (--min-area changes that)",)


def _void_note(void: Counter[str], pixels: int, classes_file: str | os.PathLike[str]) -> tuple[str, ...]:
    if not void:
        return ()
    values = ", ".join(sorted(void, key=lambda text: (len(text), text))[:6]) + (", ..." if len(void) > 6 else "")
    share = sum(void.values()) / pixels
    return (f"pixel values {values} ({share:.1%} of all pixels) have no line in {classes_file} and are void",)


def _read_labels(
    path: Path, classes: int, palette: Palette | None
) -> tuple[Integer[np.ndarray, "height width"], Counter[str]]:
    """Return the class of every pixel (void: as many as there are classes, or more), and the pixels of void values."""
    if palette is not None:
        return palette.indices(_read_colours(path))
    labels = read_label_map(path)
    values, counts = np.unique(labels[labels >= classes], return_counts=True)
    return labels, Counter(dict(zip(map(str, values.tolist()), counts.tolist(), strict=True)))


def _read_colours(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    with _opened(path) as file:
        if file.mode.startswith(("I", "F")):
            raise AnnotationError(f"{path}: has numbers and no colours; give --classes in place of --palette")
        return np.asarray(file.convert("RGB"))


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """Reads masks from label maps: a record is a connected component of a class.

    Attributes:
        paths: the label maps.
        map: number of each record's label map.
        value: its pixel value.
        component: its number among the components of that value in the label map, from 1.
        palette: of label maps in colours; the value is then the place of the class in it.
    """

    paths: tuple[Path, ...]
    map: Int32[np.ndarray, " records"]
    value: Int64[np.ndarray, " records"]
    component: Int64[np.ndarray, " records"]
    palette: Palette | None = None

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
        numbers, boxes = _numbered(self.paths[self.map[record]], value, self.palette)
        x, y, w, h = boxes[component].tolist()
        return Mask.from_array(numbers[y : y + h, x : x + w] == component, origin_xy=(x, y), image_hw=numbers.shape)


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


def _components(labels: Integer[np.ndarray, "height width"], classes: int) -> Int64[np.ndarray, "components 3"]:
    """Return value, component number and pixels of every component of a label map."""
    rows = []
    for value in np.unique(labels[labels < classes]).tolist():
        count, _, stats, _ = cv2.connectedComponentsWithStats((labels == value).astype(np.uint8), connectivity=8)
        areas = stats[1:count, cv2.CC_STAT_AREA].tolist()
        rows += [(value, number, area) for number, area in enumerate(areas, start=1)]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


@lru_cache(maxsize=8)
def _numbered(
    label_path: Path, value: int, palette: Palette | None
) -> tuple[Int32[np.ndarray, "height width"], Int32[np.ndarray, "components 4"]]:
    """Return the component number of every pixel (0: none), and each component's left, top, width and height."""
    bits = (_read_labels(label_path, value + 1, palette)[0] == value).astype(np.uint8)
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(bits, connectivity=8)
    return numbers, stats[:, : cv2.CC_STAT_AREA]
