"""The annotations of a COCO file with their new names, image by image, for writers of other formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from maskwise.data.coco_file import CocoFile
from maskwise.data.coco_index import value_of
from maskwise.data.coco_writer import NamedAnnotations, NoneMode, output_categories, size_of_image
from maskwise.data.masks import Mask
from maskwise.data.problems import Id
from maskwise.data.regions import Category
from maskwise.data.writers.records import NamedImage, NamedRegion, ScoredClass
from maskwise.errors import AnnotationError, MaskError


class NamedRegions:
    """Reads the masks of a COCO file's annotations again, an image at a time.

    Attributes:
        categories: the classes of the output: the file's, then the model's others.
    """

    def __init__(
        self, coco: CocoFile, known: Sequence[Category], named: NamedAnnotations, *, none: NoneMode = "category"
    ) -> None:
        """Take the names; arguments as in `write_named_coco`."""
        self._coco, self._named, self._none = coco, named, none
        self.categories, self._ids = output_categories(coco.categories, known, named, none)
        self._names = [category.name for category in known]
        self._own = {row: category for row, category in enumerate(coco.categories)}

    def __iter__(self) -> Iterator[NamedImage]:
        """Yield every image of the file, in its order, also those without annotations."""
        index = self._coco.index
        order = np.argsort(index.image, kind="stable")
        bounds = np.searchsorted(index.image[order], np.arange(len(index.file_name) + 1))
        for image, (first, last) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            rows = order[first:last].tolist()
            image_hw = size_of_image(self._coco, self._named, image)
            if self._none == "drop":
                rows = [row for row in rows if not self._named.none[row]]
            yield NamedImage(
                image_id=value_of(index.image_id, image),
                file_name=self._coco.file_name(image),
                image_hw=image_hw,
                regions=tuple(self._region(row, image_hw) for row in rows),
            )

    def _region(self, row: int, image_hw: tuple[int, int] | None) -> NamedRegion:
        named = self._named
        annotation_id = self._coco.ids(row)[1]
        mask = self._mask(row, image_hw)
        classes = named.classes[row].tolist()
        if classes[0] < 0:  # It keeps the name that the file has, if any.
            own = self._own.get(int(self._coco.index.category[row]))
            return NamedRegion(annotation_id=annotation_id, mask=mask, category=own)
        ids: list[Id] = [self._ids[place] for place in classes]
        names = [self._names[place] for place in classes]
        top = tuple(map(ScoredClass, names, ids, named.scores[row].tolist()))
        is_none = bool(named.none[row])
        category: Category | None = Category(ids[0], names[0])
        if is_none:
            category = self.categories[-1] if self._none == "category" else None
        known = float(named.known[row])
        return NamedRegion(
            annotation_id=annotation_id,
            mask=mask,
            category=category,
            score=top[0].score,
            top=top,
            known=None if np.isnan(known) else known,
            is_none=is_none,
        )

    def _mask(self, row: int, image_hw: tuple[int, int] | None) -> Mask | None:
        """Return an annotation's mask; None where it has none that can be read, which `label` has reported."""
        if image_hw is None:
            return None
        try:
            return self._coco.mask(row, image_hw)
        except (MaskError, AnnotationError):
            return None
