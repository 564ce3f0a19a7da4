"""Polygons around masks, for tools that read no run lengths."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float64, Int64

from maskwise.data.masks import Mask

Polygon = Float64[np.ndarray, "_ 2"]
"""Corners x and y, pixels, where pixel (column, row) covers column to column + 1 and row to row + 1."""
TOLERANCE = 0.5
"""Default tolerance, pixels: no pixel's centre changes sides, so pycocotools draws the same mask again."""

MAX_PARTS = 2000
"""From more parts on, each is joined to the one before it, wherever that lies: the time would grow with the square."""
MAX_PAIRS = 1_000_000
"""Maximum number of distances that are computed at once: this bounds memory."""


def mask_polygons(mask: Mask, *, tolerance: float = TOLERANCE) -> list[Polygon]:
    """Return the polygons whose union is a mask: one for each connected part, corners apart, the largest first.

    A hole becomes a part of its polygon's outline, joined to it by a cut of no width, so that formats without holes
    keep it: under the even-odd rule and under the non-zero rule the hole is not filled.

    Args:
        mask: the region.
        tolerance: maximum distance of an outline from the pixels' true edges, pixels; 0 keeps every corner.

    >>> mask_polygons(Mask.from_box((1, 0, 2, 3), (4, 8)))[0].tolist()
    [[1.0, 0.0], [3.0, 0.0], [3.0, 3.0], [1.0, 3.0]]
    """
    loops = _loops(mask.bits)
    _, labels = cv2.connectedComponents(mask.bits.view(np.uint8), connectivity=4)
    outer: dict[int, Polygon] = {}
    holes: dict[int, list[Polygon]] = {}
    for loop, (row, column) in loops:
        part = int(labels[row, column])
        polygon = _simplified(loop, tolerance)
        if _signed_area(loop) > 0:
            outer[part] = polygon
        else:
            holes.setdefault(part, []).append(polygon)
    parts = [joined([polygon, *holes.get(part, [])]) for part, polygon in outer.items()]
    offset = np.array(mask.box_xywh[:2], dtype=np.float64)
    return sorted((part + offset for part in parts), key=lambda part: -abs(_signed_area(part)))


def joined(polygons: list[Polygon]) -> Polygon:
    """Return one polygon of several, joined by cuts of no width between close corners of close ones.

    Args:
        polygons: at least one; those that turn the other way round are holes.
    """
    cuts: list[list[tuple[int, int, int]]] = [[] for _ in polygons]
    """Of each polygon: a corner, the polygon that is joined to it there, and the corner of that one."""
    for child, parent in _neighbours(np.array([polygon.mean(axis=0) for polygon in polygons])):
        here, there = _nearest_corners(polygons[parent], polygons[child])
        cuts[parent].append((here, child, there))
    parts: list[Polygon] = []
    waiting = [_pieces(polygons, cuts, 0, 0)]
    while waiting:  # Not by recursion: a chain of polygons may be long.
        step = next(waiting[-1], None)
        if step is None:
            waiting.pop()
        elif isinstance(step, tuple):
            waiting.append(_pieces(polygons, cuts, *step))
        else:
            parts.append(step)
    return np.concatenate(parts)


def _pieces(
    polygons: list[Polygon], cuts: list[list[tuple[int, int, int]]], number: int, first: int
) -> Iterator[Polygon | tuple[int, int]]:
    """Yield a polygon's corners from one of them on, and where another polygon is joined, its number and corner.

    A polygon that is joined to another ends at the corner where it began; corners with a cut come before and after it.
    """
    polygon = np.roll(polygons[number], -first, axis=0)
    start = 0
    for place, child, corner in sorted(((here - first) % len(polygon), *more) for here, *more in cuts[number]):
        yield polygon[start : place + 1]
        yield child, corner
        start = place
    yield polygon[start:]
    if number:
        yield polygon[:1]


def _neighbours(centres: Float64[np.ndarray, "n 2"]) -> Iterator[tuple[int, int]]:
    """Yield for each polygon but the first one that came before it, so that the ways between centres are short.

    Source:
        R. C. Prim, Shortest connection networks and some generalizations (1957).
    """
    if len(centres) > MAX_PARTS:
        yield from ((number, number - 1) for number in range(1, len(centres)))
        return
    distance, parent = np.full(len(centres), np.inf), np.zeros(len(centres), dtype=np.int64)
    left = np.ones(len(centres), dtype=bool)
    latest = 0
    for _ in range(len(centres) - 1):
        left[latest] = False
        from_latest = ((centres - centres[latest]) ** 2).sum(axis=1)
        closer = left & (from_latest < distance)
        distance[closer], parent[closer] = from_latest[closer], latest
        latest = int(np.where(left, distance, np.inf).argmin())
        yield latest, int(parent[latest])


