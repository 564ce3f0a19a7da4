"""`maskwise segment`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from maskwise.cli.options import OnErrorFlag, Threads, wrong_usage
from maskwise.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Command:
    """Outline the things in photographs, without naming them.

    Writes a COCO file of segments without categories, each with predicted_iou and stability_score. Without --point and
    --box, everything is outlined: things, their parts, and what they stand on. Images of a folder that cannot be read
    are left out and listed in OUTPUT.problems.json.

    Examples:
      maskwise segment photo.jpg -o segments.json
      maskwise segment photos -o segments.json
      maskwise segment photo.jpg -o cup.json --point 310,200
      maskwise segment photo.jpg -o things.json --box 77,75,402,316 --box 10,300,50,60
    """

    photos: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PHOTO|FOLDER")]
    """A photograph, or a folder of photographs; its sub-folders are read too."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """COCO file to write."""
    point: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Outline the thing at this point: x,y in pixels. Several points of one thing: x1,y1,x2,y2,... Repeat the flag for
    several things."""
    box: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Outline the thing in this box: x,y,width,height in pixels. Repeat the flag for several things."""
    points_per_side: int = 24
    """Without --point and --box: try this many points in each direction. More points find smaller things and take
    longer."""
    on_error: OnErrorFlag = "skip"
    threads: Threads = None

    def run(self) -> None:
        """Segment, and print how much was found."""
        from maskwise.model.segmenter import Segmenter
        from maskwise.tasks.segmenting import Prompts, segment_photos

        prompts = Prompts(
            clicks=tuple(_pairs(text) for text in self.point), boxes=tuple(_box(text) for text in self.box)
        )
        if prompts and self.photos.is_dir():
            wrong_usage("segment", "--point and --box belong to one photograph; give its file, not a folder")
        done = segment_photos(
            self.photos,
            self.output,
            Segmenter(threads=self.threads),
            prompts=prompts,
            points_per_side=self.points_per_side,
            on_error=self.on_error,
        )
        print(f"{self.output}: {done.segments} segments in {done.images} image(s)")
        if done.problems:
            print(
                f"{len(done.problems)} image(s) left out: {self.output}.problems.json; the first:"
                f" {done.problems[0].message}",
                file=sys.stderr,
            )


def _pairs(text: str) -> tuple[tuple[float, float], ...]:
    values = _numbers(text, "--point")
    if len(values) % 2:
        raise InputError(f"--point {text}: give x,y, or x1,y1,x2,y2,... for several points of one thing")
    return tuple(zip(values[::2], values[1::2], strict=True))


def _box(text: str) -> tuple[float, ...]:
    values = _numbers(text, "--box")
    if len(values) != 4:
        raise InputError(f"--box {text}: give x,y,width,height")
    return tuple(values)


def _numbers(text: str, flag: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{flag} {text}: give numbers between commas, without spaces") from error
