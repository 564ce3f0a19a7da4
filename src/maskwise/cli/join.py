"""`maskwise join`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Join the shards that `maskwise label` wrote into a folder into one COCO file.

    Examples:
      maskwise label photos segments.json -o named --engine ray
      maskwise join named -o named.json
    """

    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """Folder of the shards, path or URL."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """COCO file to write."""

    def run(self) -> None:
        """Join, and print what there is."""
        from maskwise.tasks.joining import join_shards

        done = join_shards(self.folder, self.output)
        print(f"{self.output}: {done.images} images, {done.annotations} annotations")
        if done.renumbered:
            print("annotations have new ids: some stood several times")
