"""Make photographs with synthetic masks of any size and number, the same in every run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle_codec

from maskwise import Mask, load_image
from maskwise.data.coco_file import read_coco
from maskwise.data.images import Pixels

PHOTOGRAPH = Path(__file__).parents[1] / "examples" / "coffee.jpg"
IMAGE_HW = (480, 640)
SIDES = ((34, 94), (8, 31), (8, 31), (100, 280), (8, 31), (34, 94))
"""Square roots of the areas of masks, in turn, pixels of a 640 x 480 image: half of them small by COCO's bounds, a
third medium, the rest large."""
SETS = 10
"""Number of different sets of masks; images take them in turn."""
OUTLINE = 64
WAVES = np.arange(1, 6)


def photograph(image_hw: tuple[int, int]) -> Pixels:
    """Return the example photograph at any size, tiled by mirroring so that it stays detailed."""
    image = load_image(PHOTOGRAPH)
    more = [(0, max(wanted - given, 0)) for wanted, given in zip(image_hw, image.shape, strict=False)]
    return np.pad(image, [*more, (0, 0)], mode="symmetric")[: image_hw[0], : image_hw[1]]


def blob(number: int, image_hw: tuple[int, int] = IMAGE_HW) -> Mask:
    """Return a wavy mask somewhere in an image.

    Args:
        number: which one; each has its own size, outline and place.
        image_hw: the image's height and width; the masks of a larger one are as much larger.
    """
    rng = np.random.default_rng(number)
    angles = np.linspace(0, 2 * np.pi, OUTLINE, endpoint=False)
    waves = rng.normal(0, 0.15, len(WAVES)) / WAVES
    radii = np.exp(np.cos(np.outer(angles, WAVES) + rng.uniform(0, 2 * np.pi, len(WAVES))) @ waves)
    outline = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    x, y = outline.T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    side = np.exp(rng.uniform(*np.log(SIDES[number % len(SIDES)]))) * np.sqrt(np.prod(image_hw) / np.prod(IMAGE_HW))
    outline = (outline - outline.min(axis=0)) * side / np.sqrt(area)
    room = np.maximum(np.array(image_hw[::-1]) - outline.max(axis=0), 0)
    return Mask.from_polygons([(outline + rng.uniform(0, room)).ravel().tolist()], image_hw)


def annotation(mask: Mask) -> dict[str, Any]:
    """Return a mask as segmentation tools write it: run lengths, box and area, no category."""
    rle = rle_codec.encode(np.asfortranarray(mask.to_array().view(np.uint8)))
    counts = rle["counts"].decode()
    return {"segmentation": {**rle, "counts": counts}, "bbox": list(mask.box_xywh), "area": mask.area}


def write_scenes(folder: Path, *, images: int = 1, masks: int, image_hw: tuple[int, int] = IMAGE_HW) -> Path:
    """Write photographs and a COCO file of their segments.

    Args:
        folder: made; gets the photographs, all links to one file.
        images: how many.
        masks: how many each has.
        image_hw: height and width of each, pixels.

    Returns:
        The COCO file, in the same folder.
    """
    folder.mkdir(parents=True)
    names = [f"{number:06}.jpg" for number in range(images)]
    Image.fromarray(photograph(image_hw)).save(folder / names[0], quality=92)
    for name in names[1:]:
        os.link(folder / names[0], folder / name)
    sets = [
        [annotation(blob(first * masks + number, image_hw)) for number in range(masks)]
        for first in range(min(images, SETS))
    ]
    height, width = image_hw
    content = {
        "images": [
            {"id": number, "file_name": name, "height": height, "width": width} for number, name in enumerate(names)
        ],
        "annotations": [
            {"id": image * masks + number, "image_id": image, **record}
            for image in range(images)
            for number, record in enumerate(sets[image % SETS])
        ],
    }
    segments = folder / "segments.json"
    segments.write_text(json.dumps(content), encoding="utf-8")
    return segments


def read_scene(segments: Path) -> tuple[Pixels, list[Mask]]:
    """Return the first image of a written file and the masks of all annotations, which must be of that image."""
    coco = read_coco(segments, labelled=False)
    image = load_image(segments.with_name(coco.file_name(0)))
    return image, [coco.mask(row, image.shape[:2]) for row in range(len(coco.index.start))]
