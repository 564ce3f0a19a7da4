"""The segmenter: a photograph in, outlines of the things in it out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from maskwise.concurrency import map_in_threads
from maskwise.data.images import ImageSource, as_pixels
from maskwise.data.masks import Mask
from maskwise.errors import InputError
from maskwise.model.predictor import MAX_THREADS
from maskwise.model.segment_candidates import Candidates, Drawn, grid_rounds, shown, stability
from maskwise.model.segment_frame import CELL, STRIDE, Frame
from maskwise.model.segment_network import (
    FIRST_CORNER,
    LAST_CORNER,
    NO_POINT,
    PART,
    EncodedImage,
    Prompted,
    SegmenterNetwork,
)
from maskwise.model.session import available_cores, built_in_model

BATCH = 4
"""Number of prompts per batch."""
CHUNK = 32
"""Number of prompts between two looks at what has been found: fixed, so that results do not depend on the threads."""
MAX_POINTS_PER_SIDE = 128
"""Maximum number of points in each direction: more lie closer than the network can tell apart."""
MAX_POINTS = 256
"""Maximum number of points of one prompt: this bounds memory."""
MIN_SCORE = 0.7
"""Default of the smallest predicted IoU of a segment."""
MIN_STABILITY = 0.7
"""Default of the smallest stability of a segment."""
MAX_OVERLAP = 0.7
"""Default of the largest IoU of two segments."""
NOTHING = -8.0
"""Logit of pixels that are not drawn."""
COVERED_SCORE, COVERED_TIMES = 0.95, 3
"""A point of the grid is skipped if this many segments of at least this score cover it.

