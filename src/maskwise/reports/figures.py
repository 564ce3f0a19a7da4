"""Draw the figures of an evaluation. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from maskwise.data.atomic_files import whole_file
from maskwise.reports.formatting import percent
from maskwise.tasks.evaluation import COCO_BOUNDS, COCO_SIZES, PUBLISHED_BOUNDS
from maskwise.tasks.evaluation_report import BySize, SizeBin

BLUE, GREY = "#1f5fa8", "#777777"
MAX_LABELS = 150
"""With more classes the confusion matrix has no labels: they would not be readable."""


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all, without the name of the program that drew it in it."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})


def confusion_figure(confusion: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix: a row for each class that has regions, as shares of the row.

    Args:
        confusion: number of regions by true class (row) and predicted class (column).
        classes: names of the classes.
    """
    present = np.flatnonzero(confusion.sum(axis=1))
    names = [classes[i] for i in present.tolist()]
    shares = confusion[present] / confusion[present].sum(axis=1, keepdims=True)
    other = 1 - shares[:, present].sum(axis=1, keepdims=True)
    columns = list(names)
    if other.max() > 1e-9:  # Classes without a region have no row; predictions of them share one column.
        columns.append("(other)")
    cells = np.hstack([shares[:, present], other])[:, : len(columns)]
    side = min(0.19 * len(columns) + 3.2, 30)
    figure = Figure(figsize=(side + 0.6, side), dpi=110, layout="compressed")
    axes = figure.subplots()
    # The square root makes a share of 5 % visible beside a diagonal near 100 %.
    image = axes.imshow(cells, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest", aspect="equal")
    _label_confusion(axes, names, columns)
    if len(columns) <= 20:
        _write_cells(axes, cells)
    ticks, shrink = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1], 0.5 if len(columns) > 20 else 1
    bar = figure.colorbar(image, ax=axes, ticks=ticks, format=PercentFormatter(1, decimals=0), shrink=shrink, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label("share of the true class, colour by its square root")
    axes.set_title("Confusion matrix")
    return figure


def _label_confusion(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(columns) > MAX_LABELS:
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


def size_figure(by_size: BySize) -> Figure:
    """Draw micro accuracy over the published size bins, with intervals and counts, and COCO's sizes.

    Args:
        by_size: see `Report`.
    """
    # The outermost bins are open; they are drawn one octave wide, like most others.
    edges = np.array([PUBLISHED_BOUNDS[0] / 2, *PUBLISHED_BOUNDS, PUBLISHED_BOUNDS[-1] * 2])
    bins = list(by_size.published.values())
    drawn = [i for i, one in enumerate(bins) if one.regions]
    figure = Figure(figsize=(9.5, 5.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    _draw_bins(axes, np.sqrt(edges[:-1] * edges[1:])[drawn], [bins[i] for i in drawn])
    shown = slice(drawn[0], drawn[-1] + 2)
    _label_sizes(axes, edges[shown], _edge_labels()[shown])
    _mark_coco(axes, by_size.coco, edges[shown][0], edges[shown][-1])
    return figure


def _draw_bins(axes: Axes, centres: np.ndarray, bins: Sequence[SizeBin]) -> None:
    micro = np.array([one.micro for one in bins], dtype=float)
    ends = np.array([one.micro_ci95 for one in bins])
    axes.errorbar(centres, micro, yerr=np.abs(ends.T - micro), fmt="o-", color=BLUE, capsize=3, linewidth=1.2)
    for x, one in zip(centres, bins, strict=True):
        axes.text(x, -0.02, f"n = {one.regions}", ha="center", va="top", fontsize=7.5, color=GREY)


def _label_sizes(axes: Axes, edges: np.ndarray, labels: Sequence[str]) -> None:
    axes.set(xscale="log", xlim=(edges[0], edges[-1]), ylim=(-0.08, 1.2))
    axes.set_xticks(edges, labels)
    axes.set_xticks([], minor=True)
    axes.set_yticks(np.arange(0, 1.01, 0.1))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="pixels of the mask", ylabel="micro accuracy, with 95 % interval")
    axes.set_title("Accuracy by size of the region")


def _edge_labels() -> list[str]:
    inner = [f"{bound // 1000}k" if bound < 1_000_000 else f"{bound // 1_000_000}M" for bound in PUBLISHED_BOUNDS]
    return ["0", *inner, "all"]


def _mark_coco(axes: Axes, coco: Mapping[str, SizeBin], low: float, high: float) -> None:
    """Draw the bounds of COCO's sizes as lines, and their accuracies at the top."""
    bounds = [low, *COCO_BOUNDS, high]
    for bound in COCO_BOUNDS:
        if low < bound < high:
            axes.axvline(bound, color=GREY, linestyle="--", linewidth=0.9)
    for name, (left, right) in zip(COCO_SIZES, pairwise(np.clip(bounds, low, high)), strict=True):
        if left >= right or not coco[name].regions:
            continue
        text = f"COCO {name}\n{percent(coco[name].micro)}\nn = {coco[name].regions}"
        axes.text(np.sqrt(left * right), 1.19, text, ha="center", va="top", fontsize=8, color=GREY)
