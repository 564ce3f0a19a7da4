"""Annotations with names, as `label` writes them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from maskwise.data.coco_file import CocoFile
from maskwise.data.coco_writer import NONE_NAME
from maskwise.data.problems import Id
from maskwise.model.prediction import Name, Prediction


class NamedRecord(msgspec.Struct):
    """What `label` writes into an annotation.

    Attributes:
        category_id: of the most probable class; None if the annotation was not named or is none of the classes.
        score: its probability, 0 to 1.
        known: probability of being one of the classes at all; None if the model cannot tell.
    """

    category_id: Id | None = None
    score: float | None = None
    known: float | None = None

    def name(self, names: Mapping[Id, str]) -> str | None:
        """Return the name of its class; None without one."""
        if self.category_id is None or self.score is None or names.get(self.category_id, NONE_NAME) == NONE_NAME:
            return None
        return names[self.category_id]

    def prediction(self, names: Mapping[Id, str]) -> Prediction | None:
        """Return it as a prediction; None without a name."""
        name = self.name(names)
        if name is None or self.category_id is None or self.score is None:
            return None
        return Prediction((Name(name, self.category_id, self.score),), known=self.known)


def named_record(coco: CocoFile, row: int) -> NamedRecord:
    """Return what an annotation of a file says of its name."""
    return msgspec.json.decode(coco.record(row), type=NamedRecord)
