"""Measure what Ray costs: two workers of one core each against two plain `Predictor`s of one core each.

Both name the same regions with the same model, in turns; the predictors get images and masks that lie in memory, the
workers read images, decode masks and write shards. Each process's time counts from its first block on, so that no start
counts; it is given apart. Run from the repository's root (five minutes):
python benchmarks/ray_overhead.py -o benchmarks/results/ray.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from machine import surroundings
from scenes import read_scene, write_scenes

from maskwise import Predictor, label_shards
from maskwise.data.atomic_files import write_json
from maskwise.data.image_blocks import Blocks, Sample
from maskwise.tasks import ray_pool, sharded_labelling
from maskwise.tasks.label_engines import Engine

MASKS = 7
"""Masks per image, as in COCO."""
IMAGES = 2
"""Images per block."""
WORKERS = 2
WAYS = ("two_predictors", "two_ray_workers", "one_predictor")
SHARES = ("share", "share_by_processor_time", "share_of_twice_one")
"""Of two predictors at the same time; the same by processor time, which other programs disturb less; of twice the rate
of one, which is too low where other programs run: two processes get less than twice the share of one."""


def plain(segments: Path, blocks: int) -> None:
    """Name blocks with one predictor; prints the time and the processor time whenever one is done."""
    predictor = Predictor(threads=1)
    image, masks = read_scene(segments)
    predictor.run(image, masks[:1])
    print("ready", flush=True)
    sys.stdin.readline()
    moments = [(time.time(), time.process_time())]
    for _ in range(blocks):
        for _ in predictor.run_many([(image, masks)] * IMAGES):
            pass
        moments.append((time.time(), time.process_time()))
    print(json.dumps(moments))


def turn_of_predictors(segments: Path, blocks: int, count: int) -> dict[str, float]:
    """Return rate and processor time of predictors, each a process with one thread."""
    command = [sys.executable, __file__, "--plain", str(segments), str(blocks // WORKERS)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(count)]
    for child in children:
        child.stdout.readline()
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    return rates([json.loads(child.communicate()[0].splitlines()[-1]) for child in children])


def rates(processes: list[list[tuple[float, float]]]) -> dict[str, float]:
    """Return regions per second of all processes together, and processor time per region.

    Args:
        processes: of each the times and processor times between its blocks, seconds.
    """
    processes = [moments for moments in processes if len(moments) > 1]
    regions = [(len(moments) - 1) * IMAGES * MASKS for moments in processes]
    seconds = [moments[-1][0] - moments[0][0] for moments in processes]
    processor = sum(moments[-1][1] - moments[0][1] for moments in processes)
    return {
        "regions_per_s": sum(count / time for count, time in zip(regions, seconds, strict=True)),
        "processor_s_per_region": processor / sum(regions),
    }


class TimedBlocks:
    """Blocks that note time and processor time of their worker whenever it begins one."""

    def __init__(self, blocks: Blocks, log: Path) -> None:
        self.blocks, self.log = blocks, log
        self.categories, self.size, self.key = blocks.categories, blocks.size, blocks.key

    def __len__(self) -> int:
        return len(self.blocks)

    def read(self, block: int) -> Iterator[Sample]:
        """Yield the images of a block."""
        with open(self.log, "a") as file:
            file.write(json.dumps([os.getpid(), time.time(), time.process_time()]) + "\n")
        return self.blocks.read(block)


def turn_of_ray(segments: Path, output: Path, engine: Engine) -> dict[str, float]:
    """Return the rate of workers, their processor time, and when the first shard was done.

    Args:
        segments: COCO file of the scenes.
        output: folder of the shards; new.
        engine: `ray`; or `local`, to compare.
    """
    start, log = time.time(), output.with_suffix(".log")
    predictor, making = Predictor(threads=1), sharded_labelling.blocks_of
    with mock.patch.object(
        sharded_labelling, "blocks_of", lambda *args, **more: TimedBlocks(making(*args, **more), log)
    ):
        label_shards(segments.parent, segments, output, predictor, engine=engine, shard_images=IMAGES)
    begun = [json.loads(line) for line in log.read_text().splitlines()]
    processes = [[tuple(rest) for pid, *rest in begun if pid == one] for one in {pid for pid, *_ in begun}]
    first = min(path.stat().st_mtime for path in output.glob("part-*"))
    return {**rates(processes), "first_shard_s": first - start}


def overhead(turns: int, blocks: int) -> dict[str, Any]:
    """Return the rates of all turns and their medians."""
    import ray

    results: dict[str, Any] = {**surroundings("onnxruntime", "ray", "numpy"), "turns": [], "blocks": blocks}
    results |= {"images_per_block": IMAGES, "masks_per_image": MASKS, "workers": WORKERS}
    start = time.time()
    ray.init("local", num_cpus=WORKERS, logging_level="ERROR", log_to_driver=False)
    results["ray_start_s"] = time.time() - start
    ray_pool.start_ray()
    with tempfile.TemporaryDirectory(prefix="ray-overhead-") as name:
        one = write_scenes(Path(name, "one"), masks=MASKS)
        many = write_scenes(Path(name, "many"), images=blocks * IMAGES, masks=MASKS)
        for number in range(turns):
            turn: dict[str, Any] = {"load": round(os.getloadavg()[0], 1)}
            turn["two_predictors"] = turn_of_predictors(one, blocks, WORKERS)
            turn["two_ray_workers"] = turn_of_ray(many, Path(name, f"out{number}"), "ray")
            turn["one_predictor"] = turn_of_predictors(one, blocks, 1)
            speed = {way: turn[way]["regions_per_s"] for way in WAYS}
            turn["share"] = speed["two_ray_workers"] / speed["two_predictors"]
            turn["share_of_twice_one"] = speed["two_ray_workers"] / speed["one_predictor"] / 2
            used = {way: turn[way]["processor_s_per_region"] for way in WAYS}
            turn["share_by_processor_time"] = used["two_predictors"] / used["two_ray_workers"]
            print(json.dumps(turn), flush=True)
            results["turns"].append(turn)
    ray.shutdown()
    for key in SHARES:
        results[key] = statistics.median(turn[key] for turn in results["turns"])
    for way in WAYS:
        results[way] = statistics.median(turn[way]["regions_per_s"] for turn in results["turns"])
    return results


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=12, help="of two images each")
    parser.add_argument("--plain", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        plain(Path(args.plain[0]), int(args.plain[1]))
        return
    results = overhead(args.turns, args.blocks)
    print(json.dumps({key: results[key] for key in SHARES}))
    if args.output:
        write_json(args.output, json.loads(json.dumps(results), parse_float=lambda text: round(float(text), 4)))


if __name__ == "__main__":
    main()
