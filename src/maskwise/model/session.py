"""Open model files in ONNX Runtime; count the cores."""

from __future__ import annotations

import os
import platform
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from maskwise.errors import ModelError
from maskwise.model.model_file import ModelInfo

if TYPE_CHECKING:
    import onnxruntime


def built_in_model() -> Path:
    """Where the model inside the package lies."""
    return Path(str(resources.files("maskwise") / "models" / "default.onnx"))


def open_session(
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

    path = Path(path) if path is not None else built_in_model()
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
    options.intra_op_num_threads = threads or (available_cores() if available_cores() < (os.cpu_count() or 1) else 0)
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


def available_cores() -> int:
    """How many of the processor's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _may_overflow() -> bool:
    """Whether sums of uint8 x int8 products may overflow, silently: on x64 without VNNI, or where nobody says."""
    flags = Path("/proc/cpuinfo")
    return platform.machine() in ("x86_64", "AMD64") and not (flags.is_file() and "_vnni" in flags.read_text())
