"""Write named regions as CVAT's XML 1.1 for images."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from maskwise.data.atomic_files import whole_file
from maskwise.data.masks import Mask
from maskwise.data.outlines import Polygon, mask_polygons
from maskwise.data.writers.records import NamedImage, WriteOptions
from maskwise.errors import InputError

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold."""


def write(images: Iterable[NamedImage], output: Path, options: WriteOptions) -> None:
    """Write the file that CVAT imports as "CVAT 1.1": masks, or with polygons a polygon for each part.

    The parts of one region share a group. The attribute `score` is read where the label has one of that name. Regions
    without a name are left out.

    Raises:
        InputError: see `whole_file`; or the size of an image is unknown.

    Source:
        CVAT's documentation, XML annotation format: a mask's `rle` has the lengths of runs along the rows of its box,
        pixels not set and set in turn.
    """
    groups = 0
    with whole_file(output) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n')
        file.write("  <meta><task><labels>\n")
        for category in options.categories:
            name = escape(xml_text(category.name))
            file.write(f"    <label><name>{name}</name><type>any</type><attributes><attribute><name>score</name>")
            file.write("<mutable>False</mutable><input_type>text</input_type><default_value></default_value>")
            file.write("<values></values></attribute></attributes></label>\n")
        file.write("  </labels></task></meta>\n")
        for number, image in enumerate(images):
            drawn = image.drawn
            if image.image_hw is None and drawn:
                raise InputError(f"image id {image.image_id}: its size is unknown, and CVAT needs it; name it first")
            height, width = image.image_hw or (0, 0)
            name = quoteattr(xml_text(image.file_name))
            file.write(f'  <image id="{number}" name={name} width="{width}" height="{height}">\n')
            for region, category, mask in drawn:
                label = quoteattr(xml_text(category.name))
                score = "" if region.confidence is None else f'<attribute name="score">{region.confidence}</attribute>'
                common = f'label={label} source="auto" occluded="0" z_order="0"'
                if options.polygons:
                    parts = mask_polygons(mask)
                    groups += len(parts) > 1
                    group = f' group_id="{groups}"' if len(parts) > 1 else ""
                    for part in parts:
                        file.write(f'    <polygon {common}{group} points="{_points(part)}">{score}</polygon>\n')
                else:
                    left, top, box_width, box_height = mask.box_xywh
                    box = f'left="{left}" top="{top}" width="{box_width}" height="{box_height}"'
                    file.write(f'    <mask {common} rle="{_runs(mask)}" {box}>{score}</mask>\n')
            file.write("  </image>\n")
        file.write("</annotations>\n")


def xml_text(text: str) -> str:
    r"""Return a text without the characters that XML cannot hold: each becomes a replacement character.

    >>> xml_text("a\x00b")
    'a�b'
    """
    return NOT_XML.sub("\ufffd", text)


def _runs(mask: Mask) -> str:
    bits = mask.bits.ravel()
    changes = np.flatnonzero(bits[1:] != bits[:-1]) + 1
    ends = np.concatenate([[0] if bits[0] else [], changes, [len(bits)]]).astype(np.int64)
    return ", ".join(map(str, np.diff(ends, prepend=0).tolist()))


def _points(polygon: Polygon) -> str:
    return ";".join(f"{x:g},{y:g}" for x, y in polygon.tolist())