Of 528 objects in 40 photographs (COCO train2017, 2026-11-27), 61.2 % were found at IoU 0.5 and 38.5 % at 0.7, with or
without it; it skips 5 % of the points. Two segments of 0.95: 60.6 and 38.1 %, 25 %. Two of 0.9: 58.3 and 36.2 %, 44 %.
"""


@dataclass(frozen=True, eq=False)
class Segment:
    """The outline of one thing, or of a part of it.

    Attributes:
        mask: its pixels.
        score: the IoU with the true outline that the network predicts, 0 to 1.
        stability: the IoU of the mask drawn at a higher and at a lower threshold, 0 to 1.
    """

    mask: Mask
    score: float
    stability: float


class Segmenter:
    """Outlines things in photographs: all of them, or the one under a click or in a box.

    Opening takes a moment; keep it and call it often. Several threads may use one segmenter. A copy, by `pickle` or
    `copy`, opens the same files again.

    Source:
        MobileSAM: C. Zhang et al., Faster segment anything, arXiv:2306.14289. Our decoder computes the same numbers in
        another order, and masks that look like better ones are not drawn.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, threads: int | None = None) -> None:
        """Open the network.

        Args:
            folder: where its three files lie, as `recipes/fetch_segmenter.py` writes them (default: the built-in ones).
            threads: CPU threads (default: all cores that this process may use).

        Raises:
            InputError: threads outside 1 to 1,024.
            ModelError: a file is missing or cannot be used.
        """
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise InputError(f"{threads} threads; give 1 to {MAX_THREADS}")
        files = Path(folder).absolute() if folder is not None else built_in_model().parent
        self._arguments = {"folder": files, "threads": threads}
        self._workers = threads or available_cores()
        self._network = SegmenterNetwork(files, threads)

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def encode(self, image: ImageSource) -> EncodedImage:
        """Return what all prompts of a photograph share; this takes most of the time of a click.

        Args:
            image: height x width x 3, uint8, RGB; or what `load_image` takes, such as a path.

        Raises:
            ImageError: the image has another shape or type, or cannot be read.
        """
        return self._network.encode(as_pixels(image))

    def prompt(
        self,
        encoded: EncodedImage,
        *,
        points: Sequence[Sequence[float]] | np.ndarray = (),
        labels: Sequence[int] | np.ndarray | None = None,
        box_xywh: Sequence[float] | None = None,
    ) -> Segment:
        """Outline the one thing that points or a box show.

        A single click could mean a thing or a part of it: of three masks the one with the largest predicted IoU is
        returned. More points, or a box, say which.

        Args:
            encoded: of `encode`.
            points: N x 2: x and y, pixels from the image's left top corner.
            labels: 1 for each point that is part of the thing, 0 for each that is not (default: all 1).
            box_xywh: left, top, width and height of a box around the thing, pixels.

        Raises:
            InputError: neither a point with label 1 nor a box; points outside the image, too many, or not numbers;
                labels other than 0 and 1, or another number of them; or there is nothing there.
            MaskError: the box has no width or height, or lies outside the image.
        """
        frame = Frame(encoded.image_hw)
        places = _checked_points(points, encoded.image_hw)
        kinds = _checked_labels(labels, len(places), needed=box_xywh is None)
        if box_xywh is None:
            places, kinds = np.concatenate([places, [[0, 0]]]), np.append(kinds, NO_POINT)
        else:
            Mask.from_box(box_xywh, encoded.image_hw)
            x, y, width, height = box_xywh
            places = np.concatenate([places, [[x, y], [x + width, y + height]]])
            kinds = np.concatenate([kinds, [FIRST_CORNER, LAST_CORNER]])
        in_frame = np.where(kinds[:, None] == NO_POINT, 0, frame.points(places)).astype(np.float32)
        prompted = self._network.prompt(encoded, in_frame[None], kinds[None])
        one_click = box_xywh is None and len(places) == 2
        wanted = slice(1, None) if one_click else slice(0, 1)
        logits = self._network.draw(prompted.cells, prompted.weights[:, wanted])[0]
        scores, stabilities = np.clip(prompted.scores[0, wanted], 0, 1), stability(logits)
        for place in np.argsort(-scores, kind="stable").tolist():
            mask = frame.mask(logits[place])
            if mask is not None:
                return Segment(mask, float(scores[place]), float(stabilities[place]))
        raise InputError("the network sees nothing at this place; click on another part of the thing, or draw its box")

    def segment(
        self,
        image: ImageSource,
        *,
        points_per_side: int = 24,
        min_score: float = MIN_SCORE,
        min_stability: float = MIN_STABILITY,
        max_overlap: float = MAX_OVERLAP,
    ) -> list[Segment]:
        """Outline everything: things, their parts, and what they stand on; the best first.

        Every point of a grid is a click, from coarse to fine; points that three very good segments already cover
        are skipped.

        Args:
            image: height x width x 3, uint8, RGB; or what `load_image` takes, such as a path.
            points_per_side: points of the grid in each direction, 1 to 128; more find smaller things and take longer.
            min_score: smallest predicted IoU, 0 to 1.
            min_stability: smallest stability, 0 to 1.
            max_overlap: of two segments with a larger IoU the better one stays, 0 to 1.

        Raises:
            ImageError: the image has another shape or type, or cannot be read.
            InputError: a number outside its range.
        """
        if not 1 <= points_per_side <= MAX_POINTS_PER_SIDE:
            raise InputError(f"{points_per_side} points per side; give 1 to {MAX_POINTS_PER_SIDE}")
        for name, share in (("score", min_score), ("stability", min_stability), ("overlap", max_overlap)):
            if not 0 <= share <= 1:
                raise InputError(f"{name} {share}; give 0 to 1")
        encoded = self.encode(image)
        frame = Frame(encoded.image_hw)
        candidates = Candidates(frame.cells_hw, max_overlap)
        for shares in grid_rounds(points_per_side):
            points = frame.points(shares * encoded.image_hw[::-1])
            places = (points[:, ::-1] / STRIDE).astype(np.int64)
            points = points[~candidates.covered(places, COVERED_SCORE, COVERED_TIMES)]
            for start in range(0, len(points), CHUNK):
                self._search(encoded, points[start : start + CHUNK], candidates, min_score, min_stability)
        masks = ((frame.mask(logits), score, steady) for logits, score, steady in candidates)
        return [Segment(mask, score, steady) for mask, score, steady in masks if mask is not None]

    def _search(
        self,
        encoded: EncodedImage,
        points: Float32[np.ndarray, "points 2"],
        candidates: Candidates,
        min_score: float,
        min_stability: float,
    ) -> None:
        """Add what single clicks show to the candidates.

        The clicks of a chunk know the candidates of earlier chunks only, so the result does not depend on the threads.

        Args:
            encoded: the photograph.
            points: pixels of the frame, at most `CHUNK`.
            candidates: what is known already; masks that look like a better one of these are not drawn.
            min_score: smallest predicted IoU.
            min_stability: smallest stability.
        """

        def search(batch: Float32[np.ndarray, "points 2"]) -> list[Drawn]:
            places = np.stack([batch, np.zeros_like(batch)], axis=1)
            clicked = self._network.prompt(encoded, places, np.tile(np.array([PART, NO_POINT]), (len(batch), 1)))
            clicked = clicked.of_single_clicks()
            wanted = (clicked.scores >= min_score) & candidates.may_be_new(clicked, min_stability)
            return [
                self._drawn(clicked, number, wanted[number], batch[number]).steadier_than(min_stability)
                for number in np.flatnonzero(wanted.any(axis=1)).tolist()
            ]

        batches = (points[start : start + BATCH] for start in range(0, len(points), BATCH))
        results = list(map_in_threads(search, batches, self._workers))
        candidates.add([drawn for result in results for drawn in result])

    def _drawn(
        self,
        clicked: Prompted,
        number: int,
        wanted: Bool[np.ndarray, " masks"],
        point: Float32[np.ndarray, " xy"],
    ) -> Drawn:
        """Draw masks of one click, only where their previews show something.

        Args:
            clicked: the answers to single clicks.
            number: which of the clicks.
            wanted: which of its masks.
            point: the click, pixels of the frame.
        """
        previews = clicked.previews[number, wanted]
        rows, columns = shown(previews, (point[::-1] / CELL).astype(np.int64))
        cells = clicked.cells[number : number + 1, rows, columns]
        logits = np.full((len(previews), *(STRIDE * side for side in previews.shape[1:])), NOTHING, dtype=np.float16)
        inside = tuple(slice(STRIDE * span.start, STRIDE * span.stop) for span in (rows, columns))
        logits[:, *inside] = self._network.draw(cells, clicked.weights[number : number + 1, wanted])[0]
        return Drawn(logits, previews, clicked.scores[number, wanted], stability(logits))


