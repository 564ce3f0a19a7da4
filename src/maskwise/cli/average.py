"""`maskwise average`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from maskwise.cli.options import needs_train


@dataclass(frozen=True, kw_only=True)
class Command:
    """Make one model of several runs: the mean of their weights, calibrated anew.

    The runs must share network, initial weights and data, and differ in how they learned: another seed, size or
    schedule. Their mean often names better than each of them and costs no more than one; compare them.

    Examples:
      maskwise average runs/first runs/second -o runs/both
      maskwise average runs/first runs/second -o runs/both --size 168
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """Run folders or their final.safetensors; settings are the first one's."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Run folder to write: final.safetensors, run.json, model.onnx."""
    size: int | None = None
    """Side of the square that the network sees, pixels; the first run's where left out."""
    name: str | None = None
    """What the model is called; the first run's where left out."""

    def run(self) -> None:
        """Average, export, and say where the model lies."""
        try:
            from maskwise.training.averaging import average_runs
            from maskwise.training.exporting import export_run
        except ModuleNotFoundError as error:
            raise needs_train(error) from error
        print(export_run(average_runs(self.runs, self.output, size=self.size, name=self.name)))
