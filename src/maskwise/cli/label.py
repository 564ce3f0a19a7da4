"""`maskwise label`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from maskwise.cli.options import Device, Mode


@dataclass(frozen=True, kw_only=True)
class Command:
    """Name every annotation of a COCO file.

    Writes the same file with category_id, score, top_category_ids and top_scores in every annotation; all else, and the
    order, stays. A killed run goes on where it was when started again.

    Examples:
      maskwise label photos segments.json -o named.json
      maskwise label photos segments.json -o named.json --model my-classes.onnx
    """

    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGES")]
    """Folder of the images."""
    segments: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SEGMENTS.json")]
    """COCO file; its annotations may lack categories."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The COCO file to write."""
    top: int = 5
    """How many classes to give per annotation."""
    engine: Literal["local", "ray"] = "local"
    """local: this process; ray: Ray Data, on this machine or a cluster."""
    mode: Mode = "auto"
    model: Path | None = None
    """Model file; the embedded one where left out."""
    device: Device = "cpu"
    """cpu or cuda."""
    threads: int | None = None
    """Processor threads of a model; all cores where left out (with ray: one)."""

    def run(self) -> None:
        """Label and say how much was done."""
        from maskwise.data.coco_file import read_coco
        from maskwise.model.predictor import Predictor
        from maskwise.tasks.labelling import label_coco

        coco = read_coco(self.segments, labelled=False)
        threads = 1 if self.threads is None and self.engine == "ray" else self.threads
        predictor = Predictor(self.model, mode=self.mode, device=self.device, threads=threads)
        named = label_coco(coco, self.images, self.output, predictor, top=self.top, engine=self.engine)
        print(f"{self.output}: {len(coco.index.start)} annotations, {named} named in this run")
