"""Cores by affinity and by the quotas of control groups, in made-up folders; model files that are refused."""

import json
import os

import numpy as np
import onnx
import onnxruntime
import pytest

from colour_model import colour_model
from maskwise import Predictor
from maskwise.errors import ModelError
from maskwise.model import session
from maskwise.model.session import available_cores


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """A function that writes control groups: this process's own, and files below the root."""
    monkeypatch.setattr(session, "CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(session, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(16)))

    def write(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "700000 100000\n"}, 7),
        ("0::/pod/box\n", {"pod/box/cpu.max": "400000 100000\n", "pod/cpu.max": "700000 100000\n"}, 4),
        ("0::/pod\n", {"pod/cpu.max": "10000 100000\n"}, 1),
        (
            "4:memory:/a\n3:cpu,cpuacct:/a/b\n",
            {
                "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
                "cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
    ],
)
def test_the_tightest_quota_counts_rounded_up(cgroups, own, files, cores):
    cgroups(own, files)
    assert available_cores() == cores


def test_affinity_counts_where_there_is_no_quota(cgroups, monkeypatch):
    cgroups("0::/\n", {"cpu.max": "max 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {3, 5, 6})
    assert available_cores() == 3


def test_no_control_groups_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "OWN_CGROUPS", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})
    assert available_cores() == 2


def spoilt(folder, *, weight=None, **fields):
    """A colour model with other metadata.

    Values of another type are refused by the checked annotations of the tests already, or else by `ModelInfo.faults`.
    """
    path = colour_model(folder, weight=weight)
    model = onnx.load(path)
    record = json.loads(model.metadata_props[0].value)
    for name, value in fields.items():
        part = record
        *parents, last = name.split("__")
        for parent in parents:
            part = part[parent]
        part[last] = value
    model.metadata_props[0].value = json.dumps(record)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0}, "temperature is 0, not"),
        ({"temperature": "1"}, "its metadata is .*malformed"),
        ({"temperature": True}, "temperature is True, not"),
        ({"batch_size": 0}, "batch_size is 0, not"),
        ({"batch_size": 2.5}, "its metadata is .*malformed"),
        ({"shares": "yes"}, "its metadata is .*malformed"),
        ({"name": 3}, "its metadata is .*malformed"),
        ({"training": []}, "its metadata is .*malformed"),
        ({"view__size": 10**9}, "view.size is 1000000000, not"),
        ({"view__context": float("nan")}, "view.context is nan, not"),
        ({"view__context": "2"}, "malformed"),
        ({"view__min_side": float("inf")}, "its metadata is .*malformed"),
        ({"view__wide_context": 1e9}, "view.wide_context is 1000000000.0, not"),
        ({"view__kind": "round"}, "its metadata is .*malformed"),
        ({"categories": []}, "categories is empty"),
        ({"categories": [{"id": 1, "name": "a"}]}, "has 3 columns for 1 categories"),
        ({"categories": [{"id": 1, "name": "a"}] * 3}, "a name stands twice"),
        ({"categories": [{"id": [1], "name": x} for x in "abc"]}, "its metadata is .*malformed"),
        ({"view__wide_context": 3.0}, "its inputs are .*, not .*crop_of"),
    ],
)
def test_metadata_out_of_range_are_refused_by_field(tmp_path, fields, message):
    with pytest.raises(ModelError, match=message):
        Predictor(spoilt(tmp_path, **fields))


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    model = colour_model(tmp_path, weight=np.full((3, 3), np.nan))
    image, masks = np.full((20, 30, 3), 90, dtype=np.uint8), np.ones((1, 20, 30), dtype=bool)
    with pytest.raises(ModelError, match=r"colour-0\.onnx: gives numbers that are not finite"):
        Predictor(model).predict(image, masks)


def test_a_gpu_that_did_not_start_is_an_error(tmp_path, monkeypatch):
    """ONNX Runtime would go on with the CPU and say nothing."""
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    started = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *args, **more: started(*args, **{**more, "providers": providers[1:]})
    )
    with pytest.raises(ModelError, match="CUDAExecutionProvider did not start"):
        Predictor(colour_model(tmp_path), device="cuda")
    assert Predictor(colour_model(tmp_path), device="cpu").info.name == "colour"
