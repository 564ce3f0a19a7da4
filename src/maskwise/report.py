"""An evaluation as a folder: numbers, a page to read, and two pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from maskwise.evaluate import (
    COCO_BOUNDS,
    COCO_SIZES,
    PREDICTION_COLUMNS,
    PUBLISHED_BOUNDS,
    SLOPPY_STRENGTH,
    Evaluation,
)
from maskwise.files import make_folder, whole_file, write_json, write_text

CONFUSION, BY_SIZE = "confusion.png", "accuracy-by-size.png"
LISTED_CLASSES = 10
"""As many best and worst classes are listed."""
LISTED_CONFUSIONS = 15
BLUE, GREY = "#1f5fa8", "#777777"
MOST_LABELS = 150
"""With more classes the confusion picture has no labels: they would not be readable."""


def write_report(evaluation: Evaluation, folder: str | os.PathLike[str]) -> None:
    """Write `report.json`, `report.md`, `predictions.json` and the pictures; each file appears whole, report.json last.

    `predictions.json` has `columns` and `data`, a row per region: pandas reads it with `orient="split"`.

    Args:
        evaluation: what was found.
        folder: made if missing; files of these names in it are replaced.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    folder = make_folder(folder)
    save_figure(confusion_figure(evaluation.confusion, evaluation.classes), folder / CONFUSION)
    save_figure(size_figure(evaluation.report["by_size"]), folder / BY_SIZE)
    rows = {"columns": PREDICTION_COLUMNS, "data": evaluation.predictions}
    write_json(folder / "predictions.json", rows, indent=None)
    write_text(folder / "report.md", markdown(evaluation.report))
    write_json(folder / "report.json", evaluation.report)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all, without the name of the program that drew it."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})


def markdown(report: dict[str, Any]) -> str:
    """The page to read: `report.md`.

    Args:
        report: see `Evaluation.report`.
    """
    sections = (
        [f"# Evaluation of {report['model']}", _introduction(report), _headline_table(report)],
        ["## By size of the region", f"![Accuracy by size]({BY_SIZE})", *_size_tables(report["by_size"])],
        _sloppy_section(report),
        ["## By class", *_class_tables(report["per_class"])],
        ["## Confusions", f"![Confusion matrix]({CONFUSION})", _confusion_table(report)],
        ["## Published protocols", _protocol_text(), _protocol_table(report["protocols"])],
        _unknown_section(report["unknown_classes"]),
    )
    return "\n\n".join(part for section in sections for part in section if part) + "\n"


def _introduction(report: dict[str, Any]) -> str:
    data = f" of {report['data']}" if report["data"] else ""
    shared = "" if report["mode"] == "exact" else f" Regions of an image share views (mode {report['mode']})."
    return (
        f"{report['regions']} regions in {report['images']} images{data}, in {report['seconds']:.0f} seconds.{shared}"
        f" {report['crowds']} crowds are left out, except in the published protocols. Intervals are 95 %: from drawing"
        " the images anew for all regions together, Wilson's where a class or a size stands alone."
    )


def _headline_table(report: dict[str, Any]) -> str:
    return table(
        ("measure", "value", "95 % interval"),
        (
            ("accuracy over regions (micro)", percent(report["micro"]), interval(report["micro_ci95"])),
            ("mean of the classes' accuracies (macro)", percent(report["macro"]), interval(report["macro_ci95"])),
            ("right name among the five most probable", percent(report["top5"]), ""),
            ("expected calibration error", percent(report["ece"]), ""),
        ),
    )


def _size_tables(by_size: dict[str, Any]) -> list[str]:
    return [
        "COCO's sizes, by the area that the annotations state (small: below 32 x 32 pixels, medium: below 96 x 96):",
        _size_table(list(COCO_SIZES), by_size["coco"]),
        "The published bins, by pixels of the mask:",
        _size_table(published_labels(), by_size["published"]),
    ]


def published_labels() -> list[str]:
    """What the published size bins are called, in order.

    >>> published_labels()[:2], published_labels()[-1]
    (['below 1000', '1000 to 2000'], '1000000 and above')
    """
    inner = [f"{low} to {high}" for low, high in pairwise(PUBLISHED_BOUNDS)]
    return [f"below {PUBLISHED_BOUNDS[0]}", *inner, f"{PUBLISHED_BOUNDS[-1]} and above"]


