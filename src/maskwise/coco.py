"""COCO's JSON: instances and panoptic-free segments, indexed and checked once; masks are read when asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, Raw, UnsetType

from maskwise.cocoindex import CocoIndex, Id, Text, cached_index, index_of, json_text, value_of
from maskwise.errors import AnnotationError, MaskError, naming_mask
from maskwise.files import read_json
from maskwise.images import image_size
from maskwise.masks import Mask, check_size
from maskwise.regions import Category, Regions, RegionSet

CACHE_VARIABLE = "MASKWISE_CACHE"
"""Environment variable that may name a folder for the indexes of COCO files."""


class _Outline(msgspec.Struct):
    """What an annotation says of its mask."""

    id: Id
    segmentation: Any = None
    bbox: Any = None


class _Form(msgspec.Struct):
    """What tells SAM's files from COCO's."""

    image: Raw | UnsetType = UNSET
    images: Raw | UnsetType = UNSET


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A COCO file, with every record that Maskwise relies on checked. Annotations go by their row in the file.

    Attributes:
        path: where it was read.
        index: its images, annotations and categories, without the outlines.
        text: the JSON, where it is not what the file holds byte for byte; else outlines are read from the file.
    """

    path: Path
    index: CocoIndex
    text: bytes | None = None

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes, in the file's order; none where the file has no 'categories'."""
        ids, names = self.index.category_id, self.index.category_name
        return tuple(Category(value_of(ids, row), name.decode()) for row, name in enumerate(names))

    def file_name(self, image: int) -> str:
        """The file name of an image, by its row."""
        return self.index.file_name[image].decode()

    def ids(self, annotation: int) -> tuple[Id, Id]:
        """The id of the annotation's image, and its own."""
        index = self.index
        return value_of(index.image_id, int(index.image[annotation])), value_of(index.annotation_id, annotation)

    def read_mask(self, annotation: int, image_path: Path) -> Mask:
        """The mask of an annotation, in the size that the file states, else in that of the image.

        Args:
            annotation: its row.
            image_path: the image file.

        Raises:
            AnnotationError: the annotation cannot be read again.
            MaskError: see `mask`.
            ImageError: the file does not state the size, and the image cannot be read.
        """
        height, width = self._stated_hw(annotation)
        stated = not np.isnan(height + width)
        return self.mask(annotation, (int(height), int(width)) if stated else image_size(image_path))

    def mask(self, annotation: int, image_hw: tuple[int, int]) -> Mask:
        """The mask of an annotation: its polygons or run lengths, or its box where it has neither.

        Args:
            annotation: its row.
            image_hw: the image's height and width, pixels.

        Raises:
            AnnotationError: the annotation cannot be read again.
            MaskError: no segmentation and no box, a malformed or empty one, or the file states another size of the
                image; the message names the annotation.
        """
        where = f"{self.path}: annotation id {value_of(self.index.annotation_id, annotation)}"
        height, width = np.where(np.isnan(self._stated_hw(annotation)), image_hw, self._stated_hw(annotation)).tolist()
        if (height, width) != tuple(image_hw):
            raise MaskError(
                f"{where} is of an image of {width:.12g} x {height:.12g} pixels by the file, but the image has"
                f" {image_hw[1]} x {image_hw[0]} (width x height); give the image that was annotated"
            )
        outline = self._outline(annotation)
        with naming_mask(where):
            if isinstance(outline.segmentation, dict):
                mask = Mask.from_rle(outline.segmentation)
                check_size(mask, image_hw)
                return mask
            if outline.segmentation:
                _check_numbers(outline.segmentation, "segmentation", depth=2)
                return Mask.from_polygons(outline.segmentation, image_hw)
            if outline.bbox is not None:
                _check_numbers(outline.bbox, "bbox", depth=1)
                return Mask.from_box(outline.bbox, image_hw)
        raise MaskError(f"{where} has neither 'segmentation' nor 'bbox'")

    def _stated_hw(self, annotation: int) -> tuple[float, float]:
        image = self.index.image[annotation]
        return float(self.index.height[image]), float(self.index.width[image])

    def _outline(self, annotation: int) -> _Outline:
        expected = value_of(self.index.annotation_id, annotation)
        try:
            outline = msgspec.json.decode(self.record(annotation), type=_Outline)
        except (OSError, ValueError) as error:
            raise AnnotationError(f"{self.path}: annotation id {expected} cannot be read ({error})") from error
        if outline.id != expected:
            raise AnnotationError(f"{self.path}: has changed since it was opened; start again")
        return outline

    def record(self, annotation: int) -> bytes:
        """The JSON of an annotation."""
        start, length = int(self.index.start[annotation]), int(self.index.length[annotation])
        if self.text is not None:
            return self.text[start : start + length]
        with open(self.path, "rb") as file:  # Opened anew, so that workers share no position.
            file.seek(start)
            return file.read(length)


def _check_numbers(value: Any, key: str, *, depth: int) -> None:
    if depth == 0 and isinstance(value, (int, float)):
        return
    if depth == 0 or not isinstance(value, list):
        wanted = ("a number", "a list of numbers", "a list of polygons")[depth]
        raise MaskError(f"{key!r} has {str(value)[:40]!r} where {wanted} belongs")
    for item in value:
        _check_numbers(item, key, depth=depth - 1)


