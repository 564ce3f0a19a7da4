"""Measure the light floor: install time and size, regions per second on one core and two, peak memory.

Run from the repository's root: python benchmarks/light.py -o benchmarks/results/light.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import in_own_process, peak_megabytes, surroundings

ROUNDS = 7
REGIONS = 20


def install() -> dict[str, float]:
    """Return seconds and megabytes of installing Maskwise into a fresh environment (with pip's cache, if any)."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([f"{folder}/bin/pip", "install", "--quiet", "--disable-pip-version-check", "."], check=True)
        seconds = time.monotonic() - started
        size = sum(path.lstat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {"seconds": round(seconds, 1), "megabytes": round(size / 1e6)}


def speed() -> dict[str, float]:
    """Return the median regions per second of `Predictor.predict` on a 600 x 400 photograph, and peak memory."""
    from maskwise import Mask, Predictor, load_image

    image = load_image("examples/coffee.jpg")
    masks = [Mask.from_file(path) for path in sorted(Path("examples").glob("coffee-*.png"))]
    masks = (masks * REGIONS)[:REGIONS]
    predictor = Predictor(mode="exact")
    predictor.predict(image, masks)
    rates = []
    for _ in range(ROUNDS):
        started = time.monotonic()
        predictor.predict(image, masks)
        rates.append(REGIONS / (time.monotonic() - started))
    return {"regions_per_s": round(statistics.median(rates), 1), "peak_megabytes": peak_megabytes()}


def start_to_answer() -> float:
    """Return the median seconds of a whole `maskwise predict` with one mask."""
    command = [
        str(Path(sys.executable).with_name("maskwise")),
        "predict",
        "examples/cat.jpg",
        "--mask",
        "examples/cat-cat.png",
    ]
    seconds = []
    for _ in range(ROUNDS):
        started = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.monotonic() - started)
    return round(statistics.median(seconds), 2)


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required="--speed" not in sys.argv)
    parser.add_argument("--speed", action="store_true", help="measure speed alone, on the cores that are given")
    args = parser.parse_args()
    if args.speed:
        print(json.dumps(speed()))
        return
    from maskwise.data.atomic_files import write_json

    write_json(
        args.output,
        {
            **surroundings("onnxruntime"),
            "one_core": in_own_process(__file__, "--speed", cores=1),
            "two_cores": in_own_process(__file__, "--speed", cores=2),
            "predict_command_seconds": start_to_answer(),
            "install": install(),
        },
    )
    print(args.output.read_text())


if __name__ == "__main__":
    main()
