"""`maskwise export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from maskwise.cli.options import needs_train


@dataclass(frozen=True, kw_only=True)
class Command:
    """Make a model file of a training checkpoint.

    Refused, with nothing written, unless ONNX Runtime's numbers agree with torch's.

    Examples:
      maskwise export runs/first/final.safetensors -o model.onnx
      maskwise export runs/first/checkpoint.safetensors -o model.onnx --storage fp16
    """

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """A run's checkpoint (safetensors)."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The model file to write (.onnx)."""
    storage: Literal["auto", "int8", "fp16", "fp32"] = "auto"
    """Of the weights; auto: int8 if it costs under half a point on the held-out regions, else fp16."""

    def run(self) -> None:
        """Export and say how it went."""
        try:
            from maskwise.training.exporting import export_model
        except ModuleNotFoundError as error:
            raise needs_train(error) from error
        report = export_model(self.checkpoint, self.output, self.storage)
        print(
            f"{self.output}: {report.megabytes} MB, {report.storage};"
            f" logits within {report.largest_difference:.1e} of torch's;"
            f" held-out accuracies {report.accuracies or 'not measured'}"
        )
