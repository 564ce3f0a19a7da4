"""Measure the overlay of a busy picture: 200 masks on a photograph of 12 megapixels, time and peak memory.

Each part runs in a process of its own: drawing and writing alone, with made-up names; and all of it, with naming.

Run from the repository's root (a minute on two cores): python benchmarks/overlay.py -o benchmarks/results/overlay.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import in_own_process, peak_megabytes, surroundings
from scenes import read_scene, write_scenes

from maskwise import Prediction, Predictor, draw_overlay
from maskwise.data.atomic_files import write_json
from maskwise.model.prediction import Name
from maskwise.reports.drawing import write_picture

IMAGE_HW = (3000, 4000)
MASKS = 200
ROUNDS = 3
NAMES = ("person", "dog", "cup", "car", "traffic light", "chair", "bird")


def measure(segments: Path, named: bool) -> dict[str, Any]:
    """Return seconds of reading, naming, drawing and writing, and peak memory, MB."""
    moments = [time.perf_counter()]
    image, masks = read_scene(segments)
    moments.append(time.perf_counter())
    if named:
        predictions = Predictor().predict(image, masks)
    else:
        names = [NAMES[number % len(NAMES)] for number in range(len(masks))]
        predictions = [Prediction((Name(name, 1, 0.9),)) for name in names]
    moments.append(time.perf_counter())
    picture = draw_overlay(image, masks, predictions)
    moments.append(time.perf_counter())
    write_picture(segments.with_suffix(".png"), picture)
    moments.append(time.perf_counter())
    parts = {
        part: round(after - before, 2)
        for part, before, after in zip(("read", "name", "draw", "write"), moments, moments[1:], strict=False)
    }
    return {**parts, "total": round(moments[-1] - moments[0], 2), "peak_mb": peak_megabytes()}


def main() -> None:
    """Measure in turns, write the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="results (JSON)")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(Path(args.measure[0]), args.measure[1] == "named")))
        return
    if args.output is None:
        parser.error("give -o")
    record: dict[str, Any] = {**surroundings("onnxruntime", "opencv-python-headless", "pillow")}
    record |= {"image_hw": IMAGE_HW, "masks": MASKS, "rounds": ROUNDS}
    with tempfile.TemporaryDirectory() as folder:
        segments = write_scenes(Path(folder) / "scene", masks=MASKS, image_hw=IMAGE_HW)
        for way in ("drawing", "named"):
            rounds = [in_own_process(__file__, "--measure", segments, way) for _ in range(ROUNDS)]
            record[way] = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    write_json(args.output, record)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
