"""Fixtures of all tests; annotated shapes are checked while tests run. Needs no torch."""

from jaxtyping import install_import_hook

install_import_hook("maskwise", "typecheck.check")  # Before anything imports maskwise: later is too late.

import os
from pathlib import Path

import numpy as np
import pytest
from two_objects import write_two_objects

os.environ.pop("MASKWISE_CACHE", None)  # No test reads or writes the user's.
collect_ignore = ["label_studio_server.py"]  # A program: it needs Label Studio, in an environment of its own.


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that reads real data."""
    for item in items:
        if "data_root" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data. Fails, not skips, where it is missing: a silent skip would hide what is not tested."""
    root = Path(os.environ.get("MASKWISE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (root / "coco").is_dir():
        pytest.fail(f"{root}: no real data there; set MASKWISE_DATA to the folder that has coco/")
    return root


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def coco_folder(tmp_path) -> Path:
    """A tiny COCO data set, two objects in each image: `images/` and `annotations.json`."""
    return write_two_objects(tmp_path / "coco", images=8)
