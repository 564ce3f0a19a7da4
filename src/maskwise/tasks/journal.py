"""The journal of a labelling run: its finished images, so that an interrupted run resumes.

A file of JSON lines. The first holds the key of the run, each further one the results of an image: `image_id`,
`classes` (per annotation the most probable class indices) and `scores` (their probabilities).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TextIO

import numpy as np

from maskwise.data.atomic_files import write_json
from maskwise.data.coco_file import CocoFile
from maskwise.data.coco_index import Id
from maskwise.errors import AnnotationError
from maskwise.model.prediction import TopClasses
from maskwise.model.predictor import Predictor


def run_key(coco: CocoFile, predictor: Predictor, top: int) -> str:
    """Return the hash of everything that the results of a run depend on."""
    with coco.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps([predictor.info.to_metadata(), predictor.mode, top]).encode())
    return digest.hexdigest()


class Journal:
    """The finished images of one run. Nothing is written before the first image is finished."""

    def __init__(self, path: Path, key: str) -> None:
        """Name the file.

        Args:
            path: the file; it may exist.
            key: see `run_key`.
        """
        self._path, self._key = path, key
        self._started = False

    def read(self) -> Iterator[tuple[Id, TopClasses]]:
        """Yield the finished images; a last line that was cut off is ignored.

        Raises:
            AnnotationError: the journal belongs to a different run.
        """
        if not self._path.is_file():
            return
        with open(self._path, "rb") as file:
            header = file.readline()
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):  # Cut off when the run was killed.
                    return
                if number == 0:
                    self._check_key(header)
                    self._started = True
                record = json.loads(line)
                classes, scores = np.array(record["classes"], dtype=np.int32), np.array(record["scores"], dtype=float)
                yield record["image_id"], TopClasses(classes, scores)

    def _check_key(self, header: bytes) -> None:
        if json.loads(header.strip() or b"{}").get("key") != self._key:
            raise AnnotationError(
                f"{self._path}: belongs to a different run (another file, model, --mode or --top);"
                " delete it to start over"
            )

    @contextmanager
    def appending(self) -> Iterator[Callable[[Id, TopClasses], None]]:
        """Give a function that adds a finished image; each line is flushed. Call `read` before."""
        if self._started:
            _cut_after_last_line(self._path)
        with ExitStack() as stack:

            @cache
            def opened() -> TextIO:
                if not self._started:
                    write_json(self._path, {"key": self._key}, indent=None)
                return stack.enter_context(open(self._path, "a", encoding="utf-8"))

            def append(image_id: Id, top_classes: TopClasses) -> None:
                classes, scores = top_classes.indices.tolist(), top_classes.probabilities.tolist()
                opened().write(json.dumps({"image_id": image_id, "classes": classes, "scores": scores}) + "\n")
                opened().flush()

            yield append

    def delete(self) -> None:
        """Delete the file, if there is one."""
        self._path.unlink(missing_ok=True)


def _cut_after_last_line(path: Path) -> None:
    with open(path, "rb+") as file:
        file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))
