"""`maskwise label`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from maskwise.cli.options import (
    ClassNames,
    DeviceFlag,
    FormatFlag,
    ImageUrl,
    MinKnown,
    MinProbability,
    Mode,
    ModelFile,
    OnErrorFlag,
    PolygonsFlag,
    class_list,
    wrong_usage,
)


@dataclass(frozen=True, kw_only=True)
class Command:
    """Name every annotation of a COCO file.

    Writes the same file with category_id, score, top_category_ids and top_scores in every annotation; everything else,
    and the order, stays. Another suffix of the output writes another format. Faulty records and images stay unnamed and
    are listed in OUTPUT.problems.json. An interrupted run resumes when you repeat the command.

    Examples:
      maskwise label photos segments.json -o named.json
      maskwise label photos segments.json -o named.json --model my-classes.onnx
      maskwise label photos segments.json -o named.csv --classes person,car
      maskwise label photos segments.json -o tasks.json --format label-studio
    """

    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGES")]
    """Folder of the images, or one photograph."""
    segments: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SEGMENTS.json")]
    """COCO file; its annotations need no categories. Or what SAM writes (its mask generator's list, a file of SA-1B), a
    results list (records with image_id and segmentation or bbox), or a folder of such files."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File to write: COCO (.json), .csv, .jsonl, .parquet or CVAT (.xml); see --format."""
    format: FormatFlag = None
    polygons: PolygonsFlag = False
    image_url: ImageUrl = "/data/local-files/?d="
    keep: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Name only annotations that have no name yet."""
    classes: ClassNames = None
    overlay: Path | None = None
    """Also draw every image with its named regions into this folder."""
    top: int = 5
    """Number of classes per annotation."""
    engine: Literal["local", "ray"] = "local"
    """local: this process; ray: Ray Data, on this machine or a cluster."""
    on_error: OnErrorFlag = "skip"
    allow_outside: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Allow file names that leave the folder of images."""
    images_of: Path | None = None
    """COCO file that names the images of a results list."""
    none: Literal["category", "keep", "drop"] = "category"
    """What becomes of annotations that are "none of these": category gives them a category of that name, keep leaves
    out their category_id, drop leaves out the annotations."""
    min_known: MinKnown = None
    min_probability: MinProbability = 0.0
    mode: Mode = "exact"
    model: ModelFile = None
    device: DeviceFlag = "cpu"
    threads: int | None = None
    """CPU threads per model (default: all available cores; with ray: one)."""

    def run(self) -> None:
        """Label, and print how much was done."""
        from maskwise.model.predictor import Predictor
        from maskwise.tasks.labelling import label_coco

        is_coco = self.format == "coco" if self.format else self.output.suffix.lower() == ".json"
        if self.overlay is not None and not is_coco:
            wrong_usage("label", "--overlay needs an output in COCO's form (.json)")
        threads = 1 if self.threads is None and self.engine == "ray" else self.threads
        predictor = Predictor(
            self.model,
            mode=self.mode,
            device=self.device,
            threads=threads,
            min_known=self.min_known,
            min_probability=self.min_probability,
            classes=class_list(self.classes),
        )
        done = label_coco(
            self.segments,
            self.images,
            self.output,
            predictor,
            top=self.top,
            engine=self.engine,
            on_error=self.on_error,
            allow_outside=self.allow_outside,
            images_of=self.images_of,
            none=self.none,
            keep=self.keep,
            form=self.format,
            polygons=self.polygons,
            image_url=self.image_url,
        )
        print(f"{self.output}: {done.annotations} annotations, {done.named_now} named in this run")
        if self.keep:
            print(f"{done.kept} annotations keep their name")
        if done.none:
            print(f"{done.none} annotations are none of these")
        if self.overlay is not None:
            from maskwise.reports.overlay_folder import write_overlays

            folder = self.images.parent if self.images.is_file() else self.images
            count = write_overlays(self.output, folder, self.overlay, allow_outside=self.allow_outside)
            print(f"{self.overlay}: {count} pictures")
        if done.problems:
            unnamed = done.annotations - done.kept - done.named
            print(
                f"{unnamed} annotations left unnamed, {len(done.problems)} problems: {self.output}.problems.json; the"
                f" first: {done.problems[0].message}",
                file=sys.stderr,
            )
