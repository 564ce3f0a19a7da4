"""A data set in which only the mask tells what is asked for: a red square and a blue disc in every image."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SQUARE, DISC = {"id": 3, "name": "square"}, {"id": 7, "name": "disc"}


def write_two_objects(folder: Path, images: int, side: int = 48, *, seed: int = 0) -> Path:
    """Write `images/NNN.png` and `annotations.json` (COCO); gives the folder. Which object is left is random."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    records, annotations = [], []
    for number in range(images):
        pixels = rng.integers(100, 140, (side, side, 3), dtype=np.uint8)
        size = side // 3
        top = rng.integers(0, side - size, 2)
        left = rng.integers(0, side // 2 - size, 2) + rng.permutation([0, side // 2])
        for category, x, y in ((SQUARE, int(left[0]), int(top[0])), (DISC, int(left[1]), int(top[1]))):
            draw(pixels, category, x, y, size)
            annotations.append(
                {
                    "id": 100 + len(annotations),
                    "image_id": number,
                    "category_id": category["id"],
                    "bbox": [x, y, size, size],
                    "area": size * size,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + size, y, x + size, y + size, x, y + size]],
                }
            )
        Image.fromarray(pixels).save(folder / "images" / f"{number:03d}.png")
        records.append({"id": number, "file_name": f"{number:03d}.png", "height": side, "width": side})
    content = {"images": records, "annotations": annotations, "categories": [SQUARE, DISC]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def draw(pixels: np.ndarray, category: dict, x: int, y: int, size: int) -> None:
    """Paint one object into an image."""
    if category is SQUARE:
        pixels[y : y + size, x : x + size] = (220, 40, 40)
    else:
        cv2.circle(pixels, (x + size // 2, y + size // 2), size // 2 - 1, (40, 40, 220), cv2.FILLED)
