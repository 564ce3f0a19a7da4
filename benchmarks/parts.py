"""Measure the processor time of naming masks besides the network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scenes import read_scene

from maskwise import Predictor, load_image
from maskwise.data.coco_file import read_coco
from maskwise.model.predictor import MODES

ROUNDS = 9


class NoNetwork:
    """Stand-in for a predictor's network that returns zeros at once, whatever it is asked for."""

    def __init__(self, session: Any) -> None:
        """Replace a session of ONNX Runtime."""
        self.get_outputs = session.get_outputs
        self._widths = {output.name: output.shape[1:] for output in session.get_outputs()}

    def run(self, names: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return zeros."""
        return [np.zeros((len(given["masks"]), *self._widths[name]), dtype=np.float32) for name in names]


def milliseconds(work: Callable[[], object]) -> float:
    """Return the median processor time of a function over all threads."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return round(statistics.median(times) * 1000, 2)


def parts(segments: Path) -> dict[str, float]:
    """Return the milliseconds of each part, for an image and its masks in files.

    `Predictor` is measured whole, with views, threads, softmax and names, but for the network.
    """
    coco = read_coco(segments, labelled=False)
    photograph = segments.with_name(coco.file_name(0))
    image, masks = read_scene(segments)
    results = {
        "JPEG": milliseconds(lambda: load_image(photograph)),
        "COCO file": milliseconds(lambda: read_coco(segments, labelled=False)),
        "run lengths": milliseconds(lambda: [coco.mask(row, image.shape[:2]) for row in range(len(masks))]),
    }
    for mode in MODES:
        opened = Predictor(mode=mode, threads=1)
        opened._runner._session = NoNetwork(opened._runner._session)
        results[f"`Predictor`, {mode}"] = milliseconds(lambda opened=opened: opened.predict(image, masks))
    return results