def _checked_points(
    points: Sequence[Sequence[float]] | np.ndarray, image_hw: tuple[int, int]
) -> Float64[np.ndarray, "points 2"]:
    places = np.asarray(points, dtype=np.float64).reshape(-1, 2) if len(points) == 0 else np.asarray(points, np.float64)
    if places.ndim != 2 or places.shape[1] != 2 or len(places) > MAX_POINTS:
        raise InputError(f"points have shape {places.shape}; accepted are N x 2, x and y, at most {MAX_POINTS}")
    height, width = image_hw
    outside = ~((places >= 0) & (places <= (width, height))).all(axis=1)
    if outside.any():
        x, y = places[outside][0].tolist()
        raise InputError(f"the point {x:g},{y:g} lies outside the image of width {width} and height {height}")
    return places


def _checked_labels(
    labels: Sequence[int] | np.ndarray | None, points: int, *, needed: bool
) -> Int64[np.ndarray, " points"]:
    kinds = np.ones(points, dtype=np.int64) if labels is None else np.asarray(labels).reshape(-1)
    if len(kinds) != points or not np.isin(kinds, (0, 1)).all():
        raise InputError(f"labels {kinds.tolist()[:5]} for {points} points; give 1 (part of the thing) or 0 for each")
    if needed and not (kinds == 1).any():
        raise InputError("no point that is part of the thing; give one, or a box")
    return kinds.astype(np.int64)
