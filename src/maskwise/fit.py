"""A model of one's own classes from a few regions: a last layer fitted to what another model makes of the regions."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int
from tqdm import tqdm

from maskwise import __version__
from maskwise.errors import AnnotationError, ImageError
from maskwise.files import check_output
from maskwise.heads import Kind, Trial, choose_head
from maskwise.modelfile import ModelInfo, embedded_model, write_with_head
from maskwise.predictor import Predictor
from maskwise.regions import LabelledRegion, RegionSet, grouped, read_by_image


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


def fit(
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
    source = Path(model) if model is not None else embedded_model()
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
    write_with_head(source, fitted.weight, fitted.bias, info, Path(output))
    return Fit(info.training["regions"], trials, round(time.perf_counter() - start, 1))


def embed_regions(
    predictor: Predictor,
    regions: Sequence[LabelledRegion],
    *,
    what: str = "embed",
    unreadable: list[ImageError] | None = None,
) -> Float32[np.ndarray, "regions features"]:
    """What a model makes of regions on disk, in their order; every image is read once.

    Args:
        predictor: the model.
        regions: at least one.
        what: how the progress bar calls it.
        unreadable: gets the errors of images that cannot be used; the rows of their regions are then not numbers.

    Raises:
        ImageError, MaskError: see `read_by_image`.
    """
    rows: dict[int, np.ndarray] = {}
    with tqdm(total=len(regions), desc=what, unit=" regions", mininterval=2, disable=None) as progress:
        for numbers, image, masks in read_by_image(regions, unreadable=unreadable):
            rows.update(zip(numbers, predictor.embed(image, masks), strict=True))
            progress.update(len(numbers))
    unknown = np.full_like(next(iter(rows.values()), np.zeros(1, dtype=np.float32)), np.nan)
    return np.stack([rows.get(number, unknown) for number in range(len(regions))])


def spread_over_images(regions: RegionSet, per_class: int, *, seed: int = 0) -> RegionSet:
    """At most so many regions of each class, drawn from as many images as there are; crowds left out.

    Args:
        regions: to draw from.
        per_class: at least 1.
        seed: of the draw.
    """
    found = regions.regions
    order = np.random.default_rng(seed).permutation(len(found))
    order = order[~found.crowd[order]]
    met = _times_met(found.name[order].astype(np.int64) * len(found.images) + found.image[order])
    order = order[np.argsort(met, kind="stable")]  # The first of its class in its image, then every second one, ...
    return RegionSet(regions.categories, found.only(np.sort(order[_times_met(found.name[order]) < per_class])))


def _times_met(codes: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """How often each value has stood before.

    >>> _times_met(np.array([7, 3, 7, 7])).tolist()
    [0, 0, 1, 2]
    """
    times = np.empty(len(codes), dtype=np.int64)
    for positions in grouped(codes):
        times[positions] = np.arange(len(positions))
    return times
