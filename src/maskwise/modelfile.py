"""The model file: an ONNX graph that carries, as metadata, all that naming needs."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int64, UInt8

from maskwise.errors import ModelError, SettingsError
from maskwise.files import whole_file
from maskwise.regions import Category
from maskwise.views import ViewSettings

if TYPE_CHECKING:
    import onnxruntime

FORMAT = "maskwise-region-classifier"
FORMAT_VERSION = 2
METADATA_KEY = "maskwise"
INPUTS = ("images", "masks", "image_of")
"""uint8 V x H x W x 3, RGB 0 to 255; uint8 N x H x W, coverage 0 to 255; int64 N, which of the V images each mask lies
in. The graph normalises."""
OUTPUTS = ("logits", "embeddings")
"""float32 N x classes; float32 N x D."""

HEAD_TOLERANCE = 1e-3
"""Largest difference of a replaced last layer's logits from what NumPy makes of the embeddings, over their size."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a model file says of itself.

    Attributes:
        name: what the model is called.
        categories: the classes, in the order of the logits.
        view: which view of a region the network sees.
        shares: whether masks of one view share one pass of the trunk; else the graph runs it for each of them.
        temperature: logits are divided by this before the softmax, so that probabilities are calibrated.
        batch_size: views that the network takes at once with good speed (any number is accepted); 1 where the ranges of
            8-bit numbers are measured over a batch, so that no answer depends on what else is asked.
        training: a record of how the model was made, for people; nothing relies on it.
    """

    name: str
    categories: tuple[Category, ...]
    view: ViewSettings
    shares: bool = False
    temperature: float = 1.0
    batch_size: int = 8
    training: dict[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """As ONNX metadata: one key, JSON."""
        return {METADATA_KEY: json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)})}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], where: str) -> ModelInfo:
        """From ONNX metadata.

        Args:
            metadata: the file's key-value pairs.
            where: how errors call the file.

        Raises:
            ModelError: not written by Maskwise, or by a version with another format.
        """
        if METADATA_KEY not in metadata:
            raise ModelError(
                f"{where}: is an ONNX file but not a Maskwise model; make one with `maskwise train` or `export`"
            )
        record = json.loads(metadata[METADATA_KEY])
        form, version = record.pop("format", None), record.pop("format_version", None)
        if (form, version) != (FORMAT, FORMAT_VERSION):
            raise ModelError(
                f"{where}: has format {form} {version}, this Maskwise reads {FORMAT} {FORMAT_VERSION}; export it anew"
            )
        try:
            record["categories"] = tuple(Category(**category) for category in record["categories"])
            record["view"] = ViewSettings(**record["view"])
            return cls(**record)
        except (KeyError, TypeError, SettingsError) as error:
            raise ModelError(f"{where}: its metadata is incomplete or malformed ({error})") from error


def feed(
    images: UInt8[np.ndarray, "v h w 3"],
    masks: UInt8[np.ndarray, "n h w"],
    image_of: Int64[np.ndarray, " n"] | None = None,
) -> dict[str, np.ndarray]:
    """What a model file's graph takes; see `INPUTS`. Where `image_of` is left out, each mask lies in its own image."""
    return dict(zip(INPUTS, (images, masks, np.arange(len(masks)) if image_of is None else image_of), strict=True))


