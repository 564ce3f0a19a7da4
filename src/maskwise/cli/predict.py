"""`maskwise predict`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from maskwise.cli.options import (
    STANDARD_OUTPUT,
    ClassNames,
    DeviceFlag,
    FormatFlag,
    ImageUrl,
    MinKnown,
    MinProbability,
    Mode,
    ModelFile,
    PolygonsFlag,
    Threads,
    class_list,
    write_json_output,
    wrong_usage,
)
from maskwise.errors import AnnotationError, InputError, naming_mask

if TYPE_CHECKING:
    from maskwise.data.mask_files import NamedMask
    from maskwise.data.masks import Mask
    from maskwise.model.prediction import Prediction


@dataclass(frozen=True, kw_only=True)
class Command:
    """Name regions of one image.

    Give regions as mask pictures, ids, boxes, polygons or a COCO file of segments; mix and repeat them as you like.
    Prints a table: region, name, probability, runners-up.

    Examples:
      maskwise predict photo.jpg --mask cup.png spoon.png --overlay named.png
      maskwise predict photo.jpg --mask sam-output/
      maskwise predict photo.jpg --segments sam.json --json names.json
      maskwise predict photo.jpg --segments sam.json -o named.csv --classes cup,spoon
      maskwise predict photo.jpg --box 10,20,200,120 --polygon 5,5,80,10,60,90
    """

    image: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGE")]
    """The photograph."""
    mask: tyro.conf.UseAppendAction[tuple[tuple[Path, ...], ...]] = ()
    """Mask pictures of the photograph's size, white on black; folders of them; stacks in .npy or .npz."""
    instances: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Picture whose values are ids, or with one colour per object: every one but 0 (black) is a region."""
    segments: Path | None = None
    """COCO file; its annotations of this image (by file name) are the regions. Categories are not needed. Or what SAM
    writes: its mask generator's list (coco_rle), or a file of SA-1B."""
    box: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """x,y,width,height in pixels."""
    polygon: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """x1,y1,x2,y2,x3,y3,... in pixels."""
    json: Path | None = None
    """Also write the names as JSON. With - to standard output; the table then goes to standard error."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Also write the named regions: COCO (.json), .csv, .jsonl, .parquet or CVAT (.xml); see --format."""
    format: FormatFlag = None
    polygons: PolygonsFlag = False
    image_url: ImageUrl = "/data/local-files/?d="
    overlay: Path | None = None
    """Also write a picture of the named regions (PNG or JPEG)."""
    top: int = 3
    """Number of classes per region."""
    classes: ClassNames = None
    min_known: MinKnown = None
    min_probability: MinProbability = 0.0
    mode: Mode = "exact"
    model: ModelFile = None
    device: DeviceFlag = "cpu"
    threads: Threads = None

    def run(self) -> None:
        """Predict, print the table, write the files."""
        from maskwise.data.atomic_files import check_output
        from maskwise.data.images import load_image
        from maskwise.data.writers.formats import check_output_of, format_of
        from maskwise.model.predictor import Predictor
        from maskwise.tasks.writing import write_predictions

        if not (any(self.mask) or self.instances or self.segments or self.box or self.polygon):
            wrong_usage("predict", "no region; give at least one of --mask, --instances, --segments, --box, --polygon")
        inputs = [self.image, *self._mask_paths(), *self.instances, *([self.segments] if self.segments else [])]
        for path in (self.json, self.overlay):  # Before the work, not after it.
            if path is not None and path != STANDARD_OUTPUT:
                check_output(path, inputs=inputs)
        if self.output is not None:
            check_output_of(format_of(self.output, self.format, polygons=self.polygons), self.output, inputs)
        elif self.format or self.polygons:
            wrong_usage("predict", "--format and --polygons go with -o")
        if self.overlay is not None:
            from maskwise.reports.overlay import check_suffix, write_overlay

            check_suffix(self.overlay)
        image = load_image(self.image)
        regions = self._regions(image.shape[:2])
        masks = [mask for _, mask in regions]
        predictor = Predictor(
            self.model,
            mode=self.mode,
            device=self.device,
            threads=self.threads,
            min_known=self.min_known,
            min_probability=self.min_probability,
            classes=class_list(self.classes),
        )
        outputs = predictor.run(image, masks)
        predictions = outputs.predictions(self.top)
        if self.json is not None:
            write_json_output(self.json, self._record(regions, predictions, predictor.info.name))
        if self.output is not None:
            write_predictions(
                [(self.image.name, masks, predictions)],
                self.output,
                predictor,
                form=self.format,
                polygons=self.polygons,
                image_url=self.image_url,
            )
        if self.overlay is not None:
            write_overlay(self.overlay, image, masks, [None if one.is_none else one for one in predictions])
        print_table([name for name, _ in regions], predictions, stderr=self.json == STANDARD_OUTPUT)
        if outputs.shared:
            print(f"{len(masks)} masks shared {outputs.crops} crop(s); --mode exact crops around each", file=sys.stderr)

    def _mask_paths(self) -> list[Path]:
        return [path for paths in self.mask for path in paths]

    def _regions(self, image_hw: tuple[int, int]) -> list[NamedMask]:
        """Return the regions, each with its name in the table."""
        from maskwise.data.mask_files import read_instances, read_masks
        from maskwise.data.masks import Mask

        regions = [region for path in self._mask_paths() for region in read_masks(path, image_hw)]
        for path in self.instances:
            regions += read_instances(path, image_hw)
        if self.segments is not None:
            regions += segments_of_image(self.segments, self.image, image_hw)
        for text in self.box:
            with naming_mask(f"--box {text}"):
                box = numbers(text, "--box")
                regions.append((f"box {text}", Mask.from_box(box, image_hw)))
            if box[0] + box[2] > image_hw[1] + 1 or box[1] + box[3] > image_hw[0] + 1:
                print(f"warning: --box {text} leaves the image; a box is x,y,width,height", file=sys.stderr)
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
    """Parse numbers between commas.

    Raises:
        InputError: it is something else.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{flag} {text}: give numbers between commas, without spaces") from error


def segments_of_image(path: Path, image: Path, image_hw: tuple[int, int]) -> list[NamedMask]:
    """Return the segments that a file has of an image: a COCO file, SAM's list, or a file of SA-1B.

    The image is found by its file name, folders included where they tell two apart. A file of one image may call it
    otherwise.

    Raises:
        AnnotationError: the file breaks the format, has no segment of the image, or several images of that name.
        MaskError: a segment is malformed, empty or of another size.
    """
    import numpy as np

    from maskwise.data.image_paths import rows_of_image
    from maskwise.data.segment_files import read_segments

    coco = read_segments(path, image)
    rows = np.flatnonzero(np.isin(coco.index.image, rows_of_image(coco, image)))
    if not len(rows):
        raise AnnotationError(f"{path}: has no segment of an image called {image.name}")
    return [(f"segment {coco.ids(row)[1]}", coco.mask(row, image_hw)) for row in rows.tolist()]


def print_table(regions: list[str], predictions: list[Prediction], *, stderr: bool = False) -> None:
    """Print what each region is, with runners-up, to standard output or standard error."""
    from rich.console import Console
    from rich.markup import escape
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
        names = prediction.names if prediction.is_none else prediction.names[1:]
        others = ", ".join(f"{other.name} {other.probability:.0%}" for other in names)
        name = "none of these" if prediction.is_none else f"[bold]{escape(prediction.name)}[/bold]"
        probability = "" if prediction.is_none else f"{prediction.probability:.0%}"
        table.add_row(str(index), escape(region), name, probability, escape(others))
    Console(stderr=stderr).print(table)
