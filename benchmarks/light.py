"""What the light floor costs: install seconds and size, regions per second on one core and two, peak memory.

Run from the repository's root: python benchmarks/light.py -o benchmarks/results/light.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 7
REGIONS = 20


def install() -> dict[str, float]:
    """Seconds and megabytes of a fresh virtual environment with Maskwise in it (packages from pip's cache, if any)."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([f"{folder}/bin/pip", "install", "--quiet", "--disable-pip-version-check", "."], check=True)
        seconds = time.monotonic() - started
        size = sum(path.lstat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {"seconds": round(seconds, 1), "megabytes": round(size / 1e6)}


def speed(cores: int) -> dict[str, float]:
    """Regions per second of `Predictor.predict` on a 600 x 400 photograph, median of several; peak memory."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
    from maskwise import Mask, Predictor, load_image

    image = load_image("examples/coffee.jpg")
    masks = [Mask.from_file(path) for path in sorted(Path("examples").glob("coffee-*.png"))]
    masks = (masks * REGIONS)[:REGIONS]
    predictor = Predictor(threads=cores)
    predictor.predict(image, masks)
    rates = []
    for _ in range(ROUNDS):
        started = time.monotonic()
        predictor.predict(image, masks)
        rates.append(REGIONS / (time.monotonic() - started))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"regions_per_s": round(statistics.median(rates), 1), "peak_megabytes": round(peak * 1024 / 1e6)}


def start_to_answer() -> float:
    """Seconds of a whole `maskwise predict` of one mask, median of several."""
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


def in_own_process(part: str) -> dict[str, float]:
    """One part in a process of its own, so that its memory and its cores are its own."""
    done = subprocess.run([sys.executable, __file__, "--part", part], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Measure everything and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required="--part" not in sys.argv)
    parser.add_argument("--part", choices=["1", "2"])
    args = parser.parse_args()
    if args.part:
        print(json.dumps(speed(int(args.part))))
        return
    from importlib.metadata import version

    from maskwise.files import write_json

    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    write_json(
        args.output,
        {
            "machine": f"{processor()}, {os.cpu_count()} cores",
            "commit": commit,
            "python": platform.python_version(),
            "onnxruntime": version("onnxruntime"),
            "one_core": in_own_process("1"),
            "two_cores": in_own_process("2"),
            "predict_command_seconds": start_to_answer(),
            "install": install(),
        },
    )
    print(args.output.read_text())


if __name__ == "__main__":
    main()
