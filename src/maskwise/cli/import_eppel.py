"""`maskwise import-eppel`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from maskwise.cli.options import needs_train


@dataclass(frozen=True, kw_only=True)
class Command:
    """Make a checkpoint of a weight file that the method's author published.

    Known are the ResNet-50 nets for COCO objects and materials and the ResNet-101 of the generator-evaluator-selector
    system. The file is read as tensors alone; nothing else in it is unpickled. The network is fed RGB, as the author's
    evaluation of single images does; some of the training scripts fed BGR.

    Examples:
      maskwise import-eppel weights.torch -o eppel.safetensors --classes names.txt
      maskwise export eppel.safetensors -o eppel.onnx
    """

    weights: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="WEIGHTS")]
    """The published file (torch.save)."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The checkpoint to write (.safetensors)."""
    classes: Path | None = None
    """Text file with the classes' names in the order of the net's outputs, one a line; else they are numbered."""
    merge: Literal["multiply", "add"] | None = None
    """Of files whose branch is called ValeLayers, with one layer per site: nothing in them tells. COCO's first release
    multiplies, materials add."""

    def run(self) -> None:
        """Import and say what was found."""
        try:
            from maskwise.training.eppel import import_weights
        except ModuleNotFoundError as error:
            raise needs_train(error) from error
        from maskwise.data.label_maps import read_class_names

        names = read_class_names(self.classes) if self.classes else None
        checkpoint = import_weights(self.weights, names=names, merge=self.merge)
        checkpoint.save(self.output)
        network = checkpoint.settings.network
        print(
            f"{self.output}: {network.trunk}, {network.merge} at {', '.join(network.sites)},"
            f" {len(checkpoint.categories)} classes{'' if names else ', numbered: --classes FILE names them'}"
        )
