"""Palettes: which colour of a label map stands for which class."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from maskwise.errors import AnnotationError

ACCEPTED = (
    "accepted are lines `R G B name`, `name R G B` or `#rrggbb name`, with blanks or commas between, and JSON"
    " {name: [R, G, B]}"
)
NUMBERS = r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})"
LINES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"^{NUMBERS}[\s,;]+(?P<name>\S.*)$",
        rf"^(?P<name>\S.*?)[\s,;]+{NUMBERS}$",
        r"^(?P<hex>#[0-9a-fA-F]{6})[\s,;]+(?P<name>\S.*)$",
        r"^(?P<name>\S.*?)[\s,;]+(?P<hex>#[0-9a-fA-F]{6})$",
    )
)


@dataclass(frozen=True)
class Palette:
    """Colours of classes. Several colours may be of one class.

    Attributes:
        names: the classes, each once.
        codes: colours as 0xRRGGBB, ascending.
        classes: place in `names` of each colour.
    """

    names: tuple[str, ...]
    codes: tuple[int, ...]
    classes: tuple[int, ...]

    def indices(self, colours: UInt8[np.ndarray, "h w 3"]) -> tuple[Int32[np.ndarray, "h w"], Counter[str]]:
        """Return the class of every pixel (of no class: the number of classes), and the pixels of colours without one.

        >>> palette = Palette(("sky", "road"), (0x0000FF, 0x808080), (0, 1))
        >>> palette.indices(np.array([[[0, 0, 255], [128, 128, 128], [1, 2, 3]]], dtype=np.uint8))
        (array([[0, 1, 2]], dtype=int32), Counter({'#010203': 1}))
        """
        wide = colours.astype(np.int32)
        codes, inverse, counts = np.unique(
            wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], return_inverse=True, return_counts=True
        )
        known = dict(zip(self.codes, self.classes, strict=True))
        found = np.array([known.get(code, len(self.names)) for code in codes.tolist()], dtype=np.int32)
        others = {
            f"#{code:06x}": count
            for code, count, place in zip(codes.tolist(), counts.tolist(), found.tolist(), strict=True)
            if place == len(self.names)
        }
        return found[inverse].reshape(colours.shape[:2]), Counter(others)


def read_palette(path: str | os.PathLike[str]) -> Palette:
    """Read the colours of classes from a text file or JSON.

    A first line without a colour is a heading; empty lines and lines that start with # and a blank are skipped.

    Args:
        path: the file. Lines are `R G B name`, `name R G B` (0 to 255) or `#rrggbb name`, with blanks, commas or
            semicolons between; JSON is an object of names and `[R, G, B]` or `"#rrggbb"`.

    Raises:
        AnnotationError: the file is missing, has another form, or a colour stands twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: the palette cannot be read ({error})") from error
    entries = _from_json(path, text) if text.lstrip().startswith("{") else _from_lines(path, text)
    names = {name: place for place, name in enumerate(dict.fromkeys(name for name, _ in entries))}
    codes = [code for _, code in entries]
    twice = [code for code, count in Counter(codes).items() if count > 1]
    if twice:
        raise AnnotationError(f"{path}: colour #{twice[0]:06x} stands twice; give each colour one class")
    ordered = sorted((code, names[name]) for name, code in entries)
    return Palette(tuple(names), tuple(code for code, _ in ordered), tuple(place for _, place in ordered))


def _from_lines(path: str | os.PathLike[str], text: str) -> list[tuple[str, int]]:
    entries: list[tuple[str, int]] = []
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines, start=1):
        if not line or re.match(r"#\s", line):
            continue
        match = next((match for pattern in LINES if (match := pattern.match(line))), None)
        if match is None:
            if not entries and not any(character.isdigit() for character in line):
                continue  # A heading.
            raise AnnotationError(f"{path}: line {number} is {line[:40]!r}; {ACCEPTED}")
        fields = match.groupdict()
        colour = fields["hex"] if fields.get("hex") else [int(part) for part in match.groups() if part.isdigit()][:3]
        entries.append((fields["name"].strip(" ,;"), _code(path, fields["name"], colour)))
    if not entries:
        raise AnnotationError(f"{path}: has no colour; {ACCEPTED}")
    return entries


def _from_json(path: str | os.PathLike[str], text: str) -> list[tuple[str, int]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: the palette is not JSON ({error})") from error
    return [(name, _code(path, name, colour)) for name, colour in content.items()]


def _code(path: str | os.PathLike[str], name: str, colour: Any) -> int:
    if isinstance(colour, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
        return int(colour[1:], 16)
    if not isinstance(colour, list) or len(colour) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in colour):
        raise AnnotationError(f"{path}: {name[:40]!r} has colour {str(colour)[:40]}; {ACCEPTED}")
    return int(colour[0] << 16 | colour[1] << 8 | colour[2])
