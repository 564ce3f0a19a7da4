"""The page of a labelled COCO file: its regions by class, the least sure first."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from maskwise.data.coco_file import CocoFile, read_coco
from maskwise.data.coco_index import value_of
from maskwise.data.image_paths import find_each_image
from maskwise.data.images import load_image
from maskwise.data.problems import Id
from maskwise.data.regions import grouped
from maskwise.errors import InputError
from maskwise.progress import Progress
from maskwise.reports.formatting import percent
from maskwise.reports.html_report import MAX_CARDS, Card, Fact, Order, thumbnail, write_html_report
from maskwise.reports.named_records import NamedRecord, named_record

NAMED, NONE = "named", "none of these"
ORDERS: list[tuple[Order, str]] = [("doubt", "least sure first"), ("given", "by class"), ("sure", "surest first")]


def write_label_page(
    named: str | os.PathLike[str],
    images_dir: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    allow_outside: bool = False,
) -> None:
    """Write the page; it reads the images of the regions that it shows, and leaves out those that cannot be read.

    Args:
        named: COCO file with names, as `label` writes it.
        images_dir: folder of the images.
        path: HTML file to write, whole or not at all.
        allow_outside: whether file names may leave the folder of images.

    Raises:
        AnnotationError: the file cannot be read, or there is no such folder of images.
        InputError: the page cannot be written.
    """
    coco = read_coco(named, labelled=False, on_error="skip")
    names = {category.id: category.name for category in coco.categories}
    records = [named_record(coco, row) for row in range(len(coco.index.image))]
    sure = np.array([_sureness(record) for record in records])
    usable = np.flatnonzero(np.isfinite(sure) & (coco.index.image >= 0))
    chosen = usable[np.argsort(sure[usable], kind="stable")][:MAX_CARDS]
    counts = Counter(record.name(names) or NONE for record in records if record.score is not None)
    none = counts.pop(NONE, 0)
    facts = [
        Fact("regions", str(len(records)), f"in {len(np.unique(coco.index.image))} images"),
        Fact("named", str(counts.total()), f"{len(counts)} classes"),
        Fact(NONE, str(none), percent(none / max(counts.total() + none, 1))),
        Fact("not named", str(len(records) - counts.total() - none), "faults, or not yet done"),
    ]
    facts += [Fact(name, str(count)) for name, count in counts.most_common(4)]
    cards = _cards(coco, records, chosen, images_dir, allow_outside=allow_outside)
    note = f"{len(cards)} of {len(records)} regions: those that the model is least sure of."
    title = f"Names of {Path(named).name}"
    write_html_report(Path(path), title, facts, cards, note=note, orders=ORDERS)


def _sureness(record: NamedRecord) -> float:
    """Return how sure the answer is, 0 to 1: a name by its probability, "none of these" by how unlike the classes."""
    if record.score is None:
        return float("nan")
    if record.category_id is None or record.known is None:
        return record.score
    return max(record.known * record.score, 1 - record.known)


def _cards(
    coco: CocoFile,
    records: list[NamedRecord],
    chosen: np.ndarray,
    images_dir: str | os.PathLike[str],
    *,
    allow_outside: bool,
) -> list[Card]:
    names = {category.id: category.name for category in coco.categories}
    cards: list[Card] = []
    groups = [chosen[places] for places in grouped(coco.index.image[chosen])] if len(chosen) else []
    images = [int(coco.index.image[rows[0]]) for rows in groups]
    paths = find_each_image(coco, images_dir, images, allow_outside=allow_outside)
    with Progress(len(groups), "report", "images") as progress:
        for rows, found in zip(groups, paths, strict=True):
            if isinstance(found, str):
                cards += _cards_of_image(coco, rows.tolist(), found, records, names)
            progress.update()
    return sorted(cards, key=lambda card: (card.name, card.sure))


def _cards_of_image(
    coco: CocoFile, rows: list[int], path: str, records: list[NamedRecord], names: Mapping[Id, str]
) -> Iterator[Card]:
    """Yield a card for each annotation whose mask can be used; the image is read once."""
    try:
        image = load_image(path)
    except InputError:  # `label` has listed it.
        return
    for row in rows:
        try:
            mask = coco.mask(row, (image.shape[0], image.shape[1]))
        except InputError:
            continue
        record, name = records[row], records[row].name(names)
        yield Card(
            picture=thumbnail(image, mask),
            name=NONE if name is None else name,
            probability=1 - record.known if name is None and record.known is not None else record.score or 0.0,
            sure=_sureness(record),
            kind=NONE if name is None else NAMED,
            where=f"{Path(path).name}, {value_of(coco.index.annotation_id, row)}",
        )
