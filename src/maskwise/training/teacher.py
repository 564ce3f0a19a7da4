"""A teacher: a model whose embeddings of the training regions are learned beside their names.

A few thousand names say little about what things look like; the embeddings of a trunk pretrained on far more say a lot,
and a small network that learns to tell them overfits less. Each region is embedded once, as prediction would see it.

Source:
    A. Romero et al., FitNets: hints for thin deep nets, arXiv:1412.6550 (a student that tells a teacher's features).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from maskwise.files import whole_file
from maskwise.fit import embed_regions
from maskwise.predictor import Predictor
from maskwise.regions import LabelledRegion


@dataclass(frozen=True)
class Teacher:
    """What a teacher makes of regions.

    Attributes:
        embeddings: each feature with mean 0 and spread 1 over the regions, rows of length 1.
        sha256: of the model file, the regions' outlines and the names of their images.
    """

    embeddings: Float[Tensor, "regions features"]
    sha256: str


def teacher_embeddings(model: Path, regions: Sequence[LabelledRegion], cache: Path) -> Teacher:
    """Let a teacher embed regions.

    Args:
        model: model file of the teacher.
        regions: the regions.
        cache: safetensors file that keeps the embeddings; used again for the same model and regions, else replaced.

    Raises:
        ModelError: the model file cannot be used.
        AnnotationError, ImageError, MaskError: a region or its image cannot be read.
    """
    predictor = Predictor(model)
    key = _key(model, regions)
    embeddings = _cached(cache, key)
    if embeddings is None:
        embeddings = torch.from_numpy(embed_regions(predictor, regions, what="teacher"))
        with whole_file(cache) as temporary:
            save_file({"embeddings": embeddings}, temporary, metadata={"key": key})
    spread = embeddings.std(dim=0, correction=0).clamp(min=1e-6)
    return Teacher(F.normalize((embeddings - embeddings.mean(dim=0)) / spread, dim=1), key)


def _key(model: Path, regions: Sequence[LabelledRegion]) -> str:
    """Changes with the model or with any region's outline, not with where the folders lie."""
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    for region in regions:
        mask = region.read_mask()
        digest.update(json.dumps([region.image_path.name, *mask.image_hw, *mask.box_xywh]).encode())
        digest.update(np.packbits(mask.bits).tobytes())
    return digest.hexdigest()


def _cached(cache: Path, key: str) -> Tensor | None:
    if not cache.is_file():
        return None
    try:
        with safe_open(cache, framework="pt") as file:
            return file.get_tensor("embeddings") if (file.metadata() or {}).get("key") == key else None
    except SafetensorError:  # Not a file of ours, or a damaged one: it is made anew.
        return None


def distance_to_teacher(told: Float[Tensor, "n d"], right: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """One minus the cosine between what a student tells and the teacher's rows, mean over the batch: 0 to 2."""
    return 1 - F.cosine_similarity(told, right, dim=1).mean()
