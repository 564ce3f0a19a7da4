"""`maskwise import-eppel`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from maskwise.extras import missing_extra


@dataclass(frozen=True, kw_only=True)
class Command:
    """Make a checkpoint from a weight file that the method's author published.

    Supported: the ResNet-50 networks for COCO objects and for materials, and the ResNet-101 of the
    generator-evaluator-selector system. Only tensors are read; nothing else in the file is unpickled. The network gets
    RGB, as in the author's evaluation of single images; some of the training scripts used BGR.

    Examples:
      maskwise import-eppel weights.torch -o eppel.safetensors --classes names.txt
      maskwise export eppel.safetensors -o eppel.onnx
    """

    weights: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="WEIGHTS")]
    """Published weight file (torch.save)."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Checkpoint to write (.safetensors)."""
    classes: Path | None = None
    """Text file with class names in the order of the network's outputs, one per line (default: numbers)."""
    merge: Literal["multiply", "add"] | None = None
    """How the mask acts. Needed only for files with ValeLayers and one layer per site, which do not say. multiply:
    COCO's first release; add: materials."""

    def run(self) -> None:
        """Import, and print what the file contains."""
        try:
            from maskwise.training.eppel import import_weights
        except ModuleNotFoundError as error:
            raise missing_extra(error, "train") from error
        from maskwise.data.label_maps import read_class_names

        names = read_class_names(self.classes) if self.classes else None
        checkpoint = import_weights(self.weights, names=names, merge=self.merge)
        checkpoint.save(self.output)
        network = checkpoint.settings.network
        print(
            f"{self.output}: {network.trunk}, {network.merge} at {', '.join(network.sites)},"
            f" {len(checkpoint.categories)} classes{'' if names else ', numbered (name them with --classes FILE)'}"
        )