def _nearest_corners(one: Polygon, other: Polygon) -> tuple[int, int]:
    """Return the place of a corner in each of two polygons; no two are closer."""
    best, nearest = np.inf, (0, 0)
    block = max(MAX_PAIRS // len(one), 1)
    for start in range(0, len(other), block):
        distances = ((one[:, None] - other[None, start : start + block]) ** 2).sum(axis=2)
        place = int(distances.argmin())
        if distances.flat[place] < best:
            best = float(distances.flat[place])
            here, there = divmod(place, distances.shape[1])
            nearest = here, start + there
    return nearest


def _signed_area(loop: Polygon) -> float:
    """Return a polygon's area: positive where it runs clockwise on the screen, as around a part."""
    x, y = loop[:, 0], loop[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _simplified(loop: Polygon, tolerance: float) -> Polygon:
    """Return a loop with fewer corners; as it is where too few would be left."""
    if not tolerance:
        return loop
    points = cv2.approxPolyDP(loop.astype(np.float32)[:, None], tolerance, closed=True)[:, 0].astype(np.float64)
    keeps_way = len(points) >= 3 and _signed_area(points) * _signed_area(loop) > 0
    return points if keeps_way else loop


def _loops(bits: np.ndarray) -> list[tuple[Polygon, tuple[int, int]]]:
    """Return the closed outlines along the pixels' edges, and a pixel of the mask that touches each.

    Edges run with the mask to their right: east above a pixel, south at its right, west below it, north at its left.
    Where two pixels touch by a corner only, the outline turns right and keeps them apart.
    """
    starts, ends, headings, pixels = _edges(np.pad(bits, 1))
    stride = bits.shape[1] + 3
    start_keys = (starts[:, 1] * stride + starts[:, 0]) * 4 + headings
    order = np.argsort(start_keys)
    end_keys = (ends[:, 1] * stride + ends[:, 0]) * 4
    right, left = end_keys + (headings + 1) % 4, end_keys + (headings + 3) % 4
    place = np.minimum(np.searchsorted(start_keys[order], right), len(order) - 1)
    turns_right = start_keys[order][place] == right
    place = np.where(turns_right, place, np.searchsorted(start_keys[order], left))
    following = order[place].tolist()
    loops = []
    seen = np.zeros(len(following), dtype=bool)
    for first in range(len(following)):
        if seen[first]:
            continue
        corners, edge = [], first
        while not seen[edge]:
            seen[edge] = True
            corners.append(edge)
            edge = following[edge]
        row, column = pixels[first].tolist()
        loops.append((starts[corners].astype(np.float64), (row, column)))
    return loops


def _edges(
    padded: np.ndarray,
) -> tuple[Int64[np.ndarray, "n 2"], Int64[np.ndarray, "n 2"], Int64[np.ndarray, " n"], Int64[np.ndarray, "n 2"]]:
    """Return straight runs of edges: starts and ends (x, y), headings (east 0, south 1, west 2, north 3), a pixel each.

    Args:
        padded: the mask with a margin of one pixel that is not set.
    """
    starts, ends, headings, pixels = [], [], [], []
    inside = padded.astype(np.int8)
    # Lines between rows run east or west; the same of the transposed mask are lines between columns.
    for heading, picture in ((0, inside), (1, inside.T)):
        change = np.diff(picture, axis=0)  # 1 where the mask begins below the line, -1 where it ends.
        for sign in (1, -1):
            edge = (change == sign).astype(np.int8)
            jumps = np.diff(np.pad(edge, ((0, 0), (1, 1))), axis=1)
            line, low = np.nonzero(jumps == 1)
            _, high = np.nonzero(jumps == -1)
            first, last = np.stack([low - 1, line], axis=1), np.stack([high - 1, line], axis=1)
            touched = np.stack([line if sign == 1 else line - 1, low - 1], axis=1)
            if heading == 1:
                first, last, touched = first[:, ::-1], last[:, ::-1], touched[:, ::-1]
            # East and north have the mask to the right of where it begins; west and south where it ends.
            forward = (sign == 1) == (heading == 0)
            starts.append(first if forward else last)
            ends.append(last if forward else first)
            headings.append(np.full(len(line), heading if forward else heading + 2, dtype=np.int64))
            pixels.append(touched)
    return np.concatenate(starts), np.concatenate(ends), np.concatenate(headings), np.concatenate(pixels)
