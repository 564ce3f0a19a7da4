"""Embed labelled regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from maskwise.data.images import Pixels
from maskwise.data.masks import Mask
from maskwise.data.regions import LabelledRegion, read_by_image
from maskwise.errors import ImageError
from maskwise.model.predictor import Predictor
from maskwise.progress import Progress


def embed_regions(
    predictor: Predictor,
    regions: Sequence[LabelledRegion],
    *,
    what: str = "embed",
    unreadable: list[ImageError] | None = None,
) -> Float32[np.ndarray, "regions features"]:
    """Embed labelled regions, in their order; every image is read once.

    Args:
        predictor: the model.
        regions: at least one.
        what: name of the work in the progress bar.
        unreadable: gets the errors of images that cannot be used; the rows of their regions are then not numbers.

    Raises:
        ImageError, MaskError: see `read_by_image`.
    """
    order: list[int] = []

    def shown() -> Iterator[tuple[Pixels, list[Mask]]]:
        for numbers, image, masks in read_by_image(regions, unreadable=unreadable):
            order.extend(numbers)
            yield image, masks

    parts = []
    with Progress(len(regions), what, "regions") as progress:
        for outputs in predictor.run_many(shown(), logits=False, embeddings=True):
            assert outputs.embeddings is not None
            parts.append(outputs.embeddings)
            progress.update(len(parts[-1]))
    embeddings = np.concatenate(parts) if parts else np.zeros((0, 1), dtype=np.float32)
    rows = np.full((len(regions), embeddings.shape[1]), np.nan, dtype=np.float32)
    rows[order] = embeddings
    return rows
