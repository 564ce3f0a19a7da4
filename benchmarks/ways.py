"""Ways to name the masks of an image, for `speed.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from scenes import read_scene

from maskwise import Predictor
from maskwise.model.model_file import OUTPUTS, graph_inputs
from maskwise.model.predictor import CPU_BATCH, MODES
from maskwise.model.runner import Runner

Work = Callable[[], object]
"""The work that is timed: naming all masks of an image."""
Ready = Callable[[Path], Work]
"""Reads a file of segments and its image; returns the work."""
ENOUGH, FEW = 20, 7
"""Ways that name one mask after the other are measured on so few in place of more than are enough; the two numbers tell
whether their time goes by the mask."""


@dataclass(frozen=True)
class Way:
    """A way to name the masks of an image.

    Attributes:
        label: what a reader sees.
        open: given a device and a number of threads, loads the network.
        with_torch: whether torch runs it, one mask after the other; else ONNX Runtime.
    """

    label: str
    open: Callable[[str, int], Ready]
    with_torch: bool = False

    def measured_on(self, count: int) -> int:
        """Return the number of masks on which it is measured."""
        return FEW if self.with_torch and count > ENOUGH else count


def open_published(device: str, threads: int) -> Ready:
    """See `torch_ways`; imported only here because torch takes memory."""
    import torch_ways

    return torch_ways.open_published(device, threads)


def open_crops(device: str, threads: int) -> Ready:
    """See `torch_ways`."""
    import torch_ways

    return torch_ways.open_crops(device, threads)


def open_network(device: str, threads: int) -> Ready:
    """Run the built-in model's graph on ready crops, in the predictor's batches of exact mode."""
    runner = Runner(threads=threads, device=device)
    size = min(runner.info.batch_size, CPU_BATCH) if device == "cpu" else runner.info.batch_size

    def ready(segments: Path) -> Work:
        image, masks = read_scene(segments)
        kinds = runner.info.view.crops
        crops = [(*kind.view(mask).render(image, mask), place) for mask in masks for place, kind in enumerate(kinds)]
        inputs = []
        for start in range(0, len(crops), size):
            pixels, coverage, crop_of = (np.stack(arrays) for arrays in zip(*crops[start : start + size], strict=True))
            inputs.append(graph_inputs(pixels, coverage, crop_of=crop_of if len(kinds) > 1 else None))
        return lambda: list(runner.run(OUTPUTS, inputs, lambda ready: ready, count=len(inputs)))

    return ready


def open_predictor(mode: str, device: str, threads: int) -> Ready:
    """Run `Predictor.predict` on an image and masks in memory."""
    opened = opened_predictor(mode, device, threads)
    return lambda segments: partial(opened.predict, *read_scene(segments))


def open_files(mode: str, device: str, threads: int) -> Ready:
    """Run the same from files: a JPEG, and a COCO file of run lengths."""
    opened = opened_predictor(mode, device, threads)
    return lambda segments: lambda: opened.predict(*read_scene(segments))


@cache
def opened_predictor(mode: str, device: str, threads: int) -> Predictor:
    """Return one predictor per mode: a second one's threads would compete for the same cores."""
    return Predictor(mode=mode, device=device, threads=threads)


WAYS = {
    "published": Way("published: ResNet-50 in torch, whole image", open_published, with_torch=True),
    "crops": Way("built-in network in torch, one crop at a time", open_crops, with_torch=True),
    "network": Way("built-in network in ONNX Runtime alone", open_network),
    **{mode: Way(f"`Predictor`, {mode}", partial(open_predictor, mode)) for mode in MODES},
    **{f"{mode} from files": Way(f"`Predictor`, {mode}, from files", partial(open_files, mode)) for mode in MODES},
}


def usable(device: str) -> dict[str, Way]:
    """Return the ways for a device: ONNX Runtime needs another package for GPUs."""
    import onnxruntime

    has_onnx = device == "cpu" or "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return {name: way for name, way in WAYS.items() if way.with_torch or has_onnx}
