"""COCO's JSON: instances and panoptic-free segments, read and checked once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from maskwise.errors import AnnotationError, MaskError
from maskwise.files import read_json
from maskwise.images import image_size
from maskwise.masks import Mask, check_size
from maskwise.regions import Category, LabelledRegion, RegionSet


@dataclass(frozen=True)
class CocoFile:
    """A COCO file in memory, with every record that Maskwise relies on checked.

    Attributes:
        path: where it was read.
        content: the parsed JSON, untouched.
        images: image records by id.
    """

    path: Path
    content: dict[str, Any]
    images: dict[int | str, dict[str, Any]]

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """The annotation records, in the file's order."""
        return self.content["annotations"]

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes, in the file's order; none where the file has no 'categories'."""
        return tuple(Category(c["id"], c["name"]) for c in self.content.get("categories", []))

    def mask(self, annotation: dict[str, Any], image_hw: tuple[int, int]) -> Mask:
        """The mask of one annotation: its polygons or run lengths, or its box where it has neither.

        Args:
            annotation: a record of this file.
            image_hw: the image's height and width, pixels.

        Raises:
            MaskError: no segmentation and no box, a malformed or empty one, or the file states another size of the
                image; the message names the annotation.
        """
        where = f"{self.path}: annotation id {annotation['id']}"
        image = self.images[annotation["image_id"]]
        stated_hw = (image.get("height", image_hw[0]), image.get("width", image_hw[1]))
        if stated_hw != tuple(image_hw):
            raise MaskError(
                f"{where} is of an image of {stated_hw[1]} x {stated_hw[0]} pixels by the file, but the image has"
                f" {image_hw[1]} x {image_hw[0]} (width x height); give the image that was annotated"
            )
        segmentation = annotation.get("segmentation")
        try:
            if isinstance(segmentation, dict):
                mask = Mask.from_rle(segmentation)
                check_size(mask, image_hw)
                return mask
            if segmentation:
                _check_numbers(segmentation, "segmentation", depth=2)
                return Mask.from_polygons(segmentation, image_hw)
            if annotation.get("bbox") is not None:
                _check_numbers(annotation["bbox"], "bbox", depth=1)
                return Mask.from_box(annotation["bbox"], image_hw)
        except MaskError as error:
            raise MaskError(f"{where}: {error}") from error
        raise MaskError(f"{where} has neither 'segmentation' nor 'bbox'")


def _check_numbers(value: Any, key: str, *, depth: int) -> None:
    if depth == 0 and isinstance(value, (int, float)):
        return
    if depth == 0 or not isinstance(value, list):
        wanted = ("a number", "a list of numbers", "a list of polygons")[depth]
        raise MaskError(f"{key!r} has {str(value)[:40]!r} where {wanted} belongs")
    for item in value:
        _check_numbers(item, key, depth=depth - 1)


def read_coco(path: str | os.PathLike[str], *, labelled: bool) -> CocoFile:
    """Read a COCO file and check the keys that Maskwise relies on.

    Args:
        path: the JSON file.
        labelled: whether every annotation must have a known category.

    Raises:
        AnnotationError: not JSON, not COCO's form, a missing key, a repeated id, or an unknown image or category;
            the message names the file and the record.
    """
    return check_coco(Path(path), read_json(path), labelled=labelled)


def segments_as_coco(content: Any, file_name: str) -> Any:
    """What SAM writes, as a COCO file of one image; anything else as it is.

    Args:
        content: of a JSON file: the list of SAM's automatic mask generator, or an object of SA-1B with `image`.
        file_name: of the photograph that a list is of.
    """
    if isinstance(content, list):
        image, records = {"id": 1, "file_name": file_name}, content
    elif isinstance(content, dict) and "image" in content and "images" not in content:
        image = {**content["image"], "id": 1} if isinstance(content["image"], dict) else content["image"]
        records = content.get("annotations")
    else:
        return content
    if isinstance(records, list):
        records = [
            {"id": number, **record, "image_id": 1} if isinstance(record, dict) else record
            for number, record in enumerate(records, start=1)
        ]
    return {"images": [image], "annotations": records}


