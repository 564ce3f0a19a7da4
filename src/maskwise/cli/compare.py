"""`maskwise compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from maskwise.extras import missing_extra


@dataclass(frozen=True, kw_only=True)
class Command:
    """Train variants of a network with the same budget and seeds, and evaluate them on the same regions.

    The output folder gets comparison.md (a table), comparison.png (accuracy by size) and comparison.json. An
    interrupted comparison resumes when you repeat the command.

    Examples:
      maskwise compare recipes/comparisons/published-study.toml -o runs/study
    """

    comparison: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="COMPARISON")]
    """TOML file with evaluate, base, variants and seeds."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Output folder; made if missing."""

    def run(self) -> None:
        """Compare, and print a table."""
        try:
            from maskwise.training.comparison import compare_variants, mean_and_deviation
        except ModuleNotFoundError as error:
            raise missing_extra(error, "train") from error
        from rich.console import Console
        from rich.table import Table

        table = Table("variant", "micro accuracy, %", "macro accuracy, %", box=None)
        for row in compare_variants(self.comparison, self.output):
            table.add_row(row.name, mean_and_deviation(row.values("micro")), mean_and_deviation(row.values("macro")))
        Console().print(table)
        print(f"{self.output / 'comparison.md'}")
