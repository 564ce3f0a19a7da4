"""The ways to name the masks of an image that `speed.py` compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scenes import read_scene

from maskwise import Predictor, predictor
from maskwise.modelfile import open_model

Work = Callable[[], object]
"""What is timed: the naming of all masks of an image."""
Ready = Callable[[Path], Work]
"""Reads a file of segments and its image, and gives the work."""
FEW, CHECK = 20, 40
"""Masks on which ways whose time goes strictly by the mask are measured in place of more, and on which that is checked
once."""


@dataclass(frozen=True)
class Way:
    """A way to name the masks of an image.

    Attributes:
        label: what a reader sees.
        open: given a device and a number of threads, loads the network.
        most: masks on which it is measured at most; its time for more is taken to be as much longer.
        with_torch: whether torch runs it, else ONNX Runtime.
    """

    label: str
    open: Callable[[str, int], Ready]
    most: int | None = None
    with_torch: bool = False


def open_published(device: str, threads: int) -> Ready:
    """See `torch_ways`, which is imported only where it is used: torch takes memory of its own."""
    import torch_ways

    return torch_ways.open_published(device, threads)


def open_crops(device: str, threads: int) -> Ready:
    """See `torch_ways`."""
    import torch_ways

    return torch_ways.open_crops(device, threads)


def open_network(device: str, threads: int) -> Ready:
    """The embedded model's graph on views that are ready, in the batches that the predictor makes in exact mode."""
    session, info = open_model(threads=threads, device=device)
    size = min(info.batch_size, predictor.CPU_BATCH) if device == "cpu" else info.batch_size
    inputs = [given.name for given in session.get_inputs()]

    def ready(segments: Path) -> Work:
        image, masks = read_scene(segments)
        views = [info.view.view(mask).render(image, mask) for mask in masks]
        batches = []
        for start in range(0, len(views), size):
            pixels, coverage = (np.stack(arrays) for arrays in zip(*views[start : start + size], strict=True))
            given = {"images": pixels, "masks": coverage, "image_of": np.arange(len(pixels))}
            batches.append({name: given[name] for name in inputs})
        return lambda: [session.run(["logits"], batch) for batch in batches]

    return ready


def open_predictor(mode: str, device: str, threads: int) -> Ready:
    """`Predictor.predict` on an image and masks in memory."""
    opened = predictor_in(mode, device, threads)
    return lambda segments: partial(opened.predict, *read_scene(segments))


def open_files(mode: str, device: str, threads: int) -> Ready:
    """The same from files: a JPEG, and a COCO file of run lengths."""
    opened = predictor_in(mode, device, threads)
    return lambda segments: lambda: opened.predict(*read_scene(segments))


def predictor_in(mode: str, device: str, threads: int) -> Predictor:
    """A predictor of the embedded model, in a mode."""
    more = {"mode": mode} if hasattr(predictor, "MODES") else {}
    return Predictor(device=device, threads=threads, **more)


MODES: tuple[str, ...] = getattr(predictor, "MODES", ("exact",))
WAYS = {
    "published": Way("published: ResNet-50 in torch, whole image", open_published, FEW, with_torch=True),
    "crops": Way("embedded network in torch, a crop at a time", open_crops, FEW, with_torch=True),
    "network": Way("embedded network in ONNX Runtime alone", open_network),
    **{mode: Way(f"`Predictor`, {mode}", partial(open_predictor, mode)) for mode in MODES},
    **{f"{mode} from files": Way(f"`Predictor`, {mode}, from files", partial(open_files, mode)) for mode in MODES},
}


def usable(device: str) -> dict[str, Way]:
    """The ways that can be gone on a device: ONNX Runtime reaches a GPU only in another package than the usual one."""
    import onnxruntime

    has_onnx = device == "cpu" or "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return {name: way for name, way in WAYS.items() if way.with_torch or has_onnx}
