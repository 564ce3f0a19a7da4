"""The model file: an ONNX graph whose metadata holds everything that naming needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from maskwise.data.regions import Category
from maskwise.errors import ModelError, SettingsError
from maskwise.views.view import ViewSettings

FORMAT = "maskwise-region-classifier"
FORMAT_VERSION = 2
METADATA_KEY = "maskwise"
INPUTS = ("images", "masks", "image_of")
"""uint8 V x H x W x 3, RGB 0 to 255; uint8 N x H x W, coverage 0 to 255; int64 N, which of the V images each mask lies
in. The graph normalises."""
CROP_OF = "crop_of"
"""A further input of models that see two crops of every region: int64 N, 0 for the narrow crop and 1 for the wide one.
The logits of a region are then the sum of those of its crops, its embedding is theirs one after the other."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 1000.0
MAX_BATCH_SIZE = 4096
MAX_VIEW_SIZE = 4096
OUTPUTS = ("logits", "embeddings")
"""float32 N x classes; float32 N x D."""
KNOWN = "known"
"""A further output of models that can say "none of these": float32 N, the logit that the region is one of the classes
at all; that of a region is the sum of those of its crops."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The metadata of a model file.

    Attributes:
        name: name of the model.
        categories: the classes, in the order of the logits.
        view: how regions are cropped.
        shares: whether masks of one crop share one pass of the trunk; if not, the graph runs it for each mask.
        temperature: logits are divided by it before the softmax, so that probabilities are calibrated.
        min_known: a region whose probability of being one of the classes is lower is "none of these"; None if the model
            cannot tell.
        batch_size: number of crops per batch for good speed (any number is accepted); 1 if the ranges of 8-bit numbers
            are measured over a batch, so that no answer depends on other crops.
        training: record of how the model was made, for people; nothing relies on it.
    """

    name: str
    categories: tuple[Category, ...]
    view: ViewSettings
    shares: bool = False
    temperature: float = 1.0
    min_known: float | None = None
    batch_size: int = 8
    training: dict[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """Return it as ONNX metadata: one key, JSON."""
        return {METADATA_KEY: json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)})}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], where: str) -> ModelInfo:
        """Read it from ONNX metadata.

        Args:
            metadata: the file's key-value pairs.
            where: name of the file in errors.

        Raises:
            ModelError: not written by Maskwise, or by a version with another format.
        """
        if METADATA_KEY not in metadata:
            raise ModelError(
                f"{where}: is an ONNX file but not a Maskwise model; make one with `maskwise train` or `export`"
            )
        try:
            record = json.loads(metadata[METADATA_KEY])
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{where}: its metadata is not JSON ({error})") from error
        if not isinstance(record, dict):
            raise ModelError(f"{where}: its metadata is not a JSON object")
        form, version = record.pop("format", None), record.pop("format_version", None)
        if (form, version) != (FORMAT, FORMAT_VERSION):
            raise ModelError(
                f"{where}: has format {form} {version}, this Maskwise reads {FORMAT} {FORMAT_VERSION}; export it again"
            )
        try:
            record["categories"] = tuple(Category(**category) for category in record["categories"])
            record["view"] = ViewSettings(**record["view"])
            info = cls(**record)
        except (KeyError, TypeError, ValueError, SettingsError) as error:
            raise ModelError(f"{where}: its metadata is incomplete or malformed ({error})") from error
        for fault in info.faults():
            raise ModelError(f"{where}: its metadata is malformed: {fault}")
        return info

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the values: each field has a type and a range."""
        if not isinstance(self.name, str):
            yield f"name is {self.name!r:.40}, not text"
        names = [category.name for category in self.categories]
        if not names or not all(isinstance(name, str) for name in names):
            yield "categories is empty, or a name is not text"
        elif len(set(names)) < len(names):
            yield "a name stands twice in categories"
        if not all(isinstance(category.id, (int, str)) for category in self.categories):
            yield "an id in categories is neither a whole number nor text"
        if not isinstance(self.shares, bool):
            yield f"shares is {self.shares!r:.40}, not true or false"
        if not _is_number(self.temperature) or not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            yield f"temperature is {self.temperature!r:.40}, not {MIN_TEMPERATURE} to {MAX_TEMPERATURE}"
        if self.min_known is not None and not (_is_number(self.min_known) and 0 <= self.min_known <= 1):
            yield f"min_known is {self.min_known!r:.40}, not 0 to 1"
        if type(self.batch_size) is not int or not 1 <= self.batch_size <= MAX_BATCH_SIZE:
            yield f"batch_size is {self.batch_size!r:.40}, not 1 to {MAX_BATCH_SIZE}"
        if type(self.view.size) is not int or not 1 <= self.view.size <= MAX_VIEW_SIZE:
            yield f"view.size is {self.view.size!r:.40}, not 1 to {MAX_VIEW_SIZE} pixels"
        for name in ("context", "min_side", "wide_context", "wide_min_side"):
            value, least = getattr(self.view, name), 0 if name == "wide_context" else 1
            if not _is_number(value) or not least <= value <= MAX_VIEW_SIZE:
                yield f"view.{name} is {value!r:.40}, not {least} to {MAX_VIEW_SIZE}"
        if not isinstance(self.training, dict):
            yield "training is not an object"


def graph_faults(info: ModelInfo, inputs: Mapping[str, str], outputs: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Yield what in a graph does not fit its metadata.

    Args:
        info: the metadata.
        inputs: type of each input, such as `tensor(uint8)`.
        outputs: shape of each output; a text where a length is not fixed.
    """
    wanted = dict(zip(INPUTS, ("tensor(uint8)", "tensor(uint8)", "tensor(int64)"), strict=True))
    if len(info.view.crops) > 1:
        wanted[CROP_OF] = "tensor(int64)"
    if inputs != wanted:
        yield f"its inputs are {_listed(inputs)}, not {_listed(wanted)}"
    if (KNOWN in outputs) != (info.min_known is not None):
        yield f"its output {KNOWN} and its min_known do not go together"
    widths = {name: shape[1] if len(shape) == 2 else None for name, shape in outputs.items()}
    logits, embeddings = OUTPUTS
    if widths.get(logits) != len(info.categories):
        yield f"its output {logits} has {widths.get(logits)} columns for {len(info.categories)} categories"
    if type(widths.get(embeddings)) is not int:
        yield f"its output {embeddings} has no fixed number of columns"


def _listed(inputs: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in inputs.items())[:200]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def graph_inputs(
    images: UInt8[np.ndarray, "v h w 3"],
    masks: UInt8[np.ndarray, "n h w"],
    image_of: Int64[np.ndarray, " n"] | None = None,
    crop_of: Int64[np.ndarray, " n"] | None = None,
) -> dict[str, np.ndarray]:
    """Return what a model file's graph takes; see `INPUTS` and `CROP_OF`.

    Without `image_of`, each mask lies in its own image. `crop_of` is for models of two crops only.
    """
    inputs = dict(zip(INPUTS, (images, masks, np.arange(len(masks)) if image_of is None else image_of), strict=True))
    return inputs if crop_of is None else {**inputs, CROP_OF: crop_of}
