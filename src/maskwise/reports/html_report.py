"""A report as one HTML file: it opens offline, in the light and in the dark, on a phone and on a desk."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Literal

import cv2
import numpy as np

from maskwise.data.atomic_files import write_text
from maskwise.data.images import Pixels
from maskwise.data.masks import Mask
from maskwise.reports.drawing import draw_outline
from maskwise.reports.formatting import percent

MAX_CARDS = 400
"""Most regions that a report shows: with pictures of 8 kB it has about 4 MB."""
SIDE = 180
"""Longest side of a picture, pixels."""
CONTEXT = 1.6
"""Side of a picture over the longer side of its region's box."""
JPEG_QUALITY = 78
YELLOW, BLACK = (255, 225, 25), (0, 0, 0)


Order = Literal["given", "doubt", "sure"]
"""Orders of regions: as they are given, the least sure first, the surest first."""


@dataclass(frozen=True)
class Card:
    """A region of a report.

    Attributes:
        picture: JPEG of the region and what is around it; see `thumbnail`.
        name: what the model says.
        probability: of the name, 0 to 1.
        sure: by which regions are sorted, 0 to 1.
        kind: what kind of answer it is; the page can show those of one kind.
        where: the image, and the region's id in it.
        truth: its true class, if known.
    """

    picture: bytes
    name: str
    probability: float
    sure: float
    kind: str
    where: str
    truth: str | None = None


@dataclass(frozen=True)
class Fact:
    """A figure at the top of a report.

    Attributes:
        label: what it is.
        value: as it is shown.
        detail: a few words under it.
    """

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure of a report.

    Attributes:
        svg: the picture; nothing in it comes from the data.
        caption: what it shows.
    """

    svg: str
    caption: str


def write_html_report(
    path: Path,
    title: str,
    facts: Sequence[Fact],
    cards: Sequence[Card],
    *,
    note: str,
    orders: Sequence[tuple[Order, str]],
    drawings: Sequence[Drawing] = (),
) -> None:
    """Write a report, whole or not at all.

    Args:
        path: HTML file to write.
        title: of the page.
        facts: the main figures.
        cards: regions.
        note: which regions these are.
        orders: in which the page can show them, and what each is called; the first is shown at first.
        drawings: figures between the facts and the regions.

    Raises:
        InputError: the file cannot be written there.
    """
    names = sorted({name for card in cards for name in (card.name, card.truth) if name is not None})
    kinds = sorted({card.kind for card in cards})
    text = read_template("report.html").substitute(
        title=escape(title),
        facts="".join(map(_fact, facts)),
        figures="".join(f"<h2>{escape(d.caption.partition(':')[0])}</h2>{_figure(d)}" for d in drawings),
        note=escape(note),
        orders="".join(f'<option value="{order}">{escape(label)}</option>' for order, label in orders),
        classes="".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in names),
        kinds='<option value="">all</option>' + "".join(f"<option>{escape(kind)}</option>" for kind in kinds),
        cards="\n".join(map(_card, cards)),
    )
    write_text(path, text)


def _fact(fact: Fact) -> str:
    detail = f"<small>{escape(fact.detail)}</small>" if fact.detail else ""
    return f"<div><dt>{escape(fact.label)}</dt><dd>{escape(fact.value)}{detail}</dd></div>"


def _figure(drawing: Drawing) -> str:
    return f"<figure>{drawing.svg}<figcaption>{escape(drawing.caption)}</figcaption></figure>"


def _card(card: Card) -> str:
    names = [card.name] if card.truth is None else [card.name, card.truth]
    wrong = card.truth not in (None, card.name)
    truth = f"<span>true: {escape(card.truth)}</span>" if card.truth is not None and wrong else ""
    share = percent(card.probability).replace(" ", "\u00a0")
    bar = f"{100 * card.probability:.0f}%"
    return (
        f'<li data-names="{escape(json.dumps(names))}" data-kind="{escape(card.kind)}" data-sure="{card.sure:.6f}">'
        f"{picture_html(card.picture)}"
        f"<div><b{' class=wrong' if wrong else ''}>{escape(card.name)} {share}</b>{truth}"
        f'<i class="track" aria-hidden="true"><i style="width:{bar}"></i></i>'
        f"<span>{escape(card.where)}</span></div></li>"
    )


def picture_html(picture: bytes) -> str:
    """Return an image element that holds a JPEG, such as `thumbnail` makes."""
    address = f"data:image/jpeg;base64,{b64encode(picture).decode()}"
    return f'<img src="{address}" alt="" loading="lazy" width="{SIDE}" height="{SIDE}">'


def read_template(name: str) -> Template:
    """Return a page's template, by its file's name."""
    return Template(files("maskwise").joinpath("reports/page", name).read_text(encoding="utf-8"))


def thumbnail(image: Pixels, mask: Mask) -> bytes:
    """Return a JPEG of a region, outlined, and of what is around it.

    Args:
        image: height x width x 3, uint8, RGB.
        mask: a region of it.
    """
    x, y, width, height = mask.box_xywh
    side = max(CONTEXT * max(width, height), 32)
    left, top = max(round(x + width / 2 - side / 2), 0), max(round(y + height / 2 - side / 2), 0)
    right, bottom = (
        min(round(x + width / 2 + side / 2), image.shape[1]),
        min(round(y + height / 2 + side / 2), image.shape[0]),
    )
    scale = SIDE / max(right - left, bottom - top)
    size = (max(round((right - left) * scale), 1), max(round((bottom - top) * scale), 1))
    shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scene = np.ascontiguousarray(cv2.resize(image[top:bottom, left:right], size, interpolation=shrinks))
    coverage = mask.crop(left, top, right, bottom).astype(np.uint8) * 255
    inside = cv2.resize(coverage, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR) >= 128
    if inside.any():
        draw_outline(scene, inside, BLACK, 3)
        draw_outline(scene, inside, YELLOW, 1)
    done, encoded = cv2.imencode(".jpg", scene[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, "an array of 8 bits can always be encoded"
    return encoded.tobytes()


def reliability_svg(confidence: Sequence[float], accuracy: Sequence[float], counts: Sequence[int]) -> str:
    """Draw accuracy over predicted probability, a dot per bin; its area grows with the number of regions.

    Args:
        confidence: mean predicted probability of each bin, 0 to 1.
        accuracy: share of right names in it.
        counts: regions in it, at least one.
    """
    most = max(counts)
    dots = "".join(
        f'<circle cx="{40 + 240 * x:.1f}" cy="{260 - 240 * y:.1f}" r="{2 + 8 * (n / most) ** 0.5:.1f}"'
        f' fill="var(--accent)" fill-opacity=".75">'
        f"<title>{n} regions: predicted {percent(x)}, right {percent(y)}</title></circle>"
        for x, y, n in zip(confidence, accuracy, counts, strict=True)
    )
    ticks = "".join(
        f'<text x="{40 + 240 * share}" y="278" text-anchor="middle">{100 * share:.0f} %</text>'
        f'<text x="34" y="{264 - 240 * share}" text-anchor="end">{100 * share:.0f} %</text>'
        for share in (0, 0.5, 1)
    )
    return (
        '<svg viewBox="0 0 300 300" role="img" aria-label="Reliability diagram" font-size="11" fill="var(--soft)">'
        '<rect x="40" y="20" width="240" height="240" fill="none" stroke="var(--line)"/>'
        '<line x1="40" y1="260" x2="280" y2="20" stroke="var(--soft)" stroke-dasharray="4 4"/>'
        f'{dots}{ticks}<text x="160" y="295" text-anchor="middle">predicted probability</text></svg>'
    )
