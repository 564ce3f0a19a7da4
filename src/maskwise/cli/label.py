"""`maskwise label`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from maskwise.cli.options import DeviceFlag, MinKnown, MinProbability, Mode, ModelFile, OnErrorFlag


@dataclass(frozen=True, kw_only=True)
class Command:
    """Name every annotation of a COCO file.

    Writes the same file with category_id, score, top_category_ids and top_scores in every annotation; everything else,
    and the order, stays. Faulty records and images stay unnamed and are listed in OUTPUT.problems.json. An interrupted
    run resumes when you repeat the command.

    Examples:
      maskwise label photos segments.json -o named.json
      maskwise label photos segments.json -o named.json --model my-classes.onnx
    """

    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGES")]
    """Folder of the images, or one photograph."""
    segments: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SEGMENTS.json")]
    """COCO file; its annotations need no categories. Or what SAM writes (its mask generator's list, a file of SA-1B), a
    results list (records with image_id and segmentation or bbox), or a folder of such files."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """COCO file to write."""
    overlay: Path | None = None
    """Also draw every image with its named regions into this folder."""
    report: Path | None = None
    """Also write a page (HTML) with pictures of the regions, the least sure first."""
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
        from maskwise.data.atomic_files import check_output
        from maskwise.model.predictor import Predictor
        from maskwise.tasks.labelling import label_coco

        if self.report is not None:
            check_output(self.report, inputs=[path for path in (self.segments, self.output) if not path.is_dir()])
        threads = 1 if self.threads is None and self.engine == "ray" else self.threads
        predictor = Predictor(
            self.model,
            mode=self.mode,
            device=self.device,
            threads=threads,
            min_known=self.min_known,
            min_probability=self.min_probability,
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
        )
        print(f"{self.output}: {done.annotations} annotations, {done.named_now} named in this run")
        if done.none:
            print(f"{done.none} annotations are none of these")
        folder = self.images.parent if self.images.is_file() else self.images
        if self.report is not None:
            from maskwise.reports.label_page import write_label_page

            write_label_page(self.output, folder, self.report, allow_outside=self.allow_outside)
            print(f"{self.report}: the report")
        if self.overlay is not None:
            from maskwise.reports.overlay_folder import write_overlays

            count = write_overlays(self.output, folder, self.overlay, allow_outside=self.allow_outside)
            print(f"{self.overlay}: {count} pictures")
        if done.problems:
            unnamed = done.annotations - done.named
            print(
                f"{unnamed} annotations left unnamed, {len(done.problems)} problems: {self.output}.problems.json; the"
                f" first: {done.problems[0].message}",
                file=sys.stderr,
            )
