"""Figures of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from maskwise.data.atomic_files import whole_file
from maskwise.reports.formatting import percent
from maskwise.tasks.evaluation import (
    COCO_BOUNDS,
    COCO_SIZES,
    PUBLISHED_BOUNDS,
)

BLUE, GREY = "#1f5fa8", "#777777"


MOST_LABELS = 150
"""With more classes the confusion picture has no labels: they would not be readable."""


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all, without the name of the program that drew it."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})


def confusion_figure(confusion: np.ndarray, classes: Sequence[str]) -> Figure:
    """The confusion matrix as a heat map: a row a class that has regions, shares of the row.

    Args:
        confusion: counts, true class x given name.
        classes: the names of rows and columns.
    """
    present = np.flatnonzero(confusion.sum(axis=1))
    names = [classes[i] for i in present]
    shares = confusion[present] / confusion[present].sum(axis=1, keepdims=True)
    other = 1 - shares[:, present].sum(axis=1, keepdims=True)
    columns = list(names)
    if other.max() > 1e-9:  # Names whose own class has no region here would be empty rows: they share one column.
        columns.append("(another)")
    cells = np.hstack([shares[:, present], other])[:, : len(columns)]
    side = min(0.19 * len(columns) + 3.2, 30)
    figure = Figure(figsize=(side + 0.6, side), dpi=110, layout="compressed")
    axes = figure.subplots()
    # The root makes a confusion of one in twenty visible beside a diagonal near one.
    image = axes.imshow(cells, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    _label_confusion(axes, names, columns)
    if len(columns) <= 20:
        _write_cells(axes, cells)
    ticks, shrink = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1], 0.5 if len(columns) > 20 else 1
    bar = figure.colorbar(image, ax=axes, ticks=ticks, format=PercentFormatter(1, decimals=0), shrink=shrink, aspect=30)
    bar.outline.set_visible(False)
    axes.set_title("Share of each class's regions by the name they got")
    return figure


def _label_confusion(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set(xlabel="given name", ylabel="true class")
    if len(columns) > MOST_LABELS:
        axes.set(xticks=[], yticks=[])
        return
    size = 7.5 if len(columns) > 20 else 9
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size)
    axes.set_yticks(range(len(rows)), rows, fontsize=size)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="#e6e6e6", linewidth=0.5)
    axes.tick_params(which="minor", length=0)


def _write_cells(axes: Axes, cells: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(cells):
        if share >= 0.005:
            colour = "white" if share > 0.4 else "black"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)


def size_figure(by_size: dict[str, Any]) -> Figure:
    """Accuracy over the published size bins, with Wilson's intervals and counts, and COCO's sizes marked.

    Args:
        by_size: see `Evaluation.report`.
    """
    # The outermost bins are open; they are drawn an octave wide, like most others.
    edges = np.array([PUBLISHED_BOUNDS[0] / 2, *PUBLISHED_BOUNDS, PUBLISHED_BOUNDS[-1] * 2])
    bins = list(by_size["published"].values())
    drawn = [i for i, found in enumerate(bins) if found["regions"]]
    figure = Figure(figsize=(9.5, 5.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    _draw_bins(axes, np.sqrt(edges[:-1] * edges[1:])[drawn], [bins[i] for i in drawn])
    shown = slice(drawn[0], drawn[-1] + 2)
    _label_sizes(axes, edges[shown], _edge_labels()[shown])
    _mark_coco(axes, by_size["coco"], edges[shown][0], edges[shown][-1])
    return figure


def _draw_bins(axes: Axes, centres: np.ndarray, bins: Sequence[dict[str, Any]]) -> None:
    micro = np.array([found["micro"] for found in bins])
    ends = np.array([found["micro_ci95"] for found in bins])
    axes.errorbar(centres, micro, yerr=np.abs(ends.T - micro), fmt="o-", color=BLUE, capsize=3, linewidth=1.2)
    for x, found in zip(centres, bins, strict=True):
        axes.text(x, -0.02, f"n = {found['regions']}", ha="center", va="top", fontsize=7.5, color=GREY)


def _label_sizes(axes: Axes, edges: np.ndarray, labels: Sequence[str]) -> None:
    axes.set(xscale="log", xlim=(edges[0], edges[-1]), ylim=(-0.08, 1.2))
    axes.set_xticks(edges, labels)
    axes.set_xticks([], minor=True)
    axes.set_yticks(np.arange(0, 1.01, 0.1))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="pixels of the mask", ylabel="accuracy (micro), with 95 % interval")
    axes.set_title("Accuracy by size of the region")


def _edge_labels() -> list[str]:
    inner = [f"{bound // 1000}k" if bound < 1_000_000 else f"{bound // 1_000_000}M" for bound in PUBLISHED_BOUNDS]
    return ["0", *inner, "all"]


def _mark_coco(axes: Axes, coco: dict[str, Any], low: float, high: float) -> None:
    """COCO's bounds as lines, and what each of its sizes reached, at the top."""
    bounds = [low, *COCO_BOUNDS, high]
    for bound in COCO_BOUNDS:
        if low < bound < high:
            axes.axvline(bound, color=GREY, linestyle="--", linewidth=0.9)
    for name, (left, right) in zip(COCO_SIZES, pairwise(np.clip(bounds, low, high)), strict=True):
        if left >= right or not coco[name]["regions"]:
            continue
        text = f"COCO {name}\n{percent(coco[name]['micro'])}\nn = {coco[name]['regions']}"
        axes.text(np.sqrt(left * right), 1.19, text, ha="center", va="top", fontsize=8, color=GREY)
