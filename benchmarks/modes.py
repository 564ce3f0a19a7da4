"""Compare the modes on COCO val2017: how many names change if regions share crops, and by how much probabilities do.

Run from the repository's root after `maskwise evaluate` in each mode:
python benchmarks/modes.py -o benchmarks/results/modes
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from maskwise.data.atomic_files import read_json, write_json, write_text
from maskwise.reports.formatting import percent
from maskwise.reports.markdown import table

RESULTS = Path(__file__).parent / "results"
MODES = ("auto", "shared")


def compare(exact: Path, other: Path) -> dict[str, float]:
    """Return how an evaluation differs from the exact one.

    Args:
        exact: folder of the evaluation in exact mode.
        other: folder of another one, of the same regions.
    """
    rows, others = (
        {row[1]: row for row in read_json(folder / "predictions.json")["data"] if not row[6]}
        for folder in (exact, other)
    )
    names = np.array([rows[key][3] != others[key][3] for key in rows])
    same = [abs(rows[key][4] - others[key][4]) for key in rows if rows[key][3] == others[key][3]]
    reports = [read_json(folder / "report.json") for folder in (exact, other)]
    return {
        "regions": len(rows),
        "names_changed": float(names.mean()),
        "probability_median": float(np.median(same)),
        "probability_largest": float(max(same)),
        "micro_lost": reports[0]["micro"] - reports[1]["micro"],
    }


def page(results: dict[str, dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    rows = [
        (
            mode,
            percent(one["names_changed"]),
            f"{one['probability_median']:.3f}",
            f"{one['probability_largest']:.2f}",
            f"{100 * one['micro_lost']:.1f} points",
        )
        for mode, one in results.items()
    ]
    header = ("mode", "names that change", "probability: median change", "largest change", "micro accuracy lost")
    regions = next(iter(results.values()))["regions"]
    text = f"Against exact mode, {regions} regions of COCO val2017. Made by `make results`."
    return f"# What sharing crops changes\n\n{text}\n\n{table(header, rows)}\n"


def main() -> None:
    """Compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="results, without suffix")
    args = parser.parse_args()
    results = {mode: compare(RESULTS / "coco-val2017", RESULTS / f"coco-val2017-{mode}") for mode in MODES}
    write_json(args.output.with_suffix(".json"), results)
    write_text(args.output.with_suffix(".md"), page(results))
    print(page(results))


if __name__ == "__main__":
    main()
