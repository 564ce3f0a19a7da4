"""`maskwise label`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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

if TYPE_CHECKING:
    from maskwise.model.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class Command:
    """Name every annotation of a COCO file; or of any number of images, into shards in a folder.

    Writes the same file with category_id, score, top_category_ids and top_scores in every annotation; everything else,
    and the order, stays. Another suffix of the output writes another format. Faulty records and images stay unnamed and
    are listed in OUTPUT.problems.json. An interrupted run resumes when you repeat the command.

    An OUTPUT without a suffix is a folder: it gets shards and a manifest, memory stays flat, and IMAGES, SEGMENTS and
    OUTPUT may be URLs; join the shards with `maskwise join`.

    Examples:
      maskwise label photos segments.json -o named.json
      maskwise label photos segments.json -o named.json --model my-classes.onnx
      maskwise label photos segments.json -o named.csv --classes person,car
      maskwise label photos segments.json -o tasks.json --format label-studio
      maskwise label photos segments.json -o named --engine ray
      maskwise label 'sa1b/*.tar' -o named --shard-format parquet
    """

    images: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IMAGES")]
    """Folder of the images, or one photograph. For shards also a text file with a path or URL per line, WebDataset
    shards (.tar) or Parquet files: a file, a folder or a pattern."""
    segments: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="SEGMENTS.json")] = None
    """COCO file; its annotations need no categories. Or what SAM writes (its mask generator's list, a file of SA-1B), a
    results list (records with image_id and segmentation or bbox), or a folder of such files. For shards also a list in
    JSON lines; not needed where IMAGES brings its segments, or each image has a JSON file beside it."""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="OUTPUT")]
    """File to write: COCO (.json), .csv, .jsonl, .parquet or CVAT (.xml), see --format; or a folder for shards."""
    shard_images: int | None = None
    """Images per shard (default: 128)."""
    shard_format: Literal["jsonl", "parquet"] | None = None
    """Format of shards: JSON lines (default), or Parquet."""
    format: FormatFlag = None
    polygons: PolygonsFlag = False
    image_url: ImageUrl = "/data/local-files/?d="
    keep: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Name only annotations that have no name yet."""
    classes: ClassNames = None
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

        images, output = Path(self.images), Path(self.output)
        sharded = self.format is None and ("://" in self.output or output.is_dir() or not output.suffix)
        for flag in ("overlay", "report", "images_of", "keep", "polygons"):
            if sharded and getattr(self, flag) not in (None, False):
                wrong_usage("label", f"--{flag.replace('_', '-')} needs a file as the output, such as -o named.json")
        for flag in ("shard_images", "shard_format"):
            if not sharded and getattr(self, flag) is not None:
                wrong_usage("label", f"--{flag.replace('_', '-')} needs a folder as the output, such as -o named")
        if self.segments is None and not sharded:
            wrong_usage("label", "give SEGMENTS.json; or a folder as the output, where IMAGES brings its segments")
        is_coco = self.format == "coco" if self.format else output.suffix.lower() == ".json"
        if not sharded and not is_coco and (self.overlay or self.report):
            wrong_usage("label", "--overlay and --report need an output in COCO's form (.json)")
        if self.report is not None:
            check_output(self.report, inputs=[output])
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
        if sharded:
            self._shards(predictor)
        else:
            self._file(predictor, images, output)

    def _shards(self, predictor: Predictor) -> None:
        from maskwise.tasks.sharded_labelling import SHARD_IMAGES, label_shards

        done = label_shards(
            self.images,
            self.segments,
            self.output,
            predictor,
            top=self.top,
            engine=self.engine,
            kind=self.shard_format or "jsonl",
            shard_images=SHARD_IMAGES if self.shard_images is None else self.shard_images,
            on_error=self.on_error,
            allow_outside=self.allow_outside,
            none=self.none,
        )
        print(
            f"{self.output}: {done.images} images, {done.annotations} annotations, {done.named} named,"
            f" {done.shards} shards, {done.shards_now} written in this run"
        )
        if done.none:
            print(f"{done.none} annotations are none of these")
        if done.problems:
            print(f"{done.problems} problems; each stands in its shard", file=sys.stderr)

    def _file(self, predictor: Predictor, images: Path, output: Path) -> None:
        from maskwise.tasks.labelling import label_coco

        assert self.segments is not None, "see `run`"
        done = label_coco(
            self.segments,
            images,
            output,
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
        folder = images.parent if images.is_file() else images
        if self.report is not None:
            from maskwise.reports.label_page import write_label_page

            write_label_page(output, folder, self.report, allow_outside=self.allow_outside)
            print(f"{self.report}: the report")
        if self.overlay is not None:
            from maskwise.reports.overlay_folder import write_overlays

            count = write_overlays(output, folder, self.overlay, allow_outside=self.allow_outside)
            print(f"{self.overlay}: {count} pictures")
        if done.problems:
            unnamed = done.annotations - done.kept - done.named
            print(
                f"{unnamed} annotations left unnamed, {len(done.problems)} problems: {self.output}.problems.json; the"
                f" first: {done.problems[0].message}",
                file=sys.stderr,
            )
