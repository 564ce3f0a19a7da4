"""Measure how time and memory of `maskwise label` grow with images and with masks per image.

Each run is a process of its own. By default the model is a tiny one with random weights, the one that the tests make:
what is left is what `label` itself costs, and a thousand images take no hour. Run from the repository's root:
python benchmarks/growth.py -o benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import in_own_process, peak_megabytes, surroundings, write_results
from scenes import write_scenes

from maskwise import Predictor
from maskwise.model.session import available_cores
from maskwise.tasks.labelling import label_coco

IMAGES = (10, 30, 100, 300, 1000, 3000, 10000)
USUAL_MOST = 1000
MASKS_OF_MANY = 7
"""Masks per image, as in COCO."""
MASKS = (1, 3, 10, 30, 100, 300)
IMAGES_OF_MASKS = 10
SERIES = ("images", "masks")
FIGURES = ("seconds", "processor_seconds", "peak_megabytes")


def measure(segments: Path, model: Path) -> dict[str, float]:
    """Return time and memory of labelling a file, alone in this process."""
    wall, processor = time.perf_counter(), time.process_time()
    predictor = Predictor(model, threads=available_cores())
    label_coco(segments, segments.parent, segments.with_name("named.json"), predictor)
    return {
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "peak_megabytes": peak_megabytes(),
        "file_megabytes": segments.stat().st_size / 1e6,
    }


def measured(folder: Path, model: Path, images: int, masks: int) -> dict[str, float]:
    """Make the files, then measure in a fresh process."""
    segments = write_scenes(folder / f"{images}-{masks}", images=images, masks=masks)
    figures = in_own_process(__file__, "--measure", segments, model)
    return {"images": images, "masks": masks, **{key: float(f"{value:.4g}") for key, value in figures.items()}}


def tiny_model(folder: Path) -> Path:
    """Return the model file that the tests make."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import tiny_model as tests

    return tests.tiny_model(folder)


def growth(model: Path | None, most: int) -> dict[str, Any]:
    """Return all measurements.

    Args:
        model: a model file; a tiny one is made where left out.
        most: images at most.
    """
    results: dict[str, Any] = {**surroundings("onnxruntime", "numpy"), "model": model.name if model else "tiny"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model or tiny_model(folder)
        numbers = [images for images in IMAGES if images <= most]
        results["images"] = [measured(folder, model, images, MASKS_OF_MANY) for images in numbers]
        results["masks"] = [measured(folder, model, IMAGES_OF_MASKS, masks) for masks in MASKS]
    return {**results, **{f"by_{axis}": {key: line(results[axis], axis, key) for key in FIGURES} for axis in SERIES}}


def line(points: list[dict[str, float]], axis: str, key: str) -> dict[str, float]:
    """Return the least-squares line through a figure, and its largest deviation.

    Returns:
        Its slope, its value at nothing, and the share of the variance that it explains (0 to 1).

    >>> line([{"images": 1, "s": 3}, {"images": 2, "s": 5}], "images", "s")
    {'slope': 2.0, 'start': 1.0, 'r2': 1.0}
    """
    x, y = (np.array([point[name] for point in points], dtype=float) for name in (axis, key))
    slope, start = np.polyfit(x, y, 1)
    rest = ((y - slope * x - start) ** 2).sum() / max(((y - y.mean()) ** 2).sum(), 1e-12)
    return {name: float(f"{value:.4g}") for name, value in (("slope", slope), ("start", start), ("r2", 1 - rest))}


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, help="folder to write; made if missing")
    parser.add_argument("--model", type=Path, help="model file; a tiny one where left out")
    parser.add_argument("--most", type=int, default=USUAL_MOST, help="images at most, up to 10000")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
    else:
        write(growth(args.model, args.most), args.output)


def write(results: dict[str, Any], output: Path) -> None:
    """Write the results as JSON, Markdown and a figure; print the Markdown."""
    from growth_page import figure, page  # Imported here: Matplotlib's memory would count as that of what is measured.

    write_results(output, "growth", results, page(results), figure(results))


if __name__ == "__main__":
    main()