def check_coco(path: Path, content: Any, *, labelled: bool) -> CocoFile:
    """Check the keys of a COCO file's content that Maskwise relies on; arguments and errors as in `read_coco`."""
    if not isinstance(content, dict):
        raise AnnotationError(
            f"{path}: is a JSON {type(content).__name__}; a COCO file is an object with 'images' and 'annotations'"
        )
    needed = {"images": ("id", "file_name"), "annotations": ("id", "image_id"), "categories": ("id", "name")}
    if not labelled and "categories" not in content:
        del needed["categories"]
    for section, keys in needed.items():
        _check_records(path, content, section, keys)
    images = {image["id"]: image for image in content["images"]}
    category_ids = {category["id"] for category in content.get("categories", [])}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in images:
            raise AnnotationError(
                f"{path}: annotation id {annotation['id']} is of image id {annotation['image_id']},"
                " which is not among 'images'"
            )
        if labelled and annotation.get("category_id") not in category_ids:
            raise AnnotationError(
                f"{path}: annotation id {annotation['id']} has category_id {annotation.get('category_id')},"
                " which is not among 'categories'"
            )
    return CocoFile(path, content, images)


def _check_records(path: Path, content: dict[str, Any], section: str, keys: tuple[str, ...]) -> None:
    records = content.get(section)
    if not isinstance(records, list):
        raise AnnotationError(f"{path}: has no list {section!r}; a COCO file needs it")
    seen = set()
    for index, record in enumerate(records):
        for key in keys:
            if not isinstance(record, dict) or key not in record:
                raise AnnotationError(f"{path}: {section}[{index}] has no {key!r}")
        if record["id"] in seen:
            raise AnnotationError(f"{path}: id {record['id']} stands twice in {section!r}")
        seen.add(record["id"])


def image_path(
    coco: CocoFile, images_dir: str | os.PathLike[str], image_id: int | str, *, required: bool = True
) -> Path:
    """The file of an image id.

    Raises:
        AnnotationError: there is no such folder, or no such file in it and it is required.
    """
    if not Path(images_dir).is_dir():
        raise AnnotationError(f"{images_dir}: there is no such folder of images")
    path = Path(images_dir) / coco.images[image_id]["file_name"]
    if required and not path.is_file():
        raise AnnotationError(
            f"{coco.path}: image id {image_id} is {path.name}, which is not in the folder {images_dir}"
        )
    return path


def regions_from_coco(
    path: str | os.PathLike[str], images_dir: str | os.PathLike[str], *, images_required: bool = True
) -> RegionSet:
    """The labelled regions of a COCO instances file, crowds included and marked, images in the file's order.

    Args:
        path: the JSON file.
        images_dir: the folder that its `file_name`s are relative to.
        images_required: refuse an image id without a file; else that is found when the image is read.

    Raises:
        AnnotationError: see `read_coco`; also an image id without a file.
    """
    coco = read_coco(path, labelled=True)
    names = {category.id: category.name for category in coco.categories}
    by_image: dict[int | str, list[dict[str, Any]]] = {image_id: [] for image_id in coco.images}
    for annotation in coco.annotations:
        by_image[annotation["image_id"]].append(annotation)
    regions = []
    for image_id, records in by_image.items():
        if not records:
            continue
        file = image_path(coco, images_dir, image_id, required=images_required)
        image = coco.images[image_id]
        image_hw = (image["height"], image["width"]) if {"height", "width"} <= image.keys() else image_size(file)
        for annotation in records:
            read_mask = partial(coco.mask, annotation, image_hw)
            regions.append(
                LabelledRegion(
                    image_path=file,
                    image_id=image_id,
                    region_id=annotation["id"],
                    name=names[annotation["category_id"]],
                    area=float(annotation["area"]) if "area" in annotation else float(read_mask().area),
                    crowd=bool(annotation.get("iscrowd", 0)),
                    read_mask=read_mask,
                )
            )
    return RegionSet(coco.categories, tuple(regions))
