"""Show the results of `growth.py` as a page and a figure."""

from __future__ import annotations

from typing import Any

import numpy as np
from machine import described
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maskwise.reports.formatting import table

AXES = {"images": "images of {masks} masks", "masks": "masks of each of {images} images"}
FURTHER = {"images": "image", "masks": "mask of every image"}
DRAWN = {"processor_seconds": "processor time, s", "peak_megabytes": "peak memory, MB"}
HEADER = ("images", "masks of each", "time", "processor time", "peak memory", "COCO file")


def page(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    return "\n\n".join(
        [
            "# How the cost of `maskwise label` grows",
            _introduction(results),
            "![Time and memory against images and masks](growth.png)",
            *(_series(results, axis) for axis in AXES),
            *_shards(results),
            *_rate(results),
            "",
        ]
    ).removesuffix("\n")


def _introduction(results: dict[str, Any]) -> str:
    tiny = "a tiny network with random weights, so that what is seen is what `label` itself costs"
    model = tiny if results["model"] == "tiny" else results["model"]
    return (
        "Photographs of 640 x 480 pixels with run-length encoded masks, each line's named in a process of its own; the"
        f" model is {model}. Memory is resident, imports, the model and the mapped COCO file included."
        f" {described(results)}"
    )


def _shards(results: dict[str, Any]) -> list[str]:
    if "shards" not in results:
        return []
    part = results["shards"]
    rows = [
        (f"{point['images']:,}", f"{point['seconds']:.1f} s", f"{point['peak_megabytes']:.0f} MB")
        for point in part["points"]
    ]
    height, width = part["image_hw"]
    text = (
        f"Images of {width} x {height} pixels with {part['points'][0]['masks']} masks each, the tiny network."
        f" {described(part)} The straight line: {part['lines']['peak_megabytes']['slope'] * 1000:.3g} kB of memory for"
        " each further image, most of it the index of the COCO file."
    )
    return ["## Into shards", table(("images", "time", "peak memory"), rows), text]


def _rate(results: dict[str, Any]) -> list[str]:
    if "rate" not in results:
        return []
    part = results["rate"]
    regions = part["images"] * part["masks"]
    names = {"predictor": "`Predictor` alone, exact", "file": "`label`, into a file", "shards": "`label`, into shards"}
    names |= {"auto": "`label`, into shards, `--mode auto`", "shared": "`label`, into shards, `--mode shared`"}
    rows = [
        (
            name,
            f"{part['seconds'][way] / regions * 1000:.0f} ms",
            f"{part['processor_seconds'][way] / regions * 1000:.0f} ms",
            f"{part['share_by_seconds'][way]:.1%}",
            f"{part['share_by_processor_seconds'][way]:.1%}",
        )
        for way, name in names.items()
    ]
    header = ("", "time of a region", "processor time", "rate of `Predictor`'s", "by processor time")
    text = (
        f"{part['images']} images of 640 x 480 pixels with {part['masks']} masks each, the {part['model']} model, one"
        f" thread, {len(part['turns'])} rounds in turns, medians. `Predictor` gets images and masks in memory, `label`"
        f" reads and writes files. {described(part)}"
    )
    return ["## Beside `Predictor`", table(header, rows), text]


def _series(results: dict[str, Any], axis: str) -> str:
    rows = [
        (
            f"{point['images']:,}",
            point["masks"],
            f"{point['seconds']:.2f} s",
            f"{point['processor_seconds']:.2f} s",
            f"{point['peak_megabytes']:.0f} MB",
            f"{point['file_megabytes']:.2f} MB",
        )
        for point in results[axis]
    ]
    lines = results[f"by_{axis}"]
    text = (
        f"The straight lines: {lines['processor_seconds']['slope'] * 1000:.3g} ms of processor time (R²"
        f" {lines['processor_seconds']['r2']:.4f}) and {lines['peak_megabytes']['slope'] * 1000:.3g} kB of memory for"
        f" each further {FURTHER[axis]}."
    )
    return f"## By {AXES[axis].format(**results[axis][0])}\n\n{table(HEADER, rows)}\n\n{text}"


def figure(results: dict[str, Any]) -> Figure:
    """Return a figure of processor time and memory against images and masks, with least-squares lines."""
    drawing = Figure(figsize=(10, 7), dpi=120, layout="constrained")
    for row, (key, text) in zip(drawing.subplots(len(DRAWN), len(AXES)), DRAWN.items(), strict=True):
        for axes, axis in zip(row, AXES, strict=True):
            _draw(axes, results, axis, key)
            axes.set(
                xlabel=AXES[axis].format(**results[axis][0]),
                ylabel=text,
                ylim=(0, 1.1 * max(point[key] for point in results[axis])),
            )
    return drawing


def _draw(axes: Axes, results: dict[str, Any], axis: str, key: str) -> None:
    x, y = (np.array([point[name] for point in results[axis]]) for name in (axis, key))
    straight = results[f"by_{axis}"][key]
    ends = np.array([0, x.max()])
    axes.plot(ends, straight["start"] + straight["slope"] * ends, color="#777777", linewidth=1)
    axes.plot(x, y, "o", color="#1f5fa8")
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
