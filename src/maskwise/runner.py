"""Running a model file's graph on batches: in turn on all threads, or as many at once as there are threads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from maskwise.ahead import abreast
from maskwise.modelfile import cores, embedded_model, open_model

if TYPE_CHECKING:
    import onnxruntime

Batch = dict[str, np.ndarray]
"""What a graph takes; see `modelfile.feed`."""
WORTH = 50
"""From so many batches on, all calls together, it pays to open the model a second time, on one thread."""


class Runner:
    """Runs one model file. Several threads may use it.

    A network of one view is too small to be shared out well. So where there are as many batches as threads, and many in
    all, each thread of a processor runs batches of its own: DINOv2 ViT-S/14 at 168 pixels names 65 views a second on
    two cores, 55 where both work on one view, and 33 and 17 while something else has one of the cores (AMD EPYC,
    2026-11-25).
    """

    def __init__(
        self, model: str | os.PathLike[str] | None = None, *, threads: int | None = None, device: str = "cpu"
    ) -> None:
        """Open a model; arguments and errors as in `Predictor`."""
        self._model = Path(model if model is not None else embedded_model()).absolute()
        self._session, self.info = open_model(model, threads=threads, device=device)
        self._state = _state(self._model)
        self._at_once = (threads or cores()) if device == "cpu" else 1
        self._asked = 0
        self._single: onnxruntime.InferenceSession | None = None
        self._lock = Lock()

    def width(self, output: str) -> int:
        """Columns of an output."""
        return next(found.shape[1] for found in self._session.get_outputs() if found.name == output)

    def run(self, output: str, batches: Iterable[Batch], count: int) -> Iterator[np.ndarray]:
        """An output for each batch, in order; the next batches are made meanwhile.

        Args:
            output: `logits` or `embeddings`.
            batches: what the graph takes.
            count: how many there are.
        """
        self._asked += count
        apart = count >= self._at_once > 1 and self._asked >= WORTH
        session, workers = (self._on_one_thread(), self._at_once) if apart else (self._session, 1)
        return abreast(lambda batch: session.run([output], batch)[0], batches, workers)

    def _on_one_thread(self) -> onnxruntime.InferenceSession:
        """The same model on one thread; as it is where its file is no longer the one that was opened."""
        with self._lock:
            if self._single is None:
                same = _state(self._model) == self._state
                self._single = open_model(self._model, threads=1)[0] if same else self._session
            return self._single


def _state(path: Path) -> tuple[int, ...] | None:
    """What tells a file from one that has taken its place; None where there is none."""
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
