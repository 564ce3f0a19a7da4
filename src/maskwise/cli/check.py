"""`maskwise check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from maskwise.cli.options import STANDARD_OUTPUT, write_json_output, wrong_usage

if TYPE_CHECKING:
    from maskwise.tasks.checking import Check

SHOWN = 50
"""Maximum number of faults on the terminal; the JSON has all."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """List every fault of a COCO file, of segments or of label maps, and what is in them.

    With IMAGES the images are opened and every mask is checked against its image. Exits with 1 if there is a fault.

    Examples:
      maskwise check annotations.json
      maskwise check annotations.json photos --json faults.json
      maskwise check maps photos --classes classes.txt
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """COCO file, or segments in another form that `label` takes; with --classes or --palette a folder of label maps."""
    images: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[IMAGES]")] = None
    """Folder of the images."""
    classes: Path | None = None
    """Text file whose line n (from 0) names pixel value n: FILE is a folder of label maps."""
    palette: Path | None = None
    """In place of --classes, for label maps in colours: text file with lines `R G B name`, or JSON."""
    images_of: Path | None = None
    """COCO file that names the images of a results list."""
    allow_outside: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Allow file names that leave the folder of images."""
    json: Path | None = None
    """Also write everything as JSON. With - to standard output, instead of the text."""

    def run(self) -> int:
        """Check, print, and return the exit code."""
        from maskwise.data.atomic_files import check_output
        from maskwise.tasks.checking import check_label_maps, check_segments

        if self.json is not None and self.json != STANDARD_OUTPUT:
            check_output(self.json, inputs=[self.file])
        if self.classes is not None or self.palette is not None:
            if self.classes is not None and self.palette is not None:
                wrong_usage("check", "give --classes or --palette, not both")
            if self.images is None:
                wrong_usage("check", "label maps need IMAGES, the folder of their images")
            check = check_label_maps(self.file, self.images, self.classes, palette=self.palette)
        else:
            check = check_segments(self.file, self.images, images_of=self.images_of, allow_outside=self.allow_outside)
        if self.json is not None:
            write_json_output(self.json, check.to_dict())
        if self.json != STANDARD_OUTPUT:
            print_check(check)
        return 1 if check.problems else 0


def print_check(check: Check) -> None:
    """Print what there is, then the faults."""
    width = max(map(len, check.contents), default=0)
    for name, count in check.contents.items():
        print(f"{name:<{width}}  {count:>9,}")
    if not check.problems:
        print("no fault")
        return
    print(f"{len(check.problems)} fault{'s' if len(check.problems) > 1 else ''}:")
    for problem in check.problems[:SHOWN]:
        print(f"  {problem.message}")
    if len(check.problems) > SHOWN:
        print(f"  and {len(check.problems) - SHOWN} more; --json FILE has all")
