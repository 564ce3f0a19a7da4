"""Distillation: a teacher model embeds the training regions, and the network learns to predict these embeddings.

A few thousand class names say little about what things look like. The embeddings of a trunk that was pretrained on far
more images say a lot, and a small network that also learns them overfits less. Each region is embedded once, as
prediction would see it.

Source:
    A. Romero et al., FitNets: hints for thin deep nets, arXiv:1412.6550 (a student predicts its teacher's features).
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

from maskwise.data.problems import Problem
from maskwise.data.regions import LabelledRegion
from maskwise.errors import ImageError, InputError
from maskwise.model.predictor import Predictor
from maskwise.tasks.embedding import embed_regions
from maskwise.training.batches import UnreadableImage
from maskwise.training.checkpoint import write_tensors


@dataclass(frozen=True)
class TeacherEmbeddings:
    """A teacher's embeddings of regions.

    Attributes:
        embeddings: each feature has mean 0 and standard deviation 1 over the regions, then each row has length 1. Rows
            of regions whose images could not be read are zero and have no effect.
        sha256: of the model file, the regions' masks and the names of their images.
        skipped: images that could not be read.
    """

    embeddings: Float[Tensor, "regions features"]
    sha256: str
    skipped: tuple[UnreadableImage, ...] = ()


def teacher_embeddings(model: Path, regions: Sequence[LabelledRegion], cache: Path) -> TeacherEmbeddings:
    """Embed regions with a teacher.

    Args:
        model: model file of the teacher.
        regions: the regions.
        cache: safetensors file of embeddings; used if it is of the same model and regions, otherwise replaced.

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
    skipped = (UnreadableImage(path, f"{path}: could not be read for the teacher") for path in paths)
    return TeacherEmbeddings(rows, key, tuple(skipped))


def _key(model: Path, regions: Sequence[LabelledRegion]) -> str:
    """Return a hash of the model and of every region's mask, independent of where the folders are."""
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    for region in regions:
        try:
            mask = region.read_mask()
        except ImageError:  # Without a stated size the mask needs the image; an unreadable one has no embedding.
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
    except SafetensorError:  # Another program's file, or a damaged one: make it again.
        return None


def _embed(predictor: Predictor, regions: Sequence[LabelledRegion]) -> Float[np.ndarray, "regions features"]:
    """Return embeddings; rows are NaN where the image cannot be read."""
    problems: list[Problem] = []
    rows = embed_regions(predictor, regions, what="teacher", skip=(ImageError,), problems=problems)
    unknown = int(np.isnan(rows).any(axis=1).sum())
    if 2 * unknown > len(regions):
        raise InputError(
            f"most images cannot be read: those of {unknown} of {len(regions)} regions; the last:"
            f" {problems[-1].message}; repair the data, then start the run again"
        )
    return rows


def distances_to_teacher(predicted: Float[Tensor, "n d"], teacher: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return one minus the cosine between predicted and the teacher's embeddings, 0 to 2."""
    return 1 - F.cosine_similarity(predicted, teacher, dim=1)
