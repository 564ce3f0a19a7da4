"""Faults of single records: collected and counted, so that one bad record need not stop the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from maskwise.data.atomic_files import write_json
from maskwise.errors import AnnotationError, InputError

Id = int | float | str
OnError = Literal["skip", "stop"]
"""What a command does about faults of records: leave these out, or list all and stop."""
SKIPPED: Mapping[OnError, tuple[type[InputError], ...]] = {"skip": (InputError,), "stop": ()}
"""Kinds of errors of records that are left out."""
LISTED = 20
"""Maximum number of problems in one message."""


@dataclass(frozen=True)
class Problem:
    """A fault of one record.

    Attributes:
        message: what is wrong, what is accepted, what to do; names the file and the record.
        image_id: id of the image concerned, if known.
        annotation_id: id of the annotation concerned, if it is a single one.
        row: the annotation's place in its file; None for images and whole files.
    """

    message: str
    image_id: Id | None = None
    annotation_id: Id | None = None
    row: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the problem as plain JSON values, without the row."""
        return {key: value for key, value in asdict(self).items() if key != "row"}


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Write problems as JSON; without any, only over an older list."""
    if problems or path.exists():
        write_json(path, {"problems": [problem.to_dict() for problem in problems]})


def refuse(problems: Sequence[Problem], remedy: str = "--on-error skip leaves them out") -> None:
    """Refuse to go on with problems; one alone is said as it is, several are listed in one line.

    Args:
        problems: any number.
        remedy: what the user may type.

    Raises:
        AnnotationError: there is at least one problem.
    """
    if len(problems) == 1:
        raise AnnotationError(problems[0].message)
    if problems:
        listed = "; ".join(f"({number}) {problem.message}" for number, problem in enumerate(problems[:LISTED], start=1))
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise AnnotationError(f"{len(problems)} problems; {remedy}: {listed}{more}")
