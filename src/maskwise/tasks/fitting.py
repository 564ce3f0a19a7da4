"""Fit a model of your own classes: a new last layer on another model's embeddings."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from maskwise import __version__
from maskwise.data.atomic_files import check_output
from maskwise.data.problems import SKIPPED, OnError, Problem
from maskwise.data.regions import Regions, RegionSet
from maskwise.errors import AnnotationError
from maskwise.extras import needs_extra
from maskwise.model.head_replacement import replace_head
from maskwise.model.model_file import ModelInfo
from maskwise.model.predictor import Predictor
from maskwise.model.runner import Device
from maskwise.model.session import built_in_model
from maskwise.tasks.embedding import embed_regions
from maskwise.tasks.known_heads import KnownHead, choose_known
from maskwise.tasks.linear_heads import Kind, Trial, choose_head


@dataclass(frozen=True)
class Fit:
    """The result of fitting.

    Attributes:
        regions: number of regions learned from, by class.
        trials: the heads that were tried, the chosen one first.
        seconds: time that it took.
        problems: faults in the data whose regions were left out.
        known: the head that says "none of these"; None without regions of nothing to learn it from.
    """

    regions: dict[str, int]
    trials: tuple[Trial, ...]
    seconds: float
    problems: tuple[Problem, ...] = ()
    known: KnownHead | None = None


def fit_classes(
    regions: RegionSet,
    output: str | os.PathLike[str],
    *,
    nothing: RegionSet | None = None,
    model: str | os.PathLike[str] | None = None,
    head: Kind = "auto",
    name: str = "",
    device: Device = "cpu",
    threads: int | None = None,
    on_error: OnError = "stop",
) -> Fit:
    """Write a model file that knows the classes of some labelled regions.

    The regions are embedded by an existing model, and only its last layer is replaced. Head type, regularisation and
    temperature are chosen by cross-validation over whole images.

    Args:
        regions: to learn from; crowds and classes without a region are left out.
        output: the model file to write, whole or not at all.
        nothing: regions that are none of the classes, for example background; the model then says "none of these". See
            `find_nothing`.
        model: the model file that embeds (default: the built-in model).
        head: `linear` (logistic regression), `mean` (nearest class mean), or `auto`: whichever of both and their sum
            does best.
        name: name of the new model (default: its file's name).
        device: `cpu` or `cuda`.
        threads: CPU threads (default: all available cores).
        on_error: what to do about images and masks that cannot be used: `stop` lists all of them, `skip` leaves them
            out.

    Raises:
        AnnotationError: fewer than two classes have a region, or regions of nothing are in fewer than two images; or,
            with `stop`, several images or masks cannot be used.
        ImageError, MaskError: with `stop`, one image or mask cannot be used.
        ModelError: the model cannot be used.
        InputError: the output cannot be written, or is the model that embeds.
        MissingExtraError: the extra `fit` is not installed.

    Example:
        fit_classes(regions_from_coco("labels.json", "photos"), "mine.onnx")
        Predictor("mine.onnx").predict(image, masks)
    """
    with needs_extra("fit"):  # Not after the embedding, which takes the time.
        import onnx  # noqa: F401
        import scipy.optimize  # noqa: F401
        import sklearn.linear_model  # noqa: F401
        import threadpoolctl  # noqa: F401
    start = time.perf_counter()
    source = Path(model) if model is not None else built_in_model()
    output = Path(output)
    check_output(output, inputs=[source])
    known = regions.regions.only(~regions.regions.crowd)
    _check_classes(known)
    predictor = Predictor(model, mode="exact", device=device, threads=threads)
    problems: list[Problem] = list(regions.problems)
    known, embeddings = _embedded(predictor, known, on_error, problems)
    _check_classes(known)
    counts = known.counts()
    categories = tuple(category for category in regions.categories if category.name in counts)
    targets = known.numbered({category.name: number for number, category in enumerate(categories)})
    paths = known.images[known.image]
    known_head = None
    if nothing is not None:
        empty, of_nothing = _embedded(predictor, nothing.regions, on_error, problems)
        numbers = np.unique(np.concatenate([paths, empty.images[empty.image]]), return_inverse=True)[1]
        known_head = choose_known(embeddings, numbers[: len(paths)], of_nothing, numbers[len(paths) :])
    images = np.unique(paths, return_inverse=True)[1]
    trials = choose_head(head, embeddings, targets, images)
    fitted = trials[0].fit(embeddings, targets)
    info = ModelInfo(
        name=name or output.stem,
        categories=categories,
        view=predictor.info.view,
        shares=predictor.info.shares,
        temperature=trials[0].temperature,
        min_known=None if known_head is None else known_head.min_known,
        batch_size=predictor.info.batch_size,
        training={
            "maskwise": __version__,
            "embeds": predictor.info.name,
            "embeds_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "trials": [asdict(trial) for trial in trials],
            "regions": {category.name: counts[category.name] for category in categories},
            "images": int(images.max()) + 1,
            **({} if known_head is None else {"nothing": known_head.nothing, "auroc": round(known_head.auroc, 4)}),
        },
    )
    known_layer = None if known_head is None else (known_head.weight, known_head.bias)
    replace_head(source, fitted.weight, fitted.bias, info, output, known=known_layer)
    seconds = round(time.perf_counter() - start, 1)
    return Fit(info.training["regions"], trials, seconds, tuple(problems), known_head)


def _embedded(
    predictor: Predictor, regions: Regions, on_error: OnError, problems: list[Problem]
) -> tuple[Regions, Float32[np.ndarray, "regions features"]]:
    """Return the regions that can be embedded, and their embeddings; note the problems of the others."""
    embeddings = embed_regions(predictor, regions, skip=SKIPPED[on_error], problems=problems)
    usable = ~np.isnan(embeddings).any(axis=1)
    return regions.only(usable), embeddings[usable]


def _check_classes(regions: Regions) -> None:
    """Refuse regions of fewer than two classes: a model tells classes apart.

    Raises:
        AnnotationError: there are none, or all are of one class.
    """
    counts = regions.counts()
    if not counts:
        raise AnnotationError("no region is left to fit to; look at --ignore, --min-area and the annotations")
    if len(counts) < 2:
        raise AnnotationError(f"all regions are of class {next(iter(counts))!r}; label regions of another class too")
