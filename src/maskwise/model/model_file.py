"""The model file: an ONNX graph whose metadata holds everything that naming needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64, UInt8

from maskwise.data.regions import Category
from maskwise.errors import ModelError, SettingsError
from maskwise.views.view import ViewSettings

if TYPE_CHECKING:
    pass

FORMAT = "maskwise-region-classifier"
FORMAT_VERSION = 2
METADATA_KEY = "maskwise"
INPUTS = ("images", "masks", "image_of")
"""uint8 V x H x W x 3, RGB 0 to 255; uint8 N x H x W, coverage 0 to 255; int64 N, which of the V images each mask lies
in. The graph normalises."""
OUTPUTS = ("logits", "embeddings")
"""float32 N x classes; float32 N x D."""


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


def graph_inputs(
    images: UInt8[np.ndarray, "v h w 3"],
    masks: UInt8[np.ndarray, "n h w"],
    image_of: Int64[np.ndarray, " n"] | None = None,
) -> dict[str, np.ndarray]:
    """What a model file's graph takes; see `INPUTS`. Where `image_of` is left out, each mask lies in its own image."""
    return dict(zip(INPUTS, (images, masks, np.arange(len(masks)) if image_of is None else image_of), strict=True))