def write_with_head(
    source: Path,
    weight: Float[np.ndarray, "classes features"],
    bias: Float[np.ndarray, " classes"],
    info: ModelInfo,
    output: Path,
) -> None:
    """Write a model file that is another's up to its embeddings, with a last layer of its own.

    Args:
        source: the other model file.
        weight: logits = embeddings @ weight.T + bias.
        bias: of each class.
        info: what the new file says of itself.
        output: the file to write, whole or not at all.

    Raises:
        ModelError: the new file's logits are not those of its embeddings; then nothing is written.
        InputError: the file cannot be written there.
    """
    import onnx
    from onnx.utils import Extractor

    logits, embeddings = OUTPUTS
    whole = onnx.load(source)
    declared = next(output for output in whole.graph.output if output.name == embeddings)
    model = Extractor(whole).extract_model(list(INPUTS), [embeddings])
    graph = model.graph
    for name, array in (("fitted.weight", weight), ("fitted.bias", bias)):
        graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    graph.node.append(onnx.helper.make_node("Gemm", [embeddings, "fitted.weight", "fitted.bias"], [logits], transB=1))
    rows = declared.type.tensor_type.shape.dim[0].dim_param or "regions"
    shape = onnx.helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, [rows, len(bias)])
    del graph.output[:]
    graph.output.extend([shape, declared])
    onnx.helper.set_model_props(model, info.to_metadata())
    onnx.checker.check_model(model)
    with whole_file(output) as temporary:
        onnx.save(model, temporary)
        _check_head(temporary, weight, bias)


def _check_head(path: Path, weight: np.ndarray, bias: np.ndarray) -> None:
    """Refuse a model file whose logits are not those that a last layer makes of its embeddings."""
    session, info = open_model(path)
    side = info.view.size
    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    got, embeddings = session.run(list(OUTPUTS), feed(image, image[..., 0]))
    expected = embeddings @ weight.T + bias
    difference = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not difference <= HEAD_TOLERANCE:
        raise ModelError(f"the written model's logits differ by {difference:.2g} of their size; nothing was written")


def embedded_model() -> Path:
    """Where the model inside the package lies."""
    return Path(str(resources.files("maskwise") / "models" / "default.onnx"))


def open_model(
    path: str | os.PathLike[str] | None = None, *, threads: int | None = None, device: str = "cpu"
) -> tuple[onnxruntime.InferenceSession, ModelInfo]:
    """Open a model file.

    Args:
        path: the file; the embedded model where left out.
        threads: processor threads; all cores that this process may use where left out.
        device: `cpu` or `cuda` (needs the package onnxruntime-gpu).

    Raises:
        ModelError: no such file, not a model of ours, or the device is not to be had.
    """
    import onnxruntime

    path = Path(path) if path is not None else embedded_model()
    if not path.is_file():
        raise ModelError(f"{path}: no such model file")
    if path.suffix == ".safetensors":
        raise ModelError(
            f"{path}: is a training checkpoint; make a model file of it with `maskwise export {path} -o model.onnx`"
        )
    providers = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
    if device not in providers:
        raise ModelError(f"device {device!r}: accepted are {' and '.join(providers)}")
    if providers[device][0] not in onnxruntime.get_available_providers():
        raise ModelError(
            f"device {device!r}: this ONNX Runtime has no {providers[device][0]}; install onnxruntime-gpu, or use cpu"
        )
    options = onnxruntime.SessionOptions()
    # Told nothing, ONNX Runtime takes every core and puts threads on those that the process may not use.
    options.intra_op_num_threads = threads or (cores() if cores() < (os.cpu_count() or 1) else 0)
    options.log_severity_level = 3
    if _may_overflow():
        # Products of uint8 then: exact, and of 1.6 times the time where VNNI is (58 and 36 ms, AMD EPYC, 2026-11-25).
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = onnxruntime.InferenceSession(path, sess_options=options, providers=providers[device])
    except Exception as error:  # ONNX Runtime's own errors share no base below Exception.
        raise ModelError(
            f"{path}: ONNX Runtime cannot load it; is it a model file? ({str(error).splitlines()[0]})"
        ) from error
    return session, ModelInfo.from_metadata(session.get_modelmeta().custom_metadata_map, str(path))


def cores() -> int:
    """How many of the processor's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _may_overflow() -> bool:
    """Whether sums of uint8 x int8 products may overflow, silently: on x64 without VNNI, or where nobody says."""
    flags = Path("/proc/cpuinfo")
    return platform.machine() in ("x86_64", "AMD64") and not (flags.is_file() and "_vnni" in flags.read_text())
