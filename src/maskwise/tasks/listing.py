"""List the models there are: what each knows, its size, speed, accuracy and licence, as its file says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskwise.data.masks import Mask
from maskwise.errors import ModelError
from maskwise.model.model_file import ModelInfo
from maskwise.model.model_folder import BUILT_IN, user_models
from maskwise.model.predictor import Predictor
from maskwise.model.session import built_in_model, open_session

BUILT_IN_LICENCE = "Apache-2.0 (derives from DINOv2; see NOTICE)"
MEASURE_SECONDS = 3.0
"""A speed is measured for this long."""
MEASURED_HW, MEASURED_MASKS = (480, 640), 8
"""Size of the image that a speed is measured on, pixels, and its number of masks."""


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """What is known of a model; None where its file does not say.

    Attributes:
        name: by which `--model` finds it.
        path: the file.
        size_mb: of the file, megabytes of 10^6 bytes.
        fault: why it cannot be used; then nothing more is known.
        title: name in the file.
        classes: what it can name.
        says_none: whether it can say "none of these".
        crops: crops of every region that it sees.
        features: numbers in an embedding.
        accuracy: share of held-out regions that it named right, 0 to 1, by the record of its training.
        accuracy_of: what that accuracy was measured on.
        regions_per_second: measured on this machine, with all cores, if asked for.
        licence: of the file.
    """

    name: str
    path: str
    size_mb: float
    fault: str | None = None
    title: str | None = None
    classes: tuple[str, ...] = ()
    says_none: bool | None = None
    crops: int | None = None
    features: int | None = None
    accuracy: float | None = None
    accuracy_of: str | None = None
    regions_per_second: float | None = None
    licence: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return asdict(self)


def list_models(*, measure: bool = False) -> Iterator[ModelRecord]:
    """Yield the built-in model, then each of the user's folder; a file that cannot be used has its fault.

    Args:
        measure: whether to measure how many regions each names in a second, on this machine.

    Example:
        [record.name for record in list_models()]
    """
    yield _record(BUILT_IN, built_in_model(), measure=measure)
    for name, path in user_models():
        yield _record(name, path, measure=measure)


def _record(name: str, path: Path, *, measure: bool) -> ModelRecord:
    size_mb = round(path.stat().st_size / 1e6, 1)
    try:
        session, info = open_session(path)
    except ModelError as error:
        return ModelRecord(name=name, path=str(path), size_mb=size_mb, fault=str(error))
    width = next(output.shape[1] for output in session.get_outputs() if output.name == "embeddings")
    accuracy, accuracy_of = _accuracy(info)
    licence = next((info.training[key] for key in ("licence", "license") if key in info.training), None)
    return ModelRecord(
        name=name,
        path=str(path),
        size_mb=size_mb,
        title=info.name,
        classes=tuple(category.name for category in info.categories),
        says_none=info.min_known is not None,
        crops=len(info.view.crops),
        features=width * len(info.view.crops),
        accuracy=accuracy,
        accuracy_of=accuracy_of,
        regions_per_second=_speed(path) if measure else None,
        licence=BUILT_IN_LICENCE if path == built_in_model() else None if licence is None else str(licence),
    )


def _accuracy(info: ModelInfo) -> tuple[float | None, str | None]:
    """Return the accuracy that a file records, and of what: of its own storage, else before it was stored smaller."""
    record = info.training
    stored = record.get("holdout_by_storage")
    held_out = f"{record['regions_holdout']} held-out regions" if "regions_holdout" in record else "held-out regions"
    if isinstance(stored, dict) and isinstance(value := stored.get(record.get("storage")), (int, float)):
        return float(value), held_out
    if isinstance(value := record.get("holdout_accuracy"), (int, float)):
        return float(value), f"{held_out}, before export"
    trials = record.get("trials")
    if isinstance(trials, list) and trials and isinstance(trials[0], dict):
        value = trials[0].get("micro")
        if isinstance(value, (int, float)):
            return float(value), "its own regions, cross-validated"
    return None, None


def _speed(path: Path) -> float:
    """Return regions per second on this machine: images of noise, boxes of many sizes, a crop for each region."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*MEASURED_HW, 3), dtype=np.uint8)
    corners = rng.integers(0, 300, (MEASURED_MASKS, 2))
    masks = [Mask.from_box((x, y, 60 + 10 * k, 40 + 15 * k), MEASURED_HW) for k, (x, y) in enumerate(corners.tolist())]
    predictor = Predictor(path)
    predictor.predict(image, masks)  # Not measured: the first call is slower.
    start, images = time.perf_counter(), 0

    def until_late() -> Iterator[tuple[np.ndarray, list[Mask]]]:
        while time.perf_counter() - start < MEASURE_SECONDS:
            yield image, masks

    for _ in predictor.predict_many(until_late()):
        images += 1
    return round(images * MEASURED_MASKS / (time.perf_counter() - start), 1)
