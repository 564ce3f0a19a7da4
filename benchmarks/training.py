"""Measure whether data loading keeps the trunk busy, and predict the hours of training on all of COCO.

Steps on real batches and on random tensors of their very shape take turns in one process. What making a sample costs is
measured apart, on one core. Run from the repository's root:
python benchmarks/training.py -o benchmarks/results
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from machine import described, surroundings

from maskwise.data.atomic_files import make_folder, write_json, write_text
from maskwise.data.images import load_image
from maskwise.reports.formatting import table
from maskwise.training.augment import jitter_colours, window_batch
from maskwise.training.batches import PREFETCHED_BATCHES, RegionBatch, read_batches
from maskwise.training.data import ResumableBatchSampler, SampleRequest, TrainingRegions, read_data
from maskwise.training.distributed import make_accelerator
from maskwise.training.loop import Run, start_run, take_step
from maskwise.training.settings import TrainSettings, read_recipe

RECIPES = ("coco-resnet50", "dinov2")
"""Recipes whose steps are measured."""
WHOLE = ("coco-resnet50", "published-add-first")
"""Recipes whose hours on all of COCO are predicted."""
PUBLISHED_RATE = 90 * 1_281_167 / (8.75 * 3600)
"""Images of 224 x 224 a second that train a ResNet-50 on one A100 in mixed precision: 90 times ImageNet in 8.75 hours.

Source: NVIDIA, ResNet v1.5 for MXNet, performance (catalog.ngc.nvidia.com). An H200 is faster.
"""
GPU_CORES = 16
SAMPLES = 300


@dataclass(frozen=True)
class Steps:
    """Training speed in images per second: medians, and the median ratio within a round."""

    recipe: str
    batch_size: int
    real_per_s: float
    random_per_s: float
    ratio: float


@dataclass(frozen=True)
class Making:
    """Milliseconds of one core per sample, and for its parts.

    Attributes:
        sample: all of it.
        decoding: of its image.
        colours: varying them.
        half: share of the samples whose view shows at least two image pixels in one, each way: a JPEG could be decoded
            at half its size for them.
    """

    recipe: str
    sample: float
    decoding: float
    colours: float
    half: float


def settings_of(recipe: str, steps: int) -> TrainSettings:
    """Return a recipe's settings for a number of timed steps: on a CPU batches of 32, one worker; random weights."""
    settings = read_recipe(Path("recipes") / f"{recipe}.toml")
    if not torch.cuda.is_available():
        schedule = replace(settings.schedule, batch_size=32)
        settings = replace(settings, data=replace(settings.data, workers=1), schedule=schedule)
    made = steps + 2 * before(settings)  # Workers must still be busy when the last step is timed.
    schedule = replace(settings.schedule, steps=made, head_steps=0, warmup_steps=0)
    return replace(settings, weights="random", schedule=schedule)


def random_like(batch: RegionBatch) -> RegionBatch:
    """Return a batch of noise with the shapes, image indices, targets and weights of another."""
    noise = {name: torch.randint_like(getattr(batch, name), 0, 256) for name in ("images", "masks")}
    return replace(batch, **noise)


