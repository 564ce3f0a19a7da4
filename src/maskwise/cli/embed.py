"""`maskwise embed`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from maskwise.cli.options import DeviceFlag, Mode, ModelFile, OnErrorFlag, Threads


@dataclass(frozen=True, kw_only=True)
class Command:
    """Write a vector for every annotation of a COCO file: the features by which the model names it.

    To search, cluster or find duplicates. The suffix chooses the form: .npy (with the ids in OUTPUT.ids.csv), .npz
    (vectors, annotation_ids, image_ids, file_names) or .parquet. Faulty records have no row and are listed in
    OUTPUT.problems.json. An interrupted run resumes when you repeat the command.

    Examples:
      maskwise embed photos segments.json -o vectors.npz
      maskwise embed photos segments.json -o vectors.npy --model my-classes.onnx
    """

    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGES")]
    """Folder of the images, or one photograph."""
    segments: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SEGMENTS.json")]
    """COCO file, or another form of segments as `maskwise label` reads them."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File to write: .npy, .npz or .parquet."""
    on_error: OnErrorFlag = "skip"
    allow_outside: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Allow file names that leave the folder of images."""
    images_of: Path | None = None
    """COCO file that names the images of a results list."""
    mode: Mode = "exact"
    model: ModelFile = None
    device: DeviceFlag = "cpu"
    threads: Threads = None

    def run(self) -> None:
        """Embed, and print how much was done."""
        from maskwise.data.vector_writers import check_suffix
        from maskwise.model.predictor import Predictor
        from maskwise.tasks.embedding_files import embed_coco

        check_suffix(self.output)
        predictor = Predictor(self.model, mode=self.mode, device=self.device, threads=self.threads)
        done = embed_coco(
            self.segments,
            self.images,
            self.output,
            predictor,
            on_error=self.on_error,
            allow_outside=self.allow_outside,
            images_of=self.images_of,
        )
        print(f"{self.output}: {done.embedded} x {done.features}, {done.embedded_now} embedded in this run")
        if done.problems:
            print(
                f"{done.annotations - done.embedded} annotations left out: {self.output}.problems.json; the first:"
                f" {done.problems[0].message}",
                file=sys.stderr,
            )
