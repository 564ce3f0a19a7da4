"""`maskwise compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from maskwise.cli.options import needs_train


@dataclass(frozen=True, kw_only=True)
class Command:
    """Train variants of a network with the same budget and seeds, and judge them on the same regions.

    The output folder gets comparison.md (a table), comparison.png (accuracy by size) and comparison.json. A comparison
    that was stopped goes on where it was.

    Examples:
      maskwise compare recipes/comparisons/published-study.toml -o runs/study
    """

    comparison: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="COMPARISON")]
    """A TOML file: evaluate, base, variants, seeds."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the results; made if missing."""

    def run(self) -> None:
        """Compare, and print the table."""
        try:
            from maskwise.training.comparison import compare_variants, spread
        except ModuleNotFoundError as error:
            raise needs_train(error) from error
        from rich.console import Console
        from rich.table import Table

        table = Table("variant", "micro", "macro", box=None)
        for row in compare_variants(self.comparison, self.output):
            table.add_row(row.name, spread(row.values("micro")), spread(row.values("macro")))
        Console().print(table)
        print(f"{self.output / 'comparison.md'}")
