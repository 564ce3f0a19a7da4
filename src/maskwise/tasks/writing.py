"""Write predictions to a file, in any of the formats."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from maskwise.data.coco_writer import NONE_ID, NONE_NAME
from maskwise.data.masks import Mask
from maskwise.data.regions import Category
from maskwise.data.writers.formats import FormatName, check_output_of, format_of, write_named
from maskwise.data.writers.records import DEFAULT_IMAGE_URL, NamedImage, NamedRegion, ScoredClass, WriteOptions
from maskwise.model.prediction import Prediction
from maskwise.model.predictor import Predictor

SCORE_DIGITS = 6
"""Digits after the decimal point of a score."""

PredictedImage = tuple[str, Sequence[Mask], Sequence[Prediction]]
"""The file name of an image, its masks, and their predictions."""


def write_predictions(
    images: Iterable[PredictedImage],
    output: str | os.PathLike[str],
    predictor: Predictor,
    *,
    form: FormatName | None = None,
    polygons: bool = False,
    image_url: str = DEFAULT_IMAGE_URL,
) -> None:
    """Write predictions, read one image after the other, whole or not at all.

    Args:
        images: file name, masks and predictions of each image.
        output: the file or folder to write.
        predictor: what made the predictions; gives the classes and the model's name.
        form: the format (default: by the output's suffix, `.json` for COCO); see `formats.FORMATS`.
        polygons: write outlines as polygons in place of run lengths.
        image_url: what stands before the file names in Label Studio's tasks.

    Raises:
        InputError: an unknown suffix or format, or the output cannot be written.
        MissingExtraError: the format's package is not installed.

    Example:
        write_predictions([("photo.jpg", masks, predictor.predict(image, masks))], "named.csv", predictor)
    """
    output = Path(output)
    chosen = format_of(output, form, polygons=polygons)
    check_output_of(chosen, output)
    categories = [predictor.info.categories[place] for place in predictor.chosen]
    nothing = _nothing(categories)
    if predictor.info.min_known is not None or predictor.limits.probability:
        categories.append(nothing)
    options = WriteOptions(
        categories=tuple(categories), model=predictor.info.name, polygons=polygons, image_url=image_url
    )
    write_named(chosen, _named_images(images, nothing), output, options)


def _nothing(categories: Sequence[Category]) -> Category:
    """Return the category of "none of these", with an id that no class has."""
    ids = [category.id for category in categories]
    numbers = [int(one) for one in ids if isinstance(one, (int, float))]
    return Category(NONE_ID if NONE_ID not in ids else max(numbers) + 1, NONE_NAME)


def _named_images(images: Iterable[PredictedImage], nothing: Category) -> Iterator[NamedImage]:
    regions = 0
    for number, (file_name, masks, predictions) in enumerate(images, start=1):
        named = []
        for mask, prediction in zip(masks, predictions, strict=True):
            regions += 1
            named.append(_region(regions, mask, prediction, nothing))
        image_hw = masks[0].image_hw if masks else None
        yield NamedImage(image_id=number, file_name=file_name, image_hw=image_hw, regions=tuple(named))


def _region(number: int, mask: Mask, prediction: Prediction, nothing: Category) -> NamedRegion:
    return NamedRegion(
        annotation_id=number,
        mask=mask,
        category=nothing if prediction.is_none else Category(prediction.category_id, prediction.name),
        score=round(prediction.probability, SCORE_DIGITS),
        top=tuple(
            ScoredClass(one.name, one.category_id, round(one.probability, SCORE_DIGITS)) for one in prediction.names
        ),
        known=None if prediction.known is None else round(prediction.known, SCORE_DIGITS),
        is_none=prediction.is_none,
    )
