"""Show the results of `speed.py` as a page and a figure."""

from __future__ import annotations

import statistics
from typing import Any

from machine import described
from matplotlib.figure import Figure
from ways import ENOUGH, FEW, WAYS

from maskwise.reports.formatting import percent, table

Seconds = dict[str, list[float]]
"""Seconds of each way per round, all in the same order."""


def ratio(seconds: Seconds, name: str, base: str) -> float:
    """Return how many times faster one way is than another: the median over rounds.

    >>> ratio({"base": [4, 9, 8], "way": [2, 3, 4]}, "way", "base")
    2.0
    """
    return statistics.median(other / own for own, other in zip(seconds[name], seconds[base], strict=True))


def page(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    return "\n\n".join(
        [
            "# How fast the masks of one image are named",
            _introduction(results),
            "![Time by number of masks](speed.png)",
            *(_place(place, compared) for place, compared in results["compared"].items()),
            _check(results["compared"]),
            _memory(results["peak_megabytes"]),
            _besides(results["besides"]),
            _large(results["large"]),
            _commands(results["commands"]),
            "",
        ]
    ).removesuffix("\n")


def _introduction(results: dict[str, Any]) -> str:
    rounds = ", ".join(f"{rounds} rounds of {count}" for count, rounds in results["rounds"].items())
    return (
        "Masks of a 640 x 480 photograph, half of them small, a third medium, the rest large by COCO's bounds."
        f" {rounds}; the ways take turns within one process, figures are medians and ratios medians of each round's."
        f" {described(results)}"
    )


def _place(place: str, by_count: dict[str, Seconds]) -> str:
    """Return a table: regions per second, ratio to the first way, share of the bare network's, growth."""
    counts = list(by_count)
    header = ("regions per second", *counts, f"of the network alone, {counts[-2]}", counts[-1], f"time of {counts[-1]}")
    rows = []
    for name in by_count[counts[0]]:
        cells = [_cell(by_count[count], name, int(count)) for count in counts]
        shares = [
            percent(ratio(by_count[count], name, "network")) if "network" in by_count[count] else ""
            for count in counts[-2:]
        ]
        few, many = (statistics.median(by_count[count][name]) for count in (counts[0], counts[-1]))
        rows.append((WAYS[name].label, *cells, *shares, f"{many / few:.3g} times that of {counts[0]}"))
    return f"## {place.capitalize()}\n\n{table(header, rows)}"


def _cell(seconds: Seconds, name: str, count: int) -> str:
    rate = count / statistics.median(seconds[name])
    return f"{rate:.3g} ({ratio(seconds, name, 'published'):.3g} times)"


def _check(compared: dict[str, dict[str, Seconds]]) -> str:
    rows = []
    for place, by_count in compared.items():
        for name in (name for name in by_count[str(FEW)] if WAYS[name].with_torch):
            times = [statistics.median(by_count[str(count)][name]) / count for count in (FEW, ENOUGH)]
            rows.append((WAYS[name].label, place, *(f"{seconds * 1000:.0f} ms" for seconds in times)))
    return (
        f"The ways with torch name one mask after the other. In place of more than {ENOUGH} they are measured on {FEW},"
        f" and their time is taken to be as much longer. Time of a mask among {FEW} and among {ENOUGH}:\n\n"
        + table(("", "", str(FEW), str(ENOUGH)), rows)
    )


def _memory(peaks: dict[str, dict[str, int]]) -> str:
    header = ("MB", *next(iter(peaks.values())))
    rows = [(WAYS[name].label, *by_count.values()) for name, by_count in peaks.items()]
    return "## Peak memory\n\nResident, imports included, each way in a process of its own on two cores.\n\n" + table(
        header, rows
    )


def _besides(results: dict[str, dict[str, float]]) -> str:
    rows = [(part, *(by_part[part] for by_part in results.values())) for part in next(iter(results.values()))]
    return (
        "## Besides the network\n\nMilliseconds of processor time of an image; `Predictor` is all of `predict` but for"
        " the network: views, threads, softmax, names. Most of it is done while the network runs.\n\n"
        + table(("ms", *results), rows)
    )


def _large(results: dict[str, dict[str, float]]) -> str:
    rows = [
        (f"`Predictor`, {mode}", f"{f['seconds']:.1f} s", f"{f['of_which_reading']:.2f} s", f"{f['peak_megabytes']} MB")
        for mode, f in results.items()
    ]
    return (
        "## A hundred masks of a 4000 x 3000 image\n\nFrom files, two cores; masks are as much larger as the image.\n\n"
        + table(("", "time", "of which reading both files", "peak memory"), rows)
    )


def _commands(seconds: dict[str, list[float]]) -> str:
    rows = [(f"`{name}`", f"{statistics.median(times):.3f} s") for name, times in seconds.items()]
    return f"## From start to end\n\n{table(('command', 'time'), rows)}"


def figure(results: dict[str, Any]) -> Figure:
    """Return a figure of time against the number of masks, by way; a panel per place."""
    drawing = Figure(figsize=(5 * len(results["compared"]) + 1, 4.6), dpi=120, layout="constrained")
    panels = drawing.subplots(1, len(results["compared"]), sharey=True, squeeze=False)[0]
    for axes, (place, by_count) in zip(panels, results["compared"].items(), strict=True):
        for name in next(iter(by_count.values())):
            if not name.endswith("files"):
                medians = [statistics.median(seconds[name]) for seconds in by_count.values()]
                label = WAYS[name].label.replace("`", "")
                axes.plot([int(count) for count in by_count], medians, "o-", label=label, linewidth=1.2, markersize=4)
        axes.set(xscale="log", yscale="log", title=place, xlabel="masks of one 640 x 480 image")
        axes.set_xticks([int(count) for count in by_count], list(by_count))
        axes.set_xticks([], minor=True)
        axes.grid(color="#e6e6e6", linewidth=0.7)
    panels[0].set_ylabel("seconds")
    panels[0].legend(fontsize=7.5)
    return drawing
