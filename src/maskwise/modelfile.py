"""The model file: an ONNX graph that carries, as metadata, all that naming needs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskwise.errors import ModelError, SettingsError
from maskwise.regions import Category
from maskwise.views import ViewSettings

if TYPE_CHECKING:
    import onnxruntime

FORMAT = "maskwise-region-classifier"
FORMAT_VERSION = 1
METADATA_KEY = "maskwise"
INPUTS = ("images", "masks")
"""uint8 N x H x W x 3, RGB 0 to 255; uint8 N x H x W, coverage 0 to 255. The graph normalises."""
OUTPUTS = ("logits", "embeddings")
"""float32 N x classes; float32 N x D."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a model file says of itself.

    Attributes:
        name: what the model is called.
        categories: the classes, in the order of the logits.
        view: which view of a region the network sees.
        temperature: logits are divided by this before the softmax, so that probabilities are calibrated.
        batch_size: regions that the network takes at once with good speed (any number is accepted).
        training: a record of how the model was made, for people; nothing relies on it.
    """

    name: str
    categories: tuple[Category, ...]
    view: ViewSettings
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


def embedded_model() -> Path:
    """Where the model inside the package lies."""
    return Path(str(resources.files("maskwise") / "models" / "default.onnx"))


def open_model(
    path: str | os.PathLike[str] | None = None, *, threads: int | None = None, device: str = "cpu"
) -> tuple[onnxruntime.InferenceSession, ModelInfo]:
    """Open a model file.

    Args:
        path: the file; the embedded model where left out.
        threads: processor threads; all cores where left out.
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
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, sess_options=options, providers=providers[device])
    except Exception as error:  # ONNX Runtime's own errors share no base below Exception.
        raise ModelError(
            f"{path}: ONNX Runtime cannot load it; is it a model file? ({str(error).splitlines()[0]})"
        ) from error
    return session, ModelInfo.from_metadata(session.get_modelmeta().custom_metadata_map, str(path))
