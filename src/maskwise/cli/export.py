"""`maskwise export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from maskwise.extras import missing_extra
from maskwise.training.settings import Storage


@dataclass(frozen=True, kw_only=True)
class Command:
    """Make a model file from a training checkpoint.

    The file is written only if ONNX Runtime's numbers agree with torch's.

    Examples:
      maskwise export runs/first/final.safetensors -o model.onnx
      maskwise export runs/first/checkpoint.safetensors -o model.onnx --storage fp16
    """

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """A run's checkpoint (safetensors)."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Model file to write (.onnx)."""
    storage: Storage = "auto"
    """How to store weights. auto: int8 if it costs less than half a point of held-out accuracy, otherwise fp16."""

    def run(self) -> None:
        """Export, and print size, storage and accuracy."""
        try:
            from maskwise.training.exporting import export_model
        except ModuleNotFoundError as error:
            raise missing_extra(error, "train") from error
        report = export_model(self.checkpoint, self.output, self.storage)
        print(
            f"{self.output}: {report.megabytes} MB, {report.storage};"
            f" logits within {report.largest_difference:.1e} of torch's;"
            f" held-out accuracies {report.accuracies or 'not measured'}"
        )
