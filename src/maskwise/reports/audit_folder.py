"""Write an audit as a folder: JSON, a table, and a page on which each suspicion is accepted or refused."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from dataclasses import fields
from html import escape
from typing import Any

from maskwise.data.atomic_files import make_folder, write_json, write_text
from maskwise.data.problems import SKIPPED, write_problems
from maskwise.data.regions import read_by_image
from maskwise.reports.formatting import percent
from maskwise.reports.html_report import picture_html, read_template, thumbnail
from maskwise.tasks.auditing import Audit
from maskwise.tasks.suspicions import Suspicion

LIMIT = 200
"""Suspicions that the page shows unless told."""
WHY = {
    "name": "another name fits better",
    "none": "looks like none of the classes",
    "duplicate": "outlined twice",
    "tiny": "hardly any pixels",
    "unlabelled": "has no label",
}


def write_audit(audit: Audit, folder: str | os.PathLike[str], *, title: str, limit: int = LIMIT) -> None:
    """Write `audit.json`, `audit.csv` and `audit.html`; each whole.

    Args:
        audit: see `audit`.
        folder: made if missing; files of these names in it are replaced.
        title: of the page, such as the name of the annotations.
        limit: suspicions that the page shows; the files have all.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    folder = make_folder(folder)
    records = [suspicion.to_dict() for suspicion in audit.suspicions]
    write_json(folder / "audit.json", {"how": audit.how, "regions": len(audit.regions), "suspicions": records})
    columns = [field.name for field in fields(Suspicion) if field.name != "segmentation"]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
    table.writeheader()
    table.writerows(records)
    write_text(folder / "audit.csv", text.getvalue())
    write_problems(folder / "problems.json", audit.problems)
    write_text(folder / "audit.html", _page(audit, title, limit))


def _page(audit: Audit, title: str, limit: int) -> str:
    shown = audit.suspicions[:limit]
    pictures = _pictures(audit, limit)
    names = sorted(set(audit.regions.names) | set(audit.outlines.names))
    key = hashlib.sha256(json.dumps([one.to_dict() for one in shown]).encode()).hexdigest()[:16]
    judge = "the model" if audit.how == "model" else "cross-validation over images"
    note = (
        f"{len(audit.suspicions)} suspicions in {len(audit.regions)} regions, judged by {judge}; the first"
        f" {len(shown)} are here, the most suspicious first."
    )
    return read_template("audit.html").substitute(
        title=escape(f"Audit of {title}"),
        note=escape(note),
        key=key,
        names="".join(f'<option value="{escape(name)}"></option>' for name in names),
        rows="\n".join(_row(one, picture) for one, picture in zip(shown, pictures, strict=True)),
    )


def _pictures(audit: Audit, limit: int) -> list[bytes]:
    """Return a picture of the region of each suspicion that is shown."""
    pictures: dict[int, bytes] = {}
    shown = audit.outlines[:limit]
    for numbers, image, masks in read_by_image(shown, skip=SKIPPED["skip"]):
        for number, mask in zip(numbers, masks, strict=True):
            pictures[number] = thumbnail(image, mask)
    return [pictures.get(number, b"") for number in range(len(shown))]


def _row(one: Suspicion, picture: bytes) -> str:
    """Return a list item; what is proposed stands in its data."""
    proposed: dict[str, Any] = {"annotation_id": one.annotation_id, "name": one.suggested}
    if one.segmentation is not None:
        proposed = {"image_id": one.image_id, "segmentation": one.segmentation, "name": one.suggested}
    old = "<i>no label</i>" if one.given is None else f"<s>{escape(one.given)}</s>"
    new = "take out" if one.suggested is None else escape(one.suggested)
    details = [WHY[one.kind]]
    if one.probability is not None:
        against = "" if one.given_probability is None else f" against {percent(one.given_probability)}"
        details.append(percent(one.probability) + against)
    if one.other_id is not None:
        details.append(f"same as {one.other_id}")
    where = one.file_name if one.annotation_id is None else f"{one.file_name}, {one.annotation_id}"
    return (
        f'<li data-proposed="{escape(json.dumps(proposed))}" tabindex="0">'
        f"{picture_html(picture)}"
        f"<div><p>{old} → <b>{new}</b></p><small>{escape(', '.join(details))}</small>"
        f"<small>{escape(where)}</small></div>"
        '<div class="answers"><button type="button" data-answer="accept">Accept</button>'
        '<button type="button" data-answer="refuse">Keep as it is</button>'
        '<label>Other name <input list="names" autocomplete="off"></label></div></li>'
    )
