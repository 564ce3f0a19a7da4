"""The rows of an evaluation keep the order of the regions."""

from functools import partial
from pathlib import Path

import numpy as np

from colour_model import CATEGORIES, colour_model
from maskwise import LabelledRegion, Mask, Predictor, RegionSet
from maskwise.data.regions import Regions
from maskwise.tasks.evaluation import _name_all

RED, GREEN, BLUE = (220, 30, 40), (30, 220, 40), (30, 40, 220)


def test_rows_go_back_to_the_order_of_regions_where_that_is_not_its_own_inverse(tmp_path):
    """Regions of the images 0, 1, 0, 0 are read as 0, 2, 3, 1; two swaps would bring 0, 3, 1, 2."""
    plan = [(0, RED, "person"), (1, GREEN, "dog"), (0, BLUE, "cup"), (0, RED, "person")]
    images = np.full((2, 60, 240, 3), 128, dtype=np.uint8)
    regions = []
    for place, (number, colour, name) in enumerate(plan):
        mask = np.zeros((60, 240), dtype=bool)
        mask[10 : 20 + place, 60 * place + 10 : 60 * place + 30] = True
        images[number][mask] = colour
        read = partial(Mask.from_array, mask)
        regions.append(LabelledRegion(Path(str(number)), number, place, name, None, False, read, images[number]))
    named = _name_all(Predictor(colour_model(tmp_path)), RegionSet(CATEGORIES, Regions.of(regions)))
    assert named.predicted.tolist() == [0, 1, 2, 0]
    assert named.images.tolist() == [0, 1, 0, 0]
    assert named.pixels.tolist() == [200, 220, 240, 260]