def rate(run: Run, batches: Iterator[RegionBatch], steps: int) -> float:
    """Return the images per second of training steps, waiting for batches included.

    As many steps as batches are made ahead go before the clock starts: those that are timed then wait for as many to be
    made as they take.
    """
    for batch in itertools.islice(batches, before(run.settings)):
        take_step(run, batch)
    started = time.perf_counter()
    for batch in itertools.islice(batches, steps):
        take_step(run, batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return steps * run.settings.schedule.batch_size / (time.perf_counter() - started)


def before(settings: TrainSettings) -> int:
    """Return the number of warm-up steps."""
    return PREFETCHED_BATCHES * settings.data.workers + 1


def real_batches(run: Run) -> Iterator[RegionBatch]:
    """Yield batches as training gets them."""
    draws = ResumableBatchSampler(run.settings, 0)
    return read_batches(TrainingRegions(run.split, run.settings), run.settings.data.workers, batch_sampler=draws)


def measure_steps(recipe: str, rounds: int, steps: int) -> Steps:
    """Measure steps on real batches and on noise, in turn."""
    settings = settings_of(recipe, steps)
    rates: dict[str, list[float]] = {"real": [], "random": []}
    with tempfile.TemporaryDirectory() as folder:
        run = start_run(settings, read_data(settings.data), Path(folder), make_accelerator("auto", bf16=True))
        noise = itertools.repeat(random_like(next(real_batches(run))))
        for _ in range(rounds):
            rates["real"].append(rate(run, real_batches(run), steps))
            rates["random"].append(rate(run, noise, steps))
    ratios = np.divide(rates["real"], rates["random"])
    return Steps(
        recipe,
        settings.schedule.batch_size,
        *(float(np.median(rates[kind])) for kind in rates),
        float(np.median(ratios)),
    )


def processor_ms(work: Callable[[int], object], times: int) -> float:
    """Return the milliseconds of processor time per call."""
    started = time.process_time()
    for number in range(times):
        work(number)
    return (time.process_time() - started) / times * 1e3


def measure_making(recipe: str) -> Making:
    """Measure what a sample costs one core."""
    settings = settings_of(recipe, SAMPLES)
    split = read_data(settings.data)
    regions = TrainingRegions(split, settings)
    regions[SampleRequest(0)]
    drawn = [split.train[regions.draw(np.random.default_rng(number))] for number in range(SAMPLES)]
    views = [settings.view.view(region.read_mask()) for region in drawn]
    pixels = regions[SampleRequest(0)].pixels
    rng = np.random.default_rng(0)
    return Making(
        recipe,
        processor_ms(lambda number: regions[SampleRequest(number)], SAMPLES),
        processor_ms(lambda number: load_image(drawn[number].image_path), SAMPLES),
        processor_ms(lambda _: jitter_colours(pixels, settings.augment, rng), SAMPLES),
        float(np.mean([view.box_xyxy[2] - view.box_xyxy[0] >= 2 * view.size_hw[1] for view in views])),
    )


def pictures(settings: TrainSettings) -> float:
    """Return a run's images in units of 224 x 224 pixels; for windows, estimated from a thousand draws."""
    schedule, window = settings.schedule, settings.window
    if not window.enabled:
        return schedule.steps * schedule.batch_size * settings.view.size**2 / 224**2
    drawn = [window_batch(window, schedule.batch_size, np.random.default_rng(number)) for number in range(1000)]
    return schedule.steps * float(np.mean([h * w * count for (h, w), count in drawn])) / 224**2


def hours(recipe: str, making: Making) -> dict[str, Any]:
    """Return the hours of a run on all of COCO on one GPU, and whether its CPU cores keep up."""
    wanted = pictures(read_recipe(Path("recipes") / f"{recipe}.toml"))
    return {
        "recipe": recipe,
        "pictures": wanted,
        "gpu_hours": wanted / PUBLISHED_RATE / 3600,
        "samples_per_s": GPU_CORES / making.sample * 1e3,
    }


def page(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    steps = [
        (f"`recipes/{s['recipe']}.toml`", s["batch_size"], f"{s['real_per_s']:.1f}", f"{s['random_per_s']:.1f}",
         f"{100 * s['ratio']:.0f} %")
        for s in results["steps"]
    ]  # fmt: skip
    making = [
        (f"`recipes/{m['recipe']}.toml`", f"{m['sample']:.1f}", f"{m['decoding']:.1f}", f"{m['colours']:.1f}",
         f"{100 * m['half']:.0f} %")
        for m in results["making"]
    ]  # fmt: skip
    whole = [
        (f"`recipes/{h['recipe']}.toml`", f"{h['pictures'] / 1e6:.1f} million", f"{h['gpu_hours']:.1f}")
        for h in results["whole"]
    ]
    return "\n\n".join([
        "# Does training wait for its images?",
        f"{described(results)} Steps on real images and on noise of the same shape take turns in one process"
        f" ({results['rounds']} rounds of {results['steps_a_round']} steps); figures are medians, the share is the"
        " median of each round's. The worker that makes samples has the same cores as the network.",
        table(("recipe", "views a step", "real images: views/s", "noise: views/s", "share"), steps),
        "What a sample costs one core, in milliseconds of processor time (a view of several regions is one sample). At"
        " half size: samples whose view shows at least two image pixels in one, so that its JPEG could be decoded at"
        " half its size.",
        table(("recipe", "sample", "of which decoding", "of which colours", "at half size"), making),
        f"Whole COCO on one GPU, predicted and not run: an A100 trains a ResNet-50 on {PUBLISHED_RATE:,.0f} images of"
        " 224 x 224 a second (NVIDIA's figure for MXNet; an H200 is faster), and time goes by pixels."
        f" {GPU_CORES} cores make {results['whole'][0]['samples_per_s']:,.0f} samples a second at the cost above.",
        table(("recipe", "images of 224 x 224", "hours"), whole),
    ]) + "\n"  # fmt: skip


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder; made if missing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="of a round")
    args = parser.parse_args()
    results: dict[str, Any] = surroundings("torch", "torchvision", "timm", "opencv-python-headless", "pillow")
    results |= {"rounds": args.rounds, "steps_a_round": args.steps}
    results["steps"] = [asdict(measure_steps(recipe, args.rounds, args.steps)) for recipe in RECIPES]
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    makings = [measure_making(recipe) for recipe in RECIPES]
    results["making"] = [asdict(making) for making in makings]
    results["whole"] = [hours(recipe, makings[0]) for recipe in WHOLE]
    folder = make_folder(args.output)
    write_json(folder / "training.json", results)
    write_text(folder / "training.md", page(results))
    print(page(results))


if __name__ == "__main__":
    main()
