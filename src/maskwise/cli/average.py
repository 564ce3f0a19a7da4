"""`maskwise average`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from maskwise.extras import missing_extra


@dataclass(frozen=True, kw_only=True)
class Command:
    """Average the weights of several runs into one calibrated model.

    The runs must share network, initial weights and data; seed, crop size and schedule may differ. The average is often
    more accurate than each run and costs no more than one; compare them.

    Examples:
      maskwise average runs/first runs/second -o runs/both
      maskwise average runs/first runs/second -o runs/both --size 168
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """Run folders, or their final.safetensors; settings come from the first."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Run folder to write: final.safetensors, run.json, model.onnx."""
    size: int | None = None
    """Crop size, pixels (default: that of the first run)."""
    name: str | None = None
    """Name of the model (default: that of the first run)."""

    def run(self) -> None:
        """Average, export, and print the path of the model file."""
        try:
            from maskwise.training.averaging import average_runs
            from maskwise.training.exporting import export_run
        except ModuleNotFoundError as error:
            raise missing_extra(error, "train") from error
        print(export_run(average_runs(self.runs, self.output, size=self.size, name=self.name)))