def _size_table(labels: Sequence[str], bins: dict[str, Any]) -> str:
    return table(
        ("size", "regions", "micro", "95 % interval", "macro"),
        (
            (label, found["regions"], percent(found["micro"]), interval(found["micro_ci95"]), percent(found["macro"]))
            for label, found in zip(labels, bins.values(), strict=True)
            if found["regions"]
        ),
    )


def _class_tables(per_class: dict[str, Any]) -> list[str]:
    order = sorted(per_class.items(), key=lambda item: (item[1]["accuracy"], item[1]["ci95"]))
    if len(order) <= 2 * LISTED_CLASSES:
        return ["From the worst to the best:", _class_table(order)]
    worst, best = order[:LISTED_CLASSES], order[: -LISTED_CLASSES - 1 : -1]
    return [f"The {LISTED_CLASSES} worst:", _class_table(worst), f"The {LISTED_CLASSES} best:", _class_table(best)]


def _class_table(classes: Iterable[tuple[str, dict[str, Any]]]) -> str:
    rows = [
        (name, c["regions"], percent(c["accuracy"]), interval(c["ci95"]), c["most_confused_with"] or "")
        for name, c in classes
    ]
    return table(("class", "regions", "accuracy", "95 % interval", "most often taken for"), rows)


def _confusion_table(report: dict[str, Any]) -> str:
    if not report["confusions"]:
        return "No region got a wrong name."
    totals = {name: found["regions"] for name, found in report["per_class"].items()}
    rows = [
        (pair["true"], pair["predicted"], pair["count"], percent(pair["count"] / totals[pair["true"]]))
        for pair in report["confusions"][:LISTED_CONFUSIONS]
    ]
    return table(("true class", "named", "regions", "of the class"), rows)


def _sloppy_section(report: dict[str, Any]) -> list[str]:
    if not report["sloppy"]:
        return []
    text = (
        f"The same regions under masks dilated or eroded by {percent(SLOPPY_STRENGTH)} of the region's size (square"
        f" root of its area), shifted by {percent(SLOPPY_STRENGTH * 2 / 3)} of it in some direction, and replaced by"
        " their boxes:"
    )
    rows = [("exact", percent(report["micro"]), percent(report["macro"]))]
    rows += [(kind, percent(found["micro"]), percent(found["macro"])) for kind, found in report["sloppy"].items()]
    return ["## Under sloppy masks", text, table(("masks", "micro", "macro"), rows)]


def _protocol_text() -> str:
    return (
        "Of each class the first images that have it, in the annotations' order, and every annotation of the class in"
        " them, crowds included (S. Eppel, arXiv:1812.00291). Few regions a class: compare with published numbers,"
        " not with the table at the top."
    )


def _protocol_table(protocols: dict[str, Any]) -> str:
    counts = ("images_per_class", "classes", "regions")
    rows = [
        (name, *(found[key] for key in counts), percent(found["mean_of_class"]), percent(found["overall"]))
        for name, found in protocols.items()
    ]
    return table(("protocol", "images a class", "classes", "regions", "mean of classes", "overall"), rows)


def _unknown_section(unknown: dict[str, int]) -> list[str]:
    if not unknown:
        return []
    return ["## Left out: classes that the model does not know", table(("class", "regions"), unknown.items())]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""A Markdown table.

    >>> print(table(("a", "b"), [(1, "x|y")]))
    | a | b |
    |---|---|
    | 1 | x\|y |
    """
    lines = [header, *rows]
    texts = ["| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines]
    return "\n".join([texts[0], "|" + "---|" * len(header), *texts[1:]])


def percent(share: float | None) -> str:
    """A share of 0 to 1 as text.

    >>> percent(0.1234), percent(None)
    ('12.3 %', '')
    """
    return "" if share is None else f"{share:.1%}".replace("%", " %")


def interval(ends: Sequence[float]) -> str:
    """An interval of shares as text.

    >>> interval((0.1, 0.25))
    '10.0 to 25.0 %'
    """
    return f"{100 * ends[0]:.1f} to {percent(ends[1])}"


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
