"""Results of the model: arrays for many regions, a `Prediction` for one."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32

from maskwise.data.problems import Id
from maskwise.data.regions import Category
from maskwise.errors import InputError


@dataclass(frozen=True)
class Name:
    """A class that a region may have, and its probability.

    Attributes:
        name: the class.
        category_id: its id in the model's list of classes.
        probability: 0 to 1.
    """

    name: str
    category_id: Id
    probability: float


@dataclass(frozen=True, repr=False)
class Prediction:
    """The classes of one region.

    Attributes:
        names: classes, the most probable first; at least one.
        known: probability that the region is one of the classes at all, 0 to 1; None if the model cannot tell.
        is_none: whether it counts as "none of these", by the predictor's `min_known` and `min_probability`.
        logits: one per class of the model, before the temperature; None if they were not kept.
        embedding: the features that the last layer classifies; None unless you ask for embeddings.
    """

    names: tuple[Name, ...]
    known: float | None = None
    is_none: bool = False
    logits: Float32[np.ndarray, " classes"] | None = field(default=None, compare=False)
    embedding: Float32[np.ndarray, " features"] | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The most probable class."""
        return self.names[0].name

    @property
    def category_id(self) -> Id:
        """Its id in the model's list of classes."""
        return self.names[0].category_id

    @property
    def probability(self) -> float:
        """Its probability, 0 to 1."""
        return self.names[0].probability

    def __repr__(self) -> str:
        name = f"{self.name} {self.probability:.0%}"
        return f"<Prediction none of these ({name})>" if self.is_none else f"<Prediction {name}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a bar for each class, in the notebook's own colours."""
        rows = [(name.name, name.probability) for name in self.names]
        if self.is_none:
            rows.insert(0, ("none of these", math.nan))
        return f"<table>{''.join(_html_row(*row) for row in rows)}</table>"

    def to_dict(self) -> dict[str, Any]:
        """Return the names as plain JSON values, the most probable first, and what is known of "none of these".

        >>> Prediction((Name("cup", 47, 0.75),), known=0.5).to_dict()
        {'names': [{'name': 'cup', 'category_id': 47, 'probability': 0.75}], 'is_none': False, 'known': 0.5}
        """
        names = [{"name": n.name, "category_id": n.category_id, "probability": n.probability} for n in self.names]
        record = {"names": names, "is_none": self.is_none}
        return record if self.known is None else {**record, "known": self.known}


def _html_row(name: str, share: float) -> str:
    bar = (
        ""
        if math.isnan(share)
        else f'<div style="width:{100 * share:.0f}px;height:.6em;background:currentColor"></div>'
    )
    number = "" if math.isnan(share) else f"{share:.0%}"
    return f'<tr><td style="text-align:left">{html.escape(name)}</td><td>{number}</td><td>{bar}</td></tr>'


@dataclass(frozen=True, eq=False)
class TopClasses:
    """The most probable classes of regions, the most probable first.

    Attributes:
        indices: class indices, places in the model's list of classes.
        probabilities: 0 to 1.
        known: probability of being one of the classes at all; not numbers if the model cannot tell.
    """

    indices: Int32[np.ndarray, "regions top"]
    probabilities: Float64[np.ndarray, "regions top"]
    known: Float64[np.ndarray, " regions"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Below which a region is "none of these".

    Attributes:
        known: minimum probability of being one of the classes at all, 0 to 1.
        probability: minimum probability of the most probable class, 0 to 1.
    """

    known: float = 0.0
    probability: float = 0.0

    def are_none(
        self, probabilities: Float64[np.ndarray, " regions"], known: Float64[np.ndarray, " regions"]
    ) -> Bool[np.ndarray, " regions"]:
        """Return which regions are "none of these"; where the model cannot tell, only the probability counts.

        >>> limits = Limits(known=0.5, probability=0.2)
        >>> limits.are_none(np.array([0.9, 0.1, 0.9]), np.array([0.4, 0.6, np.nan])).tolist()
        [True, True, False]
        """
        return (known < self.known) | (probabilities < self.probability)


@dataclass(frozen=True, eq=False)
class ImageOutputs:
    """Logits and embeddings of the regions of one image, a row per region.

    Attributes:
        categories: the model's classes, in the order of the logits.
        temperature: the logits are divided by it before the softmax.
        crops: how many crops of the image the network saw.
        shared: whether masks shared crops; if not, each had its own.
        logits: before the temperature; None if only embeddings were asked for.
        embeddings: the features that the last layer classifies; None unless asked for.
        known_logits: of being one of the classes at all; None if the model cannot tell or it was not asked for.
        limits: below which a region is "none of these".
    """

    categories: tuple[Category, ...]
    temperature: float
    crops: int
    shared: bool = False
    logits: Float32[np.ndarray, "regions classes"] | None = None
    embeddings: Float32[np.ndarray, "regions features"] | None = None
    known_logits: Float32[np.ndarray, " regions"] | None = None
    limits: Limits = Limits()

    @property
    def known(self) -> Float64[np.ndarray, " regions"]:
        """Probability of each region that it is one of the classes at all; not numbers if the model cannot tell."""
        if self.known_logits is None:
            count = 0 if self.logits is None else len(self.logits)
            return np.full(count, np.nan)
        return 1 / (1 + np.exp(-self.known_logits.astype(np.float64)))

    @property
    def probabilities(self) -> Float32[np.ndarray, "regions classes"]:
        """Probability of every class for every region."""
        assert self.logits is not None, "only embeddings were asked for"
        scaled = self.logits / self.temperature
        exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def top_classes(self, top: int) -> TopClasses:
        """Return the most probable classes of each region; of equal ones the first in the model's list comes first.

        Args:
            top: how many; all classes if there are fewer.

        Raises:
            InputError: top is below 1.
        """
        check_top(top)
        probabilities = self.probabilities
        indices = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        chosen = np.take_along_axis(probabilities, indices, axis=1)
        return TopClasses(indices.astype(np.int32), chosen.astype(np.float64), self.known)

    def predictions(self, top: int) -> list[Prediction]:
        """Return one `Prediction` per region; arguments and errors as in `top_classes`."""
        classes = self.top_classes(top)
        none = self.limits.are_none(classes.probabilities[:, 0], classes.known)
        return [self._prediction(row, classes, is_none=bool(none[row])) for row in range(len(classes.indices))]

    def _prediction(self, row: int, classes: TopClasses, *, is_none: bool) -> Prediction:
        known = float(classes.known[row])
        pairs = zip(classes.indices[row].tolist(), classes.probabilities[row].tolist(), strict=True)
        return Prediction(
            tuple(Name(self.categories[i].name, self.categories[i].id, probability) for i, probability in pairs),
            known=None if np.isnan(known) else known,
            is_none=is_none,
            logits=None if self.logits is None else self.logits[row],
            embedding=None if self.embeddings is None else self.embeddings[row],
        )


def check_top(top: int) -> None:
    """Refuse to give no class at all.

    Raises:
        InputError: top is below 1.
    """
    if top < 1:
        raise InputError(f"top is {top}; give at least 1 class per region")
