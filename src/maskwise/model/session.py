"""Open model files in ONNX Runtime; count the cores."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from maskwise.errors import ModelError
from maskwise.model.model_file import ModelInfo, graph_faults

if TYPE_CHECKING:
    import onnxruntime

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows the limits of control groups."""
CPU_FLAGS = Path("/proc/cpuinfo")
"""Where Linux lists the features of the processor."""
OWN_CGROUPS = Path("/proc/self/cgroup")
"""Where Linux lists the control groups of this process."""


def built_in_model() -> Path:
    """Return the path of the model inside the package."""
    return Path(str(resources.files("maskwise") / "models" / "default.onnx"))


def open_session(
    path: str | os.PathLike[str] | None = None, *, threads: int | None = None, device: str = "cpu"
) -> tuple[onnxruntime.InferenceSession, ModelInfo]:
    """Open a model file.

    Args:
        path: the file (default: the built-in model).
        threads: CPU threads (default: all available cores).
        device: `cpu` or `cuda` (needs the package onnxruntime-gpu).

    Raises:
        ModelError: no such file, not a model file of Maskwise, or the device is not available.
    """
    path = Path(path) if path is not None else built_in_model()
    if path.suffix == ".safetensors" and path.is_file():
        raise ModelError(f"{path}: is a training checkpoint; export it with `maskwise export {path} -o model.onnx`")
    session = open_graph(path, threads=threads, device=device)
    info = ModelInfo.from_metadata(session.get_modelmeta().custom_metadata_map, str(path))
    inputs = {node.name: node.type for node in session.get_inputs()}
    for fault in graph_faults(info, inputs, {node.name: node.shape for node in session.get_outputs()}):
        raise ModelError(f"{path}: {fault}; export it again")
    return session, info


def open_graph(
    path: Path, *, threads: int | None = None, device: str = "cpu", without: Sequence[str] = ()
) -> onnxruntime.InferenceSession:
    """Open an ONNX file.

    Args:
        path: the file.
        threads: CPU threads (default: all available cores).
        device: `cpu` or `cuda` (needs the package onnxruntime-gpu).
        without: optimisations of ONNX Runtime to leave out.

    Raises:
        ModelError: no such file, ONNX Runtime cannot load it, or the device is not available.
    """
    import onnxruntime

    if not path.is_file():
        raise ModelError(f"{path}: no such model file")
    providers = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
    if device not in providers:
        raise ModelError(f"device {device!r}: accepted are {' and '.join(providers)}")
    if providers[device][0] not in onnxruntime.get_available_providers():
        raise ModelError(
            f"device {device!r}: this ONNX Runtime has no {providers[device][0]}; install onnxruntime-gpu, or use cpu"
        )
    options = onnxruntime.SessionOptions()
    # By default ONNX Runtime takes every core, also those that this process may not use.
    options.intra_op_num_threads = threads or (available_cores() if available_cores() < (os.cpu_count() or 1) else 0)
    options.log_severity_level = 3
    if may_overflow():
        # Exact uint8 products, at 1.6 times the time of VNNI (58 and 36 ms, AMD EPYC, 2026-11-25).
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        session = onnxruntime.InferenceSession(
            path, sess_options=options, providers=providers[device], disabled_optimizers=list(without)
        )
    except Exception as error:  # The errors of ONNX Runtime share no base class.
        raise ModelError(
            f"{path}: ONNX Runtime cannot load it; is it a model file? ({str(error).splitlines()[0]})"
        ) from error
    if providers[device][0] not in session.get_providers():  # ONNX Runtime falls back silently.
        raise ModelError(
            f"device {device!r}: {providers[device][0]} did not start; look at its libraries (CUDA, cuDNN), or use cpu"
        )
    return session


def available_cores() -> int:
    """Return how many CPU cores this process may use: by its affinity and the quotas of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min([cores, *(math.ceil(quota) for quota in _cpu_quotas())]), 1)


def _cpu_quotas() -> Iterator[float]:
    """Yield the CPU quotas of this process's control groups and of all groups around them, in cores.

    Source:
        The Linux kernel's documentation: version 2 has `cpu.max`, version 1 `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    """
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:  # Not Linux.
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / controllers if controllers else CGROUPS
        group = root / name.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            quota = _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
            quota = quota if controllers else _numbers(folder / "cpu.max")
            if len(quota) == 2 and quota[0] > 0 and quota[1] > 0:
                yield quota[0] / quota[1]


def _numbers(path: Path) -> list[float]:
    """Return the numbers in a file; none if there is no such file, or words in it ("max 100000")."""
    try:
        return [float(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []


def may_overflow() -> bool:
    """Return whether sums of uint8 x int8 products may overflow silently: on x64 without VNNI."""
    has_vnni = CPU_FLAGS.is_file() and "_vnni" in CPU_FLAGS.read_text()
    return platform.machine() in ("x86_64", "AMD64") and not has_vnni
