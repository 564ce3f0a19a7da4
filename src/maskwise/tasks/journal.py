"""The journal of a labelling run: its finished images, so that an interrupted run resumes.

A file of JSON lines. The first says that it is a journal; each further one is an `ImageResult`. A result counts for an
image whose file, outlines, model, mode, classes and top have not changed since, so that a mended input loses no
finished work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from maskwise.data.coco_file import CocoFile
from maskwise.data.file_lock import lock_file
from maskwise.data.problems import Problem
from maskwise.errors import AnnotationError, InputError
from maskwise.model.predictor import Predictor

HEADER = {"maskwise": "journal", "format": 3}


@dataclass(frozen=True)
class ImageResult:
    """The results of one image. Lists have an entry per annotation, in the file's order.

    Attributes:
        key: see `image_key`.
        image_hw: height and width, pixels; None if the image cannot be read.
        classes: class indices, the most probable first; None for an annotation that cannot be named.
        scores: their probabilities, rounded.
        known: probability of being one of the classes at all; None also if the model cannot tell.
        boxes: x, y, width and height of each mask, pixels.
        areas: pixels of each mask.
        problems: why annotations are not named, with `row` as the place in these lists.
    """

    key: str
    image_hw: tuple[int, int] | None
    classes: list[list[int] | None]
    scores: list[list[float] | None]
    known: list[float | None]
    boxes: list[tuple[int, int, int, int] | None]
    areas: list[int | None]
    problems: list[Problem]

    def to_json(self) -> str:
        """Return the result as one line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str | bytes) -> ImageResult:
        """Return the result of a line.

        Raises:
            ValueError: the line is not one of a journal.
        """
        try:
            result = msgspec.json.decode(line, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"not a line of a journal ({error})") from error
        columns = (result.classes, result.scores, result.known, result.boxes, result.areas)
        if len({len(column) for column in columns}) > 1:
            raise ValueError("not a line of a journal (lists of different lengths)")
        return result


def run_key(predictor: Predictor, top: int) -> str:
    """Return the hash of everything but the images and outlines that results depend on."""
    with open(predictor.model_path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    restricted = [list(predictor.chosen)] if len(predictor.chosen) < len(predictor.classes) else []
    digest.update(json.dumps([predictor.mode, top, *restricted]).encode())
    return digest.hexdigest()


def image_key(run: str, coco: CocoFile, path: str, rows: list[int]) -> str:
    """Return the hash of a run's key, an image file and the outlines of its annotations.

    Raises:
        OSError: the image file cannot be read.
    """
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(run.encode())
    for row in rows:
        digest.update(coco.outline_text(row) + b"\n")
    return digest.hexdigest()


class Journal:
    """The journal of one output; a context that one run at a time can enter."""

    def __init__(self, path: Path) -> None:
        """Name the file.

        Args:
            path: the file; it may exist.
        """
        self._path = path
        self._file: BinaryIO | None = None
        self._kept = 0

    def __enter__(self) -> Journal:
        """Open and lock the file.

        Raises:
            InputError: another run has it, or it cannot be written.
            AnnotationError: it is not a journal.
        """
        if self._path.exists() and not self._path.is_file():
            raise InputError(f"{self._path}: is not a plain file; remove it, or give another output")
        try:
            self._file = open(self._path, "ab+")  # Closed in __exit__.
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror}); give another output") from error
        try:
            lock_file(self._file, self._path)
            self._check_header(self._file)
        except Exception:
            self._file.close()
            raise
        return self

    def _check_header(self, file: BinaryIO) -> None:
        file.seek(0)
        first = file.readline()
        if not first:
            file.write(json.dumps(HEADER).encode() + b"\n")
            file.flush()
        elif first != json.dumps(HEADER).encode() + b"\n":
            raise AnnotationError(
                f"{self._path}: is not a journal of this version of Maskwise; move it away, or give another output"
            )

    def results(self) -> Iterator[ImageResult]:
        """Yield the finished images; a last line that was cut off is removed."""
        file = self._opened()
        file.seek(0)
        end = len(file.readline())
        for line in iter(file.readline, b""):
            try:
                result = ImageResult.from_json(line)
            except ValueError:  # Cut off when the run was killed, or damaged.
                break
            if not line.endswith(b"\n"):
                break
            end += len(line)
            self._kept += 1
            yield result
        file.truncate(end)

    def append(self, result: ImageResult) -> None:
        """Add a finished image; the line is flushed.

        Raises:
            InputError: the disk is full.
        """
        file = self._opened()
        try:
            file.write(result.to_json().encode() + b"\n")
            file.flush()
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror}); make room and repeat") from error
        self._kept += 1

    def delete(self) -> None:
        """Delete the file: the output is written."""
        self._path.unlink(missing_ok=True)
        self._kept = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; it goes if it holds nothing."""
        if not self._kept:
            self._path.unlink(missing_ok=True)
        self._opened().close()

    def _opened(self) -> BinaryIO:
        assert self._file is not None, "enter the journal first"
        return self._file
