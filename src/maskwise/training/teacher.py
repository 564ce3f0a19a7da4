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
from torch import Tensor
from torch.nn import functional as F

from maskwise.data.regions import LabelledRegion
from maskwise.errors import ImageError, InputError
from maskwise.model.predictor import Predictor
from maskwise.tasks.embedding import embed_regions
from maskwise.training.batches import Skipped
from maskwise.training.checkpoint import write_tensors


@dataclass(frozen=True)
class Teacher:
    """What a teacher makes of regions.

    Attributes:
        embeddings: each feature with mean 0 and spread 1 over the regions, rows of length 1; of regions whose images
            could not be read, rows of zeros, which say nothing.
        sha256: of the model file, the regions' outlines and the names of their images.
        skipped: the images that could not be read.
    """

    embeddings: Float[Tensor, "regions features"]
    sha256: str
    skipped: tuple[Skipped, ...] = ()


def teacher_embeddings(model: Path, regions: Sequence[LabelledRegion], cache: Path) -> Teacher:
    """Let a teacher embed regions.

    Args:
        model: model file of the teacher.
        regions: the regions.
        cache: safetensors file that keeps the embeddings; used again for the same model and regions, else replaced.

    Raises:
        ModelError: the model file cannot be used.
        AnnotationError, MaskError: a region cannot be read.
        InputError: more than half of the images cannot be read, or the cache cannot be written.
    """
    predictor = Predictor(model, mode="exact")
    key = _key(model, regions)
    embeddings = _cached(cache, key)
    if embeddings is None:
        embeddings = torch.from_numpy(_embed(predictor, regions))
        write_tensors(cache, {"embeddings": embeddings}, {"key": key})
    known = ~embeddings.isnan().any(dim=1)
    spread = embeddings[known].std(dim=0, correction=0).clamp(min=1e-6)
    rows = F.normalize((embeddings - embeddings[known].mean(dim=0)) / spread, dim=1).nan_to_num(0)
    paths = dict.fromkeys(
        str(region.image_path) for region, is_known in zip(regions, known, strict=True) if not is_known
    )
    return Teacher(rows, key, tuple(Skipped(path, f"{path}: could not be read for the teacher") for path in paths))


def _key(model: Path, regions: Sequence[LabelledRegion]) -> str:
    """Changes with the model or with any region's outline, not with where the folders lie."""
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    for region in regions:
        try:
            mask = region.read_mask()
        except ImageError:  # Where the annotations state no size the image does; one that cannot be read has no row.
            digest.update(json.dumps([region.image_path.name]).encode())
            continue
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


def _embed(predictor: Predictor, regions: Sequence[LabelledRegion]) -> Float[np.ndarray, "regions features"]:
    """Embeddings; not numbers where the image cannot be read."""
    unreadable: list[ImageError] = []
    rows = embed_regions(predictor, regions, what="teacher", unreadable=unreadable)
    unknown = int(np.isnan(rows).any(axis=1).sum())
    if 2 * unknown > len(regions):
        raise InputError(
            f"most images cannot be read: those of {unknown} in {len(regions)} regions, the last of them:"
            f" {unreadable[-1]}; mend the data, then start the run again"
        )
    return rows


def distances_to_teacher(told: Float[Tensor, "n d"], right: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """One minus the cosine between what a student tells and the teacher's rows, 0 to 2."""
    return 1 - F.cosine_similarity(told, right, dim=1)
