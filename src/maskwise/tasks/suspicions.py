"""A label that may be wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from maskwise.data.problems import Id

Kind = Literal["name", "none", "duplicate", "tiny", "unlabelled"]


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A label that may be wrong.

    Attributes:
        kind: name (another name fits better), none (it looks like none of the classes), duplicate, tiny, or unlabelled
            (a thing that no label covers).
        score: how suspicious, 0 to 1; those of one kind can be compared.
        image_id: of the image.
        file_name: of the image.
        annotation_id: of the region; None if it has no label.
        given: its name; None if it has no label.
        suggested: a better one; None if there is none to suggest.
        probability: of the suggested name, 0 to 1.
        given_probability: of the given name.
        known: probability of being one of the classes at all; None if the model cannot tell.
        other_id: of the annotation that it repeats.
        segmentation: outline of what has no label, as COCO run lengths.
    """

    kind: Kind
    score: float
    annotation_id: Id | None = None
    image_id: Id
    file_name: str
    given: str | None = None
    suggested: str | None = None
    probability: float | None = None
    given_probability: float | None = None
    known: float | None = None
    other_id: Id | None = None
    segmentation: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values, without what does not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}
