"""The flag `--mode`, which several commands have."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro

Mode = Annotated[
    Literal["auto", "exact", "shared"],
    tyro.conf.arg(
        help="exact: a view for each mask; shared: masks share a few views of the image, which is faster and names"
        " small regions less well; auto: where there are many masks, neighbours of like size share."
    ),
]
