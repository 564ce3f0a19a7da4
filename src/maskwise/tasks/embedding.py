"""Embed labelled regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from maskwise.data.images import Pixels
from maskwise.data.masks import Mask
from maskwise.data.problems import Problem
from maskwise.data.regions import LabelledRegion, read_by_image
from maskwise.errors import InputError
from maskwise.model.predictor import Predictor
from maskwise.progress import Progress


def embed_regions(
    predictor: Predictor,
    regions: Sequence[LabelledRegion],
    *,
    what: str = "embed",
    skip: tuple[type[InputError], ...] = (),
    problems: list[Problem] | None = None,
) -> Float32[np.ndarray, "regions features"]:
    """Embed labelled regions, in their order; every image is read once.

    Args:
        predictor: the model.
        regions: at least one.
        what: name of the work in the progress bar.
        skip: kinds of faults that are skipped; the rows of their regions are then not numbers.
        problems: gets the skipped faults.

    Raises:
        ImageError, MaskError, AnnotationError: see `read_by_image`.
    """
    order: list[int] = []

    def shown() -> Iterator[tuple[Pixels, list[Mask]]]:
        for numbers, image, masks in read_by_image(regions, skip=skip, problems=problems):
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
