"""Measure how fast the ways of `ways.py` name the masks of one image; also start-up and a large image.

The ways take turns within one process, so that what disturbs one disturbs all; figures are medians of the rounds,
ratios medians of each round's. Torch is needed. Run from the repository's root:
python benchmarks/speed.py -o benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import in_own_process, peak_megabytes, surroundings, write_results
from parts import parts
from scenes import read_scene, write_scenes
from ways import ENOUGH, FEW, MODES, WAYS, Ready, Way, Work, open_files, usable

from maskwise.model.session import available_cores

ROUNDS = {1: 9, FEW: 5, ENOUGH: 5, 100: 5}
"""Rounds for each number of masks."""
COMMAND_ROUNDS = 9
LARGE_HW = (3000, 4000)
LARGE_MASKS = 100
COMMANDS = {
    "maskwise predict, one mask": ["maskwise", "predict", "examples/cat.jpg", "--mask", "examples/cat-cat.png"],
    "maskwise --help": ["maskwise", "--help"],
    "python -c 'import maskwise'": ["python", "-c", "import maskwise"],
    "python -c pass": ["python", "-c", "pass"],
}


def write_all(folder: Path) -> None:
    """Write an image per number of masks, named by that number, and the large one."""
    for count in ROUNDS:
        write_scenes(folder / str(count), masks=count)
    write_scenes(folder / "large", masks=LARGE_MASKS, image_hw=LARGE_HW)


def timed(work: Work) -> float:
    """Return the seconds that a function takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def segments_of(folder: Path, count: int, way: Way) -> Path:
    """Return the masks on which a way is measured: fewer for slow ways."""
    return folder / str(way.measured_on(count)) / "segments.json"


def in_turn(opened: dict[str, Ready], folder: Path, count: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each way for an image, per round; every other round goes backwards."""
    works = {name: ready(segments_of(folder, count, WAYS[name])) for name, ready in opened.items()}
    longer = {name: count / WAYS[name].measured_on(count) for name in works}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name in list(works)[:: 1 if number % 2 == 0 else -1]:
            seconds[name].append(timed(works[name]) * longer[name])
    return seconds


def compare(folder: Path, device: str, *, quick: bool) -> dict[str, Any]:
    """Measure all ways on the cores of this process, or a GPU.

    Returns:
        By number of masks, seconds of each way in every round.
    """
    opened = {name: way.open(device, available_cores()) for name, way in usable(device).items()}
    for count in list(ROUNDS)[:2]:  # Warm up: memory is allocated and kernels are chosen.
        in_turn(opened, folder, count, 1)
    return {str(count): in_turn(opened, folder, count, 1 if quick else rounds) for count, rounds in ROUNDS.items()}


def memory(folder: Path, name: str) -> dict[str, int]:
    """Return the peak memory of one way in this process, in megabytes, up to each number of masks."""
    ready, peaks = WAYS[name].open("cpu", available_cores()), {}
    for count in ROUNDS:
        ready(segments_of(folder, count, WAYS[name]))()
        peaks[str(count)] = peak_megabytes()
    return peaks


def large(folder: Path, mode: str) -> dict[str, float]:
    """Return seconds and peak memory of naming 100 masks of a large image from files, alone in this process."""
    segments = folder / "large" / "segments.json"
    seconds = timed(open_files(mode, "cpu", available_cores())(segments))
    peak = peak_megabytes()
    return {"seconds": seconds, "of_which_reading": timed(lambda: read_scene(segments)), "peak_megabytes": peak}


def besides(folder: Path) -> dict[str, dict[str, float]]:
    """Return the times of everything besides the network, by image."""
    images = {"20 masks": "20", "100 masks": "100", f"{LARGE_MASKS} masks of 4000 x 3000": "large"}
    return {name: parts(folder / image / "segments.json") for name, image in images.items()}


def commands(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each whole command, run in turn."""
    programs = {name: str(Path(sys.executable).with_name(name)) for name in ("maskwise", "python")}
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, (program, *args) in COMMANDS.items():
            run = [programs[program], *args]
            seconds[name].append(timed(lambda run=run: subprocess.run(run, check=True, stdout=subprocess.DEVNULL)))
    return seconds


def places() -> dict[str, tuple[int | None, str]]:
    """Return where the ways are compared: cores and device."""
    import torch

    gpu = {torch.cuda.get_device_name(): (None, "cuda")} if torch.cuda.is_available() else {}
    return {
        name: (count, "cpu") for name, count in (("one core", 1), ("two cores", 2)) if count <= available_cores()
    } | gpu


def measure(*, quick: bool) -> dict[str, Any]:
    """Measure everything, each part in a process of its own."""
    results: dict[str, Any] = surroundings("torch", "torchvision", "timm", "onnxruntime", "numpy")
    with tempfile.TemporaryDirectory() as name:
        write_all(Path(name))
        more = ["--quick"] if quick else []
        results["rounds"] = {str(count): 1 if quick else rounds for count, rounds in ROUNDS.items()}
        results["compared"] = {
            place: in_own_process(__file__, "--compare", name, device, *more, cores=count)
            for place, (count, device) in places().items()
        }
        results["peak_megabytes"] = {way: in_own_process(__file__, "--memory", name, way, cores=2) for way in WAYS}
        results["large"] = {mode: in_own_process(__file__, "--large", name, mode, cores=2) for mode in MODES}
        results["besides"] = in_own_process(__file__, "--besides", name)
    results["commands"] = commands(1 if quick else COMMAND_ROUNDS)
    return results


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, help="folder to write; made if missing")
    parser.add_argument("--besides", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="one round of each, to try it out")
    for part in ("compare", "memory", "large"):
        parser.add_argument(f"--{part}", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compare:
        print(json.dumps(compare(Path(args.compare[0]), args.compare[1], quick=args.quick)))
    elif args.memory:
        print(json.dumps(memory(Path(args.memory[0]), args.memory[1])))
    elif args.large:
        print(json.dumps(large(Path(args.large[0]), args.large[1])))
    elif args.besides:
        print(json.dumps(besides(Path(args.besides))))
    else:
        write(measure(quick=args.quick), args.output)


def write(results: dict[str, Any], output: Path) -> None:
    """Write the results as JSON, Markdown and a figure; print the Markdown."""
    from speed_page import figure, page  # Imported here: Matplotlib's memory would count as that of what is measured.

    write_results(output, "speed", results, page(results), figure(results))


if __name__ == "__main__":
    main()
