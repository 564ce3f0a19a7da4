"""Run a model file's graph on a stream of batches, using all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from maskwise.concurrency import map_in_threads
from maskwise.model.model_folder import find_model
from maskwise.model.session import available_cores, open_session

if TYPE_CHECKING:
    import onnxruntime

GraphInputs = dict[str, np.ndarray]
"""Arrays by the names of the graph's inputs; see `model_file.graph_inputs`."""
Device = Literal["cpu", "cuda"]
MIN_BATCHES = 50
"""After this many batches, opening a second, single-threaded session pays off."""

Batch = TypeVar("Batch")


class Runner:
    """Runs one model file. Several threads may use it.

    One crop is too little work to share between cores. So each core runs batches of its own, on a single-threaded
    session: DINOv2 ViT-S/14 at 168 pixels names 65 crops/s on two cores, 55 if both work on one crop, and 33 and 17
    while something else uses one of the cores (AMD EPYC, 2026-11-25). With fewer batches than cores, the calls share
    the threads of the first session instead, so that no core idles.
    """

    def __init__(
        self, model: str | os.PathLike[str] | None = None, *, threads: int | None = None, device: Device = "cpu"
    ) -> None:
        """Open a model; arguments and errors as in `Predictor`."""
        self._model = find_model(model).absolute()
        self._session, self.info = open_session(self._model, threads=threads, device=device)
        self._state = _file_state(self._model)
        self._workers = (threads or available_cores()) if device == "cpu" else 1
        self._batches_run = 0
        self._single: onnxruntime.InferenceSession | None = None
        self._lock = Lock()

    @property
    def path(self) -> Path:
        """The model file."""
        return self._model

    def width(self, output: str) -> int:
        """Columns of an output."""
        return int(next(node.shape[1] for node in self._session.get_outputs() if node.name == output))

    def run(
        self,
        outputs: tuple[str, ...],
        batches: Iterable[Batch],
        inputs_of: Callable[[Batch], GraphInputs],
        *,
        count: int | None = None,
    ) -> Iterator[tuple[Batch, list[np.ndarray]]]:
        """Yield each batch with its outputs, in order; the next batches are made meanwhile.

        Args:
            outputs: of `logits` and `embeddings`.
            batches: batches of any type.
            inputs_of: makes a batch into what the graph takes; called in a worker thread.
            count: number of batches, if known.
        """
        workers = self._workers if count is None else max(min(count, self._workers), 1)

        def call(batch: Batch) -> tuple[Batch, list[np.ndarray]]:
            session = self._session_for(workers)
            return batch, session.run(list(outputs), inputs_of(batch))

        return map_in_threads(call, batches, workers)

    def _session_for(self, workers: int) -> onnxruntime.InferenceSession:
        """Return the session for the next batch: single-threaded where every core has a batch, if that pays off."""
        with self._lock:
            self._batches_run += 1
            if workers < self._workers or workers == 1 or self._batches_run < MIN_BATCHES:
                return self._session
            if self._single is None:
                same_file = _file_state(self._model) == self._state
                self._single = open_session(self._model, threads=1)[0] if same_file else self._session
            return self._single


def _file_state(path: Path) -> tuple[int, int, int] | None:
    """Return inode, time and size, which change when a file is replaced; None if there is no file."""
    if not path.is_file():
        return None
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
