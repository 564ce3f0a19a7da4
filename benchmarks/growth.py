"""Measure how time and memory of `maskwise label` grow with images and with masks per image.

Each run is a process of its own. By default the model is a tiny one with random weights, the one that the tests make:
what is left is what `label` itself costs, and a thousand images take no hour. Run from the repository's root:
python benchmarks/growth.py -o benchmarks/results
The same of shards, and how fast `label` is beside `Predictor`, are parts of their own, added to the results that are
there (ten minutes): python benchmarks/growth.py --most 10000 --parts shards rate -o benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from machine import in_own_process, peak_megabytes, surroundings, write_results
from scenes import IMAGE_HW, read_scene, write_scenes

from maskwise import Predictor, label_coco, label_shards
from maskwise.model.predictor import MODES
from maskwise.model.session import available_cores

IMAGES = (10, 30, 100, 300, 1000, 3000, 10000)
USUAL_MOST = 1000
MASKS_OF_MANY = 7
"""Masks per image, as in COCO."""
SMALL_HW = (120, 160)
MASKS = (1, 3, 10, 30, 100, 300)
IMAGES_OF_MASKS = 10
SERIES = ("images", "masks")
FIGURES = ("seconds", "processor_seconds", "peak_megabytes")


def measure(segments: Path, model: Path, *, shards: bool = False) -> dict[str, float]:
    """Return time and memory of labelling a file, alone in this process.

    Args:
        segments: COCO file, beside its images.
        model: model file.
        shards: whether the results go to shards.
    """
    wall, processor = time.perf_counter(), time.process_time()
    predictor = Predictor(model, threads=available_cores())
    if shards:
        label_shards(segments.parent, segments, segments.parent / "named", predictor)
    else:
        label_coco(segments, segments.parent, segments.with_name("named.json"), predictor)
    return {
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "peak_megabytes": peak_megabytes(),
        "file_megabytes": segments.stat().st_size / 1e6,
    }


def measured(
    folder: Path, model: Path, images: int, masks: int, *, image_hw: tuple[int, int] = IMAGE_HW, shards: bool = False
) -> dict[str, float]:
    """Make the files, then measure in a fresh process."""
    segments = write_scenes(folder / f"{images}-{masks}", images=images, masks=masks, image_hw=image_hw)
    figures = in_own_process(__file__, "--measure", segments, model, *(["--shards"] if shards else []))
    return {"images": images, "masks": masks, **{key: float(f"{value:.4g}") for key, value in figures.items()}}


def tiny_model(folder: Path) -> Path:
    """Return the model file that the tests make."""
    sys.path.append(str(Path(__file__).parents[1] / "tests/training"))
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


def growth_of_shards(most: int) -> dict[str, Any]:
    """Return the measurements of shards: small images, so that ten thousand take minutes."""
    results: dict[str, Any] = {**surroundings("onnxruntime", "numpy"), "image_hw": SMALL_HW, "points": []}
    with tempfile.TemporaryDirectory() as name:
        model = tiny_model(Path(name))
        for images in (one for one in IMAGES if 100 <= one <= most):
            point = measured(Path(name), model, images, MASKS_OF_MANY, image_hw=SMALL_HW, shards=True)
            results["points"].append(point)
    return {**results, "lines": {key: line(results["points"], "images", key) for key in FIGURES}}


def rates(model: Path | None, rounds: int = 3, images: int = 4) -> dict[str, Any]:
    """Return how long `Predictor` and `label` take for the same regions, on one thread and in turns.

    The predictor gets images and masks that lie in memory; `label` reads and writes files.

    Args:
        model: model file (default: the built-in model).
        rounds: number of turns; the other modes take part in the first.
        images: number of images, of seven masks each.
    """
    results: dict[str, Any] = {**surroundings("onnxruntime", "numpy"), "model": model.name if model else "built-in"}
    results |= {"images": images, "masks": MASKS_OF_MANY, "turns": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = read_scene(write_scenes(folder / "one", masks=MASKS_OF_MANY))
        segments = write_scenes(folder / "many", images=images, masks=MASKS_OF_MANY)
        named = {mode: Predictor(model, mode=mode, threads=1) for mode in MODES}
        exact = named["exact"]
        exact.run(*scene)
        ways: dict[str, Callable[[int], object]] = {
            "predictor": lambda _: list(exact.run_many([scene] * images)),
            "file": lambda turn: label_coco(segments, segments.parent, folder / f"{turn}.json", exact),
            "shards": lambda turn: label_shards(segments.parent, segments, folder / f"exact{turn}", exact),
            "auto": lambda turn: label_shards(segments.parent, segments, folder / f"auto{turn}", named["auto"]),
            "shared": lambda turn: label_shards(segments.parent, segments, folder / f"shared{turn}", named["shared"]),
        }
        for turn in range(rounds):
            chosen = ways if turn == 0 else {way: call for way, call in ways.items() if way not in MODES}
            results["turns"].append({way: _timed(partial(call, turn)) for way, call in chosen.items()})
    for way in ways:
        turns = [turn for turn in results["turns"] if way in turn]
        for key in ("seconds", "processor_seconds"):
            results.setdefault(key, {})[way] = median(turn[way][key] for turn in turns)
            shares = [turn["predictor"][key] / turn[way][key] for turn in turns]
            results.setdefault(f"share_by_{key}", {})[way] = round(median(shares), 3)
    return results


def _timed(call: Callable[[], object]) -> dict[str, float]:
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}


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
    parser.add_argument("--parts", nargs="+", choices=("growth", "shards", "rate"), default=["growth"])
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shards", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, shards=args.shards)))
        return
    there = args.output / "growth.json"
    results = json.loads(there.read_text()) if there.is_file() else {}
    if "growth" in args.parts:
        results |= growth(args.model, args.most)
    if "shards" in args.parts:
        results["shards"] = growth_of_shards(args.most)
    if "rate" in args.parts:
        results["rate"] = rates(args.model)
    write(results, args.output)


def write(results: dict[str, Any], output: Path) -> None:
    """Write the results as JSON, Markdown and a figure; print the Markdown."""
    from growth_page import figure, page  # Imported here: Matplotlib's memory would count as that of what is measured.

    write_results(output, "growth", results, page(results), figure(results))


if __name__ == "__main__":
    main()
