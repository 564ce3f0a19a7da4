"""Whole pictures, compared with ones that a person looked at: `tests/light/pictures/`.

After a wanted change of looks, run `python tests/light/test_pictures.py` with `src` on PYTHONPATH, and look at them.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwise import Mask, Name, Prediction
from maskwise.reports.contact_sheet import Tile, make_contact_sheet
from maskwise.reports.overlay import draw_overlay

FOLDER = Path(__file__).with_name("pictures")
DIFFERENT = 48
"""From this difference on (0 to 255) a pixel counts as another one: other versions of FreeType draw other edges."""
MAX_SHARE = 0.001


def named(name, probability):
    return Prediction((Name(name, 1, probability),))


def background(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=2).astype(np.uint8)


def crowded() -> np.ndarray:
    """A small picture with a large region, a ring, regions that lie on others, tiny ones at edges, and one unnamed."""
    hw = (160, 240)
    ring = np.zeros(hw, dtype=bool)
    ring[20:90, 20:120] = True
    ring[35:75, 32:108] = False
    boxes = [(130, 10, 100, 90), (150, 30, 40, 30), (2, 2, 6, 6), (233, 150, 6, 9), (40, 100, 70, 50), (60, 45, 20, 20)]
    tiny = [(x, 112 + 9 * (x % 2), 5, 5) for x in range(121, 229, 9)]
    masks = [Mask.from_array(ring), *(Mask.from_box(box, hw) for box in boxes + tiny)]
    names = ["bicycle", "boat", "person", "bird", "kite", "dog", "cup", *(["sheep", "cow"] * 6)]
    predictions = [named(name, 0.51 + 0.02 * number) for number, name in enumerate(names)]
    predictions[5] = None
    return draw_overlay(background(*hw), masks, predictions[: len(masks)])


def many() -> np.ndarray:
    """A wide picture whose legend needs two columns."""
    hw = (300, 1000)
    masks = [Mask.from_box((20 + 48 * (n % 20), 30 + 90 * (n // 20), 14, 14), hw) for n in range(40)]
    predictions = [named("potted plant" if n % 3 else "clock", 0.9 - n / 100) for n in range(40)]
    return draw_overlay(background(*hw), masks, predictions)


def sheet() -> np.ndarray:
    """Tiles of two sizes, with few and many words."""
    tiles = []
    for number, side in enumerate((64, 64, 100, 64, 100, 64, 64)):
        y, x = np.mgrid[:side, :side]
        coverage = np.where(np.hypot(x - side * 0.4, y - side * 0.6) < side * 0.25, 255, 0).astype(np.uint8)
        words = ("a class of a long name that does not fit", f"{number}") if number % 2 else (f"tile {number}",)
        tiles.append(Tile(background(side, side), coverage, words))
    return make_contact_sheet(tiles, columns=3)


PICTURES = {"crowded": crowded, "many": many, "sheet": sheet}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_looks_as_it_did_when_a_person_looked_at_it(name):
    expected = np.asarray(Image.open(FOLDER / f"{name}.png"))
    got = PICTURES[name]()
    assert got.shape == expected.shape
    different = (np.abs(got.astype(int) - expected) >= DIFFERENT).any(axis=2)
    assert different.mean() <= MAX_SHARE


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        Image.fromarray(draw()).save(FOLDER / f"{name}.png", optimize=True)
