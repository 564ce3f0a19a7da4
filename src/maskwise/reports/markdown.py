"""Write an evaluation as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from maskwise.reports.formatting import interval, percent, table
from maskwise.tasks.evaluation import COCO_SIZES, NOISE_STRENGTH, PUBLISHED_BOUNDS
from maskwise.tasks.evaluation_report import BackgroundResult, BySize, ClassResult, Protocol, Report, SizeBin

CONFUSION, BY_SIZE = "confusion.png", "accuracy-by-size.png"
"""The pictures that the page shows; they lie beside it."""
LISTED_CLASSES = 10
"""Number of best and of worst classes listed."""
LISTED_CONFUSIONS = 15
"""Maximum number of confusions listed."""


def report_markdown(report: Report, *, pictures: bool = True) -> str:
    """Return the page `report.md`.

    Args:
        report: the numbers.
        pictures: whether the page shows the pictures beside it.
    """
    by_size, confusion = (
        ([f"![Accuracy by size]({BY_SIZE})"], [f"![Confusion matrix]({CONFUSION})"]) if pictures else ([], [])
    )
    sections = (
        [f"# Evaluation of {report.model}", _introduction(report), _headline_table(report)],
        ["## By size of the region", *by_size, *_size_tables(report.by_size)],
        _noise_section(report),
        _background_section(report.background),
        ["## By class", *_class_tables(report.per_class)],
        ["## Confusions", *confusion, _confusion_table(report)],
        ["## Published protocols", _protocol_text(), _protocol_table(report.protocols)],
        _unknown_section(report.unknown_classes),
    )
    return "\n\n".join(part for section in sections for part in section if part) + "\n"


def _introduction(report: Report) -> str:
    data = f" of {report.data}" if report.data else ""
    shared = "" if report.mode == "exact" else f" Regions of an image share crops (mode {report.mode})."
    faults = f" {report.faults} faults in the data are left out (problems.json lists them)." if report.faults else ""
    return (
        f"{report.regions} regions in {report.images} images{data}, in {report.seconds:.0f} seconds.{shared}"
        f" {report.crowds} crowds are left out, except in the published protocols.{faults} Intervals are 95 %:"
        " bootstrap over images for all regions together, Wilson's for a single class or size."
    )


def _headline_table(report: Report) -> str:
    return table(("measure", "value", "95 % interval"), headline_rows(report))


def headline_rows(report: Report) -> list[tuple[str, str, str]]:
    """Return the main numbers: name, value, 95 % interval or nothing."""
    return [
        ("micro accuracy", percent(report.micro), interval(report.micro_ci95)),
        ("macro accuracy (mean per class)", percent(report.macro), interval(report.macro_ci95)),
        ("top-5 accuracy", percent(report.top5), ""),
        ("expected calibration error (ECE)", percent(report.ece), ""),
        ("log loss", f"{report.log_loss:.3f}", ""),
    ]


def _size_tables(by_size: BySize) -> list[str]:
    return [
        "COCO's sizes, by the area that the annotations state (small: below 32 x 32 pixels, medium: below 96 x 96):",
        _size_table(list(COCO_SIZES), by_size.coco),
        "The published bins, by pixels of the mask:",
        _size_table(published_labels(), by_size.published),
    ]


def published_labels() -> list[str]:
    """Return the names of the published size bins, in order.

    >>> published_labels()[:2], published_labels()[-1]
    (['below 1000', '1000 to 2000'], '1000000 and above')
    """
    inner = [f"{low} to {high}" for low, high in pairwise(PUBLISHED_BOUNDS)]
    return [f"below {PUBLISHED_BOUNDS[0]}", *inner, f"{PUBLISHED_BOUNDS[-1]} and above"]


def _size_table(labels: Sequence[str], bins: Mapping[str, SizeBin]) -> str:
    return table(
        ("size", "regions", "micro accuracy", "95 % interval", "macro accuracy"),
        (
            (label, one.regions, percent(one.micro), interval(one.micro_ci95), percent(one.macro))
            for label, one in zip(labels, bins.values(), strict=True)
            if one.regions
        ),
    )


def _class_tables(per_class: Mapping[str, ClassResult]) -> list[str]:
    order = sorted(per_class.items(), key=lambda item: (item[1].accuracy, item[1].ci95))
    if len(order) <= 2 * LISTED_CLASSES:
        return ["From the worst to the best:", _class_table(order)]
    worst, best = order[:LISTED_CLASSES], order[: -LISTED_CLASSES - 1 : -1]
    return [f"The {LISTED_CLASSES} worst:", _class_table(worst), f"The {LISTED_CLASSES} best:", _class_table(best)]


def _class_table(classes: Iterable[tuple[str, ClassResult]]) -> str:
    rows = [
        (name, one.regions, percent(one.accuracy), interval(one.ci95), one.most_confused_with or "")
        for name, one in classes
    ]
    return table(("class", "regions", "accuracy", "95 % interval", "most often predicted instead"), rows)


def _confusion_table(report: Report) -> str:
    if not report.confusions:
        return "Every region is predicted right."
    rows = [
        (pair.true, pair.predicted, pair.count, percent(pair.count / report.per_class[pair.true].regions))
        for pair in report.confusions[:LISTED_CONFUSIONS]
    ]
    return table(("true class", "predicted", "regions", "of the class"), rows)


def _noise_section(report: Report) -> list[str]:
    if not report.mask_noise:
        return []
    text = (
        f"The same regions with masks dilated or eroded by {percent(NOISE_STRENGTH)} of the region's size (square"
        f" root of its area), shifted by {percent(NOISE_STRENGTH * 2 / 3)} of it, and replaced by their boxes:"
    )
    rows = [("exact", percent(report.micro), percent(report.macro))]
    rows += [(kind, percent(one.micro), percent(one.macro)) for kind, one in report.mask_noise.items()]
    return ["## Mask noise", text, table(("masks", "micro accuracy", "macro accuracy"), rows)]


def _background_section(result: BackgroundResult | None) -> list[str]:
    if result is None:
        return []
    text = (
        f"{result.regions} regions of {result.images} images are none of the classes. A probability of being one of the"
        f" classes at all tells objects from them with an AUROC of {result.auroc:.3f}. At the limits of this evaluation"
        f" {percent(result.objects_kept)} of the objects and {percent(result.named)} of these regions get a name:"
        f" {result.false_names_per_image:.1f} false names per image."
    )
    rows = [(percent(kept), percent(named)) for kept, named in result.curve]
    return ["## None of these", text, table(("objects named", "regions of no class named"), rows)]


def _protocol_text() -> str:
    return (
        "For each class the first images that have it, in the annotations' order, and every annotation of the class in"
        " them, crowds included (S. Eppel, arXiv:1812.00291). There are few regions per class: compare with published"
        " numbers, not with the table at the top."
    )


def _protocol_table(protocols: Mapping[str, Protocol]) -> str:
    header = ("protocol", "images per class", "classes", "regions", "macro accuracy", "micro accuracy")
    rows = [
        (name, one.images_per_class, one.classes, one.regions, percent(one.mean_of_class), percent(one.overall))
        for name, one in protocols.items()
    ]
    return table(header, rows)


def _unknown_section(unknown: Mapping[str, int]) -> list[str]:
    if not unknown:
        return []
    return ["## Left out: classes that the model does not know", table(("class", "regions"), unknown.items())]
