"""Fit a model of your own classes: a new last layer on another model's embeddings."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from maskwise import __version__
from maskwise.data.atomic_files import check_output
from maskwise.data.regions import RegionSet
from maskwise.errors import AnnotationError
from maskwise.model.head_replacement import replace_head
from maskwise.model.model_file import ModelInfo
from maskwise.model.predictor import Predictor
from maskwise.model.session import built_in_model
from maskwise.tasks.embedding import embed_regions
from maskwise.tasks.linear_heads import Kind, Trial, choose_head


@dataclass(frozen=True)
class Fit:
    """What came of fitting.

    Attributes:
        regions: how many were learned from, by class.
        trials: the heads that were tried, the chosen one first.
        seconds: that all of it took.
    """

    regions: dict[str, int]
    trials: tuple[Trial, ...]
    seconds: float


def fit_classes(
    regions: RegionSet,
    output: Path,
    *,
    model: str | os.PathLike[str] | None = None,
    head: Kind = "auto",
    name: str = "",
    device: str = "cpu",
    threads: int | None = None,
) -> Fit:
    """Write a model file that knows the classes of some labelled regions.

    The regions' embeddings are those of another model; only its last layer is replaced. Kind and regularisation of the
    new one are chosen, and its probabilities calibrated, by cross-validation over images.

    Args:
        regions: to learn from; crowds are left out, and classes without a region are not in the model.
        output: the model file to write.
        model: the model file that embeds; the embedded one where left out.
        head: what to fit: linear, mean (of each class, the nearest), or whichever does better.
        name: what the new model is called; its file's name where left out.
        device: `cpu` or `cuda`.
        threads: processor threads; all cores where left out.

    Raises:
        AnnotationError: fewer than two classes have a region.
        ImageError, MaskError: an image or a mask that cannot be used.
        ModelError: the model cannot be used.
        InputError: the output cannot be written, or is the model that embeds.
    """
    start = time.perf_counter()
    source = Path(model) if model is not None else built_in_model()
    check_output(output, inputs=[source])
    known = regions.regions.only(~regions.regions.crowd)
    counts = known.counts()
    categories = tuple(category for category in regions.categories if category.name in counts)
    if len(categories) < 2:
        raise AnnotationError(
            f"to tell classes apart at least two are needed, and the regions are of {len(categories)}"
            f" ({', '.join(counts) or 'none'}); label regions of another class too"
        )
    predictor = Predictor(model, mode="exact", device=device, threads=threads)
    embeddings = embed_regions(predictor, known)
    targets = known.numbered({category.name: number for number, category in enumerate(categories)})
    images = np.unique(known.images[known.image], return_inverse=True)[1]
    trials = choose_head(head, embeddings, targets, images)
    fitted = trials[0].fit(embeddings, targets)
    info = ModelInfo(
        name=name or Path(output).stem,
        categories=categories,
        view=predictor.info.view,
        temperature=trials[0].temperature,
        batch_size=predictor.info.batch_size,
        training={
            "maskwise": __version__,
            "embeds": predictor.info.name,
            "embeds_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "trials": [asdict(trial) for trial in trials],
            "regions": {category.name: counts[category.name] for category in categories},
            "images": int(images.max()) + 1,
        },
    )
    replace_head(source, fitted.weight, fitted.bias, info, Path(output))
    return Fit(info.training["regions"], trials, round(time.perf_counter() - start, 1))
