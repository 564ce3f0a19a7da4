"""An evaluation as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from maskwise.reports.formatting import interval, percent, table
from maskwise.tasks.evaluation import COCO_SIZES, PUBLISHED_BOUNDS, SLOPPY_STRENGTH

CONFUSION, BY_SIZE = "confusion.png", "accuracy-by-size.png"
"""The pictures that the page shows; they lie beside it."""
LISTED_CLASSES = 10
"""Number of best and of worst classes listed."""
LISTED_CONFUSIONS = 15
"""Maximum number of confusions listed."""


def report_markdown(report: dict[str, Any]) -> str:
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
