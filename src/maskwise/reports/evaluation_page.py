"""The page of an evaluation: its figures, a reliability diagram, and the regions that one should look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int

from maskwise.data.problems import SKIPPED
from maskwise.data.regions import read_by_image
from maskwise.reports.formatting import interval, percent
from maskwise.reports.html_report import (
    MAX_CARDS,
    Card,
    Drawing,
    Fact,
    Order,
    reliability_svg,
    thumbnail,
    write_html_report,
)
from maskwise.tasks.evaluation import Evaluation
from maskwise.tasks.metrics import reliability

RIGHT, WRONG = "right", "wrong"
ORDERS: list[tuple[Order, str]] = [
    ("given", "surest mistakes first"),
    ("doubt", "least sure first"),
    ("sure", "surest first"),
]


def write_evaluation_page(evaluation: Evaluation, path: Path) -> None:
    """Write the page; it reads the images of the regions that it shows.

    Args:
        evaluation: see `evaluate`.
        path: HTML file to write, whole or not at all.

    Raises:
        InputError: the file cannot be written there.
    """
    report, chosen = evaluation.report, regions_to_show(evaluation)
    mistakes = int((evaluation.confusion.sum() - np.trace(evaluation.confusion)).item())
    facts = [
        Fact("micro accuracy", percent(report.micro), interval(report.micro_ci95)),
        Fact("macro accuracy", percent(report.macro), interval(report.macro_ci95)),
        Fact("calibration error", percent(report.ece)),
        Fact("wrong names", str(mistakes), f"of {report.regions} regions in {report.images} images"),
        Fact("model", report.model, f"mode {report.mode}"),
    ]
    if report.background is not None:
        named = percent(report.background.named_at_95)
        facts.append(Fact("of no class, named", named, "where 95 % of the objects are kept"))
    note = (
        f"{len(chosen)} of {report.regions} regions: the wrong names, the surest first, then the right ones, the least"
        " sure first."
    )
    title = f"Evaluation of {report.model}" + (f" on {report.data}" if report.data else "")
    cards = _cards(evaluation, chosen)
    write_html_report(path, title, facts, cards, note=note, orders=ORDERS, drawings=[_reliability(evaluation)])


def regions_to_show(evaluation: Evaluation) -> Int[np.ndarray, " shown"]:
    """Return the rows of an evaluation's regions that its page shows, in order: at most `MAX_CARDS`, no crowds."""
    named = evaluation.named
    confidence, right = named.probabilities.max(axis=1), named.predicted == named.targets
    order = np.lexsort((np.where(right, confidence, -confidence), right))
    return order[~named.crowds[order]][:MAX_CARDS]


def _cards(evaluation: Evaluation, chosen: Int[np.ndarray, " shown"]) -> list[Card]:
    named, cards = evaluation.named, dict[int, Card]()
    rows = named.regions.only(chosen)
    for numbers, image, masks in read_by_image(rows, skip=SKIPPED["skip"]):
        for number, mask in zip(numbers, masks, strict=True):
            row, region = int(chosen[number]), rows[number]
            sure, predicted = float(named.probabilities[row].max()), int(named.predicted[row])
            cards[number] = Card(
                picture=thumbnail(image, mask),
                name=evaluation.classes[predicted],
                probability=sure,
                sure=sure,
                kind=RIGHT if predicted == named.targets[row] else WRONG,
                where=f"{region.image_path.name}, {region.region_id}",
                truth=region.name,
            )
    return [cards[number] for number in sorted(cards)]


def _reliability(evaluation: Evaluation) -> Drawing:
    named = evaluation.named.only(~evaluation.named.crowds)
    table = reliability(named.probabilities.max(axis=1).astype(float), named.predicted == named.targets)
    svg = reliability_svg(table.confidence.tolist(), table.accuracy.tolist(), table.counts.tolist())
    caption = (
        "Reliability: the share of right names over their predicted probability. On the line, probabilities are what"
        " they say; larger dots hold more regions."
    )
    return Drawing(svg, caption)
