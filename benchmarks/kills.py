"""Kill `maskwise label` at random moments, again and again; the output must be that of an undisturbed run to the byte.

Run from the repository's root (about five minutes): python benchmarks/kills.py --kills 200 -o benchmarks/results/kills
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import described, surroundings

from maskwise.data.atomic_files import write_json, write_text

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]  # Its makers of a model and of photographs.

from colour_model import colour_model  # noqa: E402
from two_objects import write_two_objects  # noqa: E402


def label(folder: Path, model: Path, output: Path, seconds: float | None = None) -> bool:
    """Label, and kill the process after some time; return whether it ended by itself.

    Raises:
        RuntimeError: it ended with an error.
    """
    command = [sys.executable, "-m", "maskwise", "label", str(folder / "images"), str(folder / "annotations.json")]
    command += ["-o", str(output), "--model", str(model), "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()  # SIGKILL: the process can do nothing about it.
        process.communicate()
        return False
    if process.returncode:
        raise RuntimeError(f"label ended with {process.returncode}: {said}")
    return True


def kill_runs(folder: Path, kills: int, seed: int = 0, images: int = 400) -> dict[str, Any]:
    """Label a file over and over, killing runs at random moments, and compare every finished output.

    Args:
        folder: for files; empty.
        kills: minimum number of killed runs.
        seed: of the moments.
        images: photographs to label.

    Returns:
        Numbers of kills, of finished outputs, of those that differ, and of runs that resumed from a journal.
    """
    objects, model = write_two_objects(folder / "coco", images=images), colour_model(folder)
    expected = folder / "expected.json"
    start = time.monotonic()
    label(objects, model, expected)
    whole = time.monotonic() - start
    output, moments = folder / "o.json", random.Random(seed)
    counts = {"kills": 0, "finished": 0, "different": 0, "resumed": 0, "leftovers": 0}
    while counts["kills"] < kills or output.exists() or output.with_name("o.json.partial").exists():
        counts["resumed"] += output.with_name("o.json.partial").exists()
        last = counts["kills"] >= kills
        if not label(objects, model, output, None if last else moments.uniform(0.2, 1.05) * whole):
            counts["kills"] += 1
            continue
        counts["finished"] += 1
        counts["different"] += output.read_bytes() != expected.read_bytes()
        output.unlink()
        left = {path.name for path in folder.iterdir()} - {"coco", "expected.json", model.name}
        counts["leftovers"] += len(left)
        if last:
            break
    return counts


def main() -> None:
    """Kill, count and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path, required=True, help="results, without suffix")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        results = {**surroundings("onnxruntime", "numpy"), **kill_runs(Path(folder), args.kills)}
    write_json(args.output.with_suffix(".json"), results)
    text = (
        f"# Killing `maskwise label`\n\n{results['kills']} runs were killed (SIGKILL) at random moments,"
        f" {results['resumed']} resumed from a journal, {results['finished']} finished: {results['different']} outputs"
        f" differ from that of an undisturbed run, {results['leftovers']} files are left over. {described(results)}\n"
    )
    write_text(args.output.with_suffix(".md"), text)
    print(text, json.dumps(results))
    sys.exit(bool(results["different"] or results["leftovers"]))


if __name__ == "__main__":
    main()