def read_coco(path: str | os.PathLike[str], *, labelled: bool, cache: str | os.PathLike[str] | None = None) -> CocoFile:
    """Index a COCO file and check the keys that Maskwise relies on.

    Args:
        path: the JSON file.
        labelled: whether every annotation must have a known category.
        cache: folder that keeps indexes, each under the hash of its file's bytes; where left out, the folder that
            the environment variable `MASKWISE_CACHE` names, if any.

    Raises:
        AnnotationError: not JSON, not COCO's form, a missing key, a repeated id, or an unknown image or category;
            the message names the file and the record.
        InputError: the index cannot be kept there.
    """
    path = Path(path)
    text = json_text(path)
    cache = cache or os.environ.get(CACHE_VARIABLE)
    index = cached_index(path, text, Path(cache)) if cache else index_of(path, text)
    coco = CocoFile(path, index, text if isinstance(text, bytes) else None)
    if labelled:
        _check_labels(coco)
    return coco


def _check_labels(coco: CocoFile) -> None:
    if not coco.index.has_categories:
        raise AnnotationError(f"{coco.path}: has no list 'categories'; a COCO file needs it")
    for row in np.flatnonzero(coco.index.category < 0)[:1].tolist():
        record = msgspec.json.decode(coco.record(row), type=dict[str, Raw])
        category_id = msgspec.json.decode(record.get("category_id", b"null"))
        raise AnnotationError(
            f"{coco.path}: annotation id {coco.ids(row)[1]} has category_id {category_id},"
            " which is not among 'categories'"
        )


def read_segments(path: Path, file_name: str) -> CocoFile:
    """Index a COCO file of segments, or what SAM writes as one of a single image; errors as in `read_coco`.

    Args:
        path: the JSON file.
        file_name: of the photograph, which a list of segments does not name.
    """
    text = json_text(path)
    if not _is_of_sam(text):
        return read_coco(path, labelled=False)
    text = json.dumps(_sam_as_coco(read_json(path), file_name)).encode()
    return CocoFile(path, index_of(path, text), text)


def _sam_as_coco(content: Any, file_name: str) -> dict[str, Any]:
    """What SAM writes, as a COCO file of one image.

    Args:
        content: of a JSON file: the list of SAM's automatic mask generator, or an object of SA-1B with `image`.
        file_name: of the photograph that a list is of.
    """
    if isinstance(content, list):
        image, records = {"id": 1, "file_name": file_name}, content
    else:
        image = {**content["image"], "id": 1} if isinstance(content["image"], dict) else content["image"]
        records = content.get("annotations")
    if isinstance(records, list):
        records = [
            {"id": number, **record, "image_id": 1} if isinstance(record, dict) else record
            for number, record in enumerate(records, start=1)
        ]
    return {"images": [image], "annotations": records}


def _is_of_sam(text: Text) -> bool:
    try:
        form = msgspec.json.decode(text, type=_Form | list[Raw])
    except msgspec.DecodeError:  # Of neither form; `read_coco` says what is wrong.
        return False
    return isinstance(form, list) or (form.image is not UNSET and form.images is UNSET)


def image_paths(
    coco: CocoFile, images_dir: str | os.PathLike[str], images: Iterable[int], *, required: bool = True
) -> list[str]:
    """The files of images, given by their rows.

    The file system is asked once for each folder, not once for each of a hundred thousand images.

    Raises:
        AnnotationError: there is no such folder, or no such file in it and it is required.
    """
    if not Path(images_dir).is_dir():
        raise AnnotationError(f"{images_dir}: there is no such folder of images")
    folders: dict[str, tuple[str, set[str]]] = {}
    paths = []
    for image in images:
        parent, name = os.path.split(coco.file_name(image))
        if parent not in folders:
            folders[parent] = (str(Path(images_dir, parent)), _files_in(Path(images_dir, parent)))
        folder, listed = folders[parent]
        paths.append(os.path.join(folder, name))
        if required and name not in listed and not os.path.isfile(paths[-1]):  # Letter case may not matter there.
            image_id = value_of(coco.index.image_id, image)
            raise AnnotationError(
                f"{coco.path}: image id {image_id} is {name}, which is not in the folder {images_dir}"
            )
    return paths


def _files_in(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file()}


def regions_from_coco(
    path: str | os.PathLike[str],
    images_dir: str | os.PathLike[str],
    *,
    cache: str | os.PathLike[str] | None = None,
    images_required: bool = True,
) -> RegionSet:
    """The labelled regions of a COCO instances file, crowds included and marked, images in the file's order.

    Args:
        path: the JSON file.
        images_dir: the folder that its `file_name`s are relative to.
        cache: see `read_coco`.
        images_required: refuse an image id without a file; else that is found when the image is read.

    Raises:
        AnnotationError: see `read_coco`; also an image id without a file.
        InputError: see `read_coco`.
    """
    coco = read_coco(path, labelled=True, cache=cache)
    order = np.argsort(coco.index.image, kind="stable")
    rows, of_row = np.unique(coco.index.image[order], return_inverse=True)
    paths = [os.fsencode(file) for file in image_paths(coco, images_dir, rows.tolist(), required=images_required)]
    images, image = np.unique(np.array(paths, dtype=bytes), return_inverse=True)  # Two ids may be of one file.
    categories = coco.categories
    by_category = Regions(
        names=tuple(category.name for category in categories),
        images=images,
        sources=(coco,),
        name=coco.index.category[order],
        image=image[of_row].astype(np.int32),
        stated_area=coco.index.area[order],
        crowd=coco.index.crowd[order],
        source=np.zeros(len(order), dtype=np.int32),
        record=order,
    )
    return RegionSet(categories, by_category).renamed({})  # Two categories of one name are one class.
