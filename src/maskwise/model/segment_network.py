"""The three graphs of the segmenter, with arrays in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int64

from maskwise.data.images import Pixels
from maskwise.model.segment_frame import Frame
from maskwise.model.session import open_graph

ENCODER = "segmenter-encoder.onnx"
PROMPTS = "segmenter-decoder-prompts.onnx"
DRAWING = "segmenter-decoder-masks.onnx"
"""File names of the graphs; `training/segmenter_graphs.py` says what each does."""
RECORD = "segmenter.json"
"""File name of the record of how they were made."""
CELL_AXES = {"features": 1, "position": 0, "keys": 3, "values": 2, "queries": 3}
"""Outputs of the encoder, and which axis of each is the cells."""
NO_POINT, NOT_PART, PART, FIRST_CORNER, LAST_CORNER = -1, 0, 1, 2, 3
"""Labels of points: besides clicks, the corners of a box, and the point that stands for "no box"."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """What the encoder made of a photograph; every prompt of the photograph uses it.

    Attributes:
        image_hw: height and width of the photograph, pixels.
        arrays: inputs of the decoder, by name.
    """

    image_hw: tuple[int, int]
    arrays: Mapping[str, Float32[np.ndarray, ...]]


@dataclass(frozen=True, eq=False)
class Prompted:
    """The decoder's answers to prompts: masks that are not drawn yet.

    Attributes:
        cells: features of the cells that the photograph touches.
        weights: of the last layer, which draws the masks; the first mask is for prompts that mean one thing, the others
            for single clicks.
        scores: predicted IoU of each mask, about 0 to 1.
        previews: a logit for every cell and mask.
    """

    cells: Float32[np.ndarray, "prompts rows columns channels"]
    weights: Float32[np.ndarray, "prompts masks weights"]
    scores: Float32[np.ndarray, "prompts masks"]
    previews: Float32[np.ndarray, "prompts masks rows columns"]

    def of_single_clicks(self) -> Prompted:
        """Return the masks for single clicks alone, with scores from 0 to 1."""
        return Prompted(self.cells, self.weights[:, 1:], np.clip(self.scores[:, 1:], 0, 1), self.previews[:, 1:])


class SegmenterNetwork:
    """Runs the graphs. Several threads may use it."""

    def __init__(self, folder: Path, threads: int | None) -> None:
        """Open the graphs.

        Args:
            folder: of the three files.
            threads: CPU threads of the encoder (default: all cores that this process may use).

        Raises:
            ModelError: a file is missing or cannot be used.
        """
        self._encoder = open_graph(folder / ENCODER, threads=threads)
        # A prompt is too little work to share between cores: each core runs prompts of its own. The fused operator is
        # ten times as slow as the two it replaces (6.5 and 0.6 ms a prompt, Intel Xeon, 2026-11-27).
        self._prompts = open_graph(folder / PROMPTS, threads=1, without=["SkipLayerNormFusion"])
        self._drawing = open_graph(folder / DRAWING, threads=1)

    def encode(self, image: Pixels) -> EncodedImage:
        """Run the encoder on a photograph."""
        frame = Frame((image.shape[0], image.shape[1]))
        outputs = self._encoder.run(list(CELL_AXES), {"image": frame.pixels(image)})
        cells, sizes = frame.cells()
        arrays = {
            name: np.ascontiguousarray(output.take(cells, axis=axis))
            for (name, axis), output in zip(CELL_AXES.items(), outputs, strict=True)
        }
        return EncodedImage(frame.image_hw, {**arrays, "log_sizes": np.log(sizes).astype(np.float32)})

    def prompt(
        self,
        encoded: EncodedImage,
        points: Float32[np.ndarray, "prompts points 2"],
        labels: Int64[np.ndarray, "prompts points"],
    ) -> Prompted:
        """Run the decoder up to the masks.

        Args:
            encoded: the photograph.
            points: x and y, pixels of the frame.
            labels: see `NO_POINT` and its neighbours.
        """
        inputs = {**encoded.arrays, "points": points, "labels": labels}
        cells, weights, scores, previews = self._prompts.run(["cells", "weights", "scores", "previews"], inputs)
        rows, columns = Frame(encoded.image_hw).cells_hw
        inside = rows * columns
        return Prompted(
            cells[:, :inside].reshape(len(points), rows, columns, -1),
            weights,
            scores,
            previews[..., :inside].reshape(len(points), -1, rows, columns),
        )

    def draw(
        self,
        cells: Float32[np.ndarray, "prompts rows columns channels"],
        weights: Float32[np.ndarray, "prompts masks weights"],
    ) -> Float[np.ndarray, "prompts masks height width"]:
        """Return the logits of masks, four pixels a cell in each direction.

        Args:
            cells: of `Prompted`.
            weights: of `Prompted`, of the masks that are wanted.
        """
        (logits,) = self._drawing.run(["logits"], {"cells": np.ascontiguousarray(cells), "weights": weights})
        return logits
