"""`maskwise predict`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from maskwise.cli.options import DeviceFlag, Mode, ModelFile, Threads
from maskwise.errors import AnnotationError, InputError, naming_mask

if TYPE_CHECKING:
    from maskwise.data.masks import Mask
    from maskwise.model.prediction import Prediction


@dataclass(frozen=True, kw_only=True)
class Command:
    """Name regions of one image.

    Give regions as mask images, boxes, polygons or a COCO file of segments; each kind may be repeated and mixed.
    Prints a table: region, name, probability, runners-up.

    Examples:
      maskwise predict photo.jpg --mask cup.png --mask spoon.png --overlay named.png
      maskwise predict photo.jpg --segments sam.json --json names.json
      maskwise predict photo.jpg --box 10,20,200,120 --polygon 5,5,80,10,60,90
    """

    image: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGE")]
    """The photograph."""
    mask: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Image of the photograph's size, not black where the region is."""
    segments: Path | None = None
    """COCO file; its annotations of this image (by file name) are the regions. Categories are not needed. Or what SAM
    writes: its mask generator's list (coco_rle), or a file of SA-1B."""
    box: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """x,y,width,height in pixels."""
    polygon: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """x1,y1,x2,y2,x3,y3,... in pixels."""
    json: Path | None = None
    """Also write the names as JSON."""
    overlay: Path | None = None
    """Also write a picture of the named regions (PNG or JPEG)."""
    top: int = 3
    """Number of classes per region."""
    mode: Mode = "auto"
    model: ModelFile = None
    device: DeviceFlag = "cpu"
    threads: Threads = None

    def run(self) -> None:
        """Predict, print the table, write the files."""
        from maskwise.data.atomic_files import check_output, write_json
        from maskwise.data.images import load_image
        from maskwise.model.predictor import Predictor

        if not (self.mask or self.segments or self.box or self.polygon):
            print(
                "maskwise predict: no region; give at least one of --mask, --segments, --box, --polygon",
                file=sys.stderr,
            )
            raise SystemExit(2)
        for path in (self.json, self.overlay):  # Before the work, not after it.
            if path is not None:
                check_output(path, inputs=(self.image, *self.mask, *([self.segments] if self.segments else [])))
        if self.overlay is not None:
            from maskwise.reports.overlay import check_suffix, write_overlay

            check_suffix(self.overlay)
        image = load_image(self.image)
        regions = self._regions(image.shape[:2])
        masks = [mask for _, mask in regions]
        predictor = Predictor(self.model, mode=self.mode, device=self.device, threads=self.threads)
        outputs = predictor.run(image, masks)
        predictions = outputs.predictions(self.top)
        if self.json is not None:
            write_json(self.json, self._record(regions, predictions, predictor.info.name))
        if self.overlay is not None:
            write_overlay(self.overlay, image, masks, predictions)
        print_table([name for name, _ in regions], predictions)
        if outputs.crops < len(masks):
            print(f"{len(masks)} masks shared {outputs.crops} crop(s); --mode exact crops around each", file=sys.stderr)

    def _regions(self, image_hw: tuple[int, int]) -> list[tuple[str, Mask]]:
        """Return the regions, each with its name in the table."""
        from maskwise.data.masks import Mask, check_size

        regions = []
        for path in self.mask:
            mask = Mask.from_file(path)
            with naming_mask(str(path)):
                check_size(mask, image_hw)
            regions.append((path.name, mask))
        if self.segments is not None:
            regions += segments_of_image(self.segments, self.image.name, image_hw)
        for text in self.box:
            with naming_mask(f"--box {text}"):
                regions.append((f"box {text}", Mask.from_box(numbers(text, "--box"), image_hw)))
        for index, text in enumerate(self.polygon, start=1):
            with naming_mask(f"--polygon {text}"):
                regions.append((f"polygon {index}", Mask.from_polygons([numbers(text, "--polygon")], image_hw)))
        return regions

    def _record(self, regions: list[tuple[str, Mask]], predictions: list[Prediction], model: str) -> dict[str, Any]:
        return {
            "image": self.image.name,
            "model": model,
            "regions": [
                {"region": name, "bbox": mask.box_xywh, "area": mask.area, **p.to_dict()}
                for (name, mask), p in zip(regions, predictions, strict=True)
            ],
        }


def numbers(text: str, flag: str) -> list[float]:
    """Numbers between commas.

    Raises:
        InputError: something else stands there.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{flag} {text}: give numbers between commas, without spaces") from error


def segments_of_image(path: Path, file_name: str, image_hw: tuple[int, int]) -> list[tuple[str, Mask]]:
    """The segments that a COCO file has of an image; a file of one image is taken whatever it calls it.

    The two forms that SAM writes are taken too: the list of its mask generator (RLE), and a file of SA-1B.

    Raises:
        AnnotationError: the file breaks the format, or has several images and none of that name, or no segment of it.
        MaskError: a segment is malformed, empty or of another size.
    """
    import numpy as np

    from maskwise.data.sam import read_segments

    coco = read_segments(path, file_name)
    count = len(coco.index.file_name)
    images = [image for image in range(count) if Path(coco.file_name(image)).name == file_name]
    if not images and count == 1:
        images = [0]
    rows = np.flatnonzero(np.isin(coco.index.image, images))
    if not len(rows):
        raise AnnotationError(f"{path}: has no segment of an image called {file_name}")
    return [(f"segment {coco.ids(row)[1]}", coco.mask(row, image_hw)) for row in rows.tolist()]


def print_table(regions: list[str], predictions: list[Prediction]) -> None:
    """Print what each region is, with runners-up."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    columns: tuple[tuple[str, Literal["left", "right"]], ...] = (
        ("#", "right"),
        ("region", "left"),
        ("name", "left"),
        ("probability", "right"),
        ("runners-up", "left"),
    )
    for column, justify in columns:
        table.add_column(column, justify=justify)
    for index, (region, prediction) in enumerate(zip(regions, predictions, strict=True), start=1):
        others = ", ".join(f"{other.name} {other.probability:.0%}" for other in prediction.names[1:])
        table.add_row(str(index), region, f"[bold]{prediction.name}[/bold]", f"{prediction.probability:.0%}", others)
    Console().print(table)
