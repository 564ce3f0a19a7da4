"""Find labels that look wrong: names that an independent judge would not give, duplicates, tiny outlines, gaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from maskwise.data.masks import Mask
from maskwise.data.problems import SKIPPED, OnError, Problem
from maskwise.data.regions import Regions, RegionSet
from maskwise.errors import AnnotationError
from maskwise.extras import needs_extra
from maskwise.model.predictor import Predictor
from maskwise.model.segmenter import Segmenter
from maskwise.tasks.embedding import embed_regions
from maskwise.tasks.evaluation import evaluate
from maskwise.tasks.linear_heads import choose_head, out_of_sample_logits
from maskwise.tasks.naming import iou
from maskwise.tasks.suspicions import Suspicion
from maskwise.tasks.unlabelled import find_unlabelled

How = Literal["auto", "model", "cross-validated"]
TINY = 16
"""Regions of fewer pixels are listed."""
SAME = 0.9
"""Two regions of an image with at least this IoU are duplicates."""
NOTHING_SHARE = 0.01
"""Share of labels that stand on nothing. `known` was fitted to as many objects as segments of nothing; among labels
nothing is rare."""
KNOWN_SHARE = 0.9
"""`auto` asks the model if it knows the names of at least this share of the regions."""


@dataclass(frozen=True)
class Audit:
    """The result of `audit`.

    Attributes:
        how: who judged: model or cross-validated.
        regions: the regions that were looked at.
        suspicions: the most suspicious first.
        outlines: the region of each.
        problems: faults in the data whose regions were left out.
    """

    how: How
    regions: Regions
    suspicions: tuple[Suspicion, ...]
    outlines: Regions
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Judged:
    """Probabilities of every class for every region, by a judge that has not seen its label.

    Attributes:
        how: who judged: model or cross-validated.
        regions: the regions, without those that cannot be used.
        classes: a column of `probabilities` each.
        probabilities: 0 to 1; every row adds up to 1.
        known: probability of being one of the classes at all; NaN if the judge cannot tell.
        min_known: below it a region looks like none of the classes.
        problems: faults in the data whose regions were left out.
    """

    how: How
    regions: Regions
    classes: tuple[str, ...]
    probabilities: Float[np.ndarray, "regions classes"]
    known: Float[np.ndarray, " regions"]
    min_known: float
    problems: tuple[Problem, ...]


def audit(
    regions: RegionSet,
    predictor: Predictor,
    *,
    how: How = "auto",
    on_error: OnError = "stop",
    segmenter: Segmenter | None = None,
) -> Audit:
    """List the labels that look wrong.

    Every region is judged by something that has not seen its label: the model, where it knows the names; else heads
    fitted to the embeddings of other images, by cross-validation. A name is suspicious if another one is more probable;
    its score is one minus the judge's probability of the given name.

    Args:
        regions: the labelled regions; crowds are left out.
        predictor: the model that judges or embeds.
        how: who judges; auto: the model if it knows the names of at least 90 % of the regions.
        on_error: what to do about images and masks that cannot be used; see `evaluate`.
        segmenter: also look for things without a label in the images of the regions (`find_unlabelled`), with this
            segmenter; takes seconds per image.

    Raises:
        AnnotationError: no region is left, or fewer than two classes; or, with `stop`, images or masks cannot be used;
            or a segmenter is given, and the model does not know the names.
        MissingExtraError: cross-validation needs the extra `fit`.

    Source:
        The score is the self-confidence of C. Northcutt et al., Confident Learning, arXiv:1911.00068, and of J. Kuan
        and J. Mueller, Model-agnostic label quality scoring, ICML DataPerf 2022.
    """
    judged = judge(regions, predictor, how=how, on_error=on_error)
    found = [*suspicious_names(judged), *_odd_outlines(judged.regions)]
    outlines, problems = judged.regions, list(judged.problems)
    if segmenter is not None:
        if judged.how != "model":
            raise AnnotationError(
                "the model does not know these names, so it finds nothing without a label; make a model of your classes"
                " with `maskwise fit` and give it"
            )
        missing = list(find_unlabelled(regions, predictor, segmenter, skip=SKIPPED[on_error], problems=problems))
        found += enumerate((one for _, one in missing), start=len(outlines))
        outlines = Regions.joined([outlines, Regions.of(region for region, _ in missing)])
    found.sort(key=lambda pair: -pair[1].score)
    numbers = np.array([number for number, _ in found], dtype=np.int64)
    suspicions = tuple(one for _, one in found)
    return Audit(judged.how, judged.regions, suspicions, outlines.only(numbers), tuple(problems))


def judge(regions: RegionSet, predictor: Predictor, *, how: How = "auto", on_error: OnError = "stop") -> Judged:
    """Return what an independent judge says of labelled regions; arguments as in `audit`."""
    regions = regions.only(~regions.regions.crowd)
    if not len(regions.regions):
        raise AnnotationError("there is no region to look at")
    if how == "auto":
        named = regions.regions.called(predictor.classes)
        how = "model" if named.mean() >= KNOWN_SHARE else "cross-validated"
    ask = _by_the_model if how == "model" else _by_cross_validation
    return ask(regions, predictor, on_error)


def _by_the_model(regions: RegionSet, predictor: Predictor, on_error: OnError) -> Judged:
    evaluation = evaluate(predictor, regions, on_error=on_error)
    named = evaluation.named
    limit = predictor.info.min_known
    return Judged(
        how="model",
        regions=named.regions,
        classes=evaluation.classes,
        probabilities=named.probabilities.astype(float),
        known=np.full(len(named.known), np.nan) if limit is None else named.known.astype(float),
        min_known=limit or 0.0,
        problems=evaluation.problems,
    )


def _by_cross_validation(regions: RegionSet, predictor: Predictor, on_error: OnError) -> Judged:
    with needs_extra("fit"):
        import sklearn.linear_model  # noqa: F401
    problems = list(regions.problems)
    embeddings = embed_regions(predictor, regions.regions, skip=SKIPPED[on_error], problems=problems)
    usable = ~np.isnan(embeddings).any(axis=1)
    kept, embeddings = regions.regions.only(usable), embeddings[usable]
    counts = kept.counts()
    classes = tuple(category.name for category in regions.categories if category.name in counts)
    if len(classes) < 2:
        raise AnnotationError("all regions are of one class; there is no other name to suggest")
    targets = kept.numbered({name: number for number, name in enumerate(classes)})
    images = np.unique(kept.images[kept.image], return_inverse=True)[1]
    trial = choose_head("auto", embeddings, targets, images)[0]
    logits = out_of_sample_logits(trial, embeddings, targets, images)
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Judged(
        how="cross-validated",
        regions=kept,
        classes=classes,
        probabilities=scaled / scaled.sum(axis=1, keepdims=True),
        known=np.full(len(kept), np.nan),
        min_known=0.0,
        problems=tuple(problems),
    )


def suspicious_names(judged: Judged) -> Iterator[tuple[int, Suspicion]]:
    """Yield regions that look like another class, or like none, with their numbers; not ordered."""
    places = {name: number for number, name in enumerate(judged.classes)}
    best = judged.probabilities.argmax(axis=1)
    for number, region in enumerate(judged.regions):
        given = float(judged.probabilities[number, places[region.name]])
        top, known = float(judged.probabilities[number, best[number]]), float(judged.known[number])
        facts: dict[str, Any] = {
            "annotation_id": region.region_id,
            "image_id": region.image_id,
            "file_name": region.image_path.name,
            "given": region.name,
            "given_probability": round(given, 6),
            "known": None if np.isnan(known) else round(known, 4),
        }
        if known < judged.min_known:
            nothing, thing = (1 - known) * NOTHING_SHARE, known * (1 - NOTHING_SHARE)
            yield number, Suspicion(kind="none", score=round(nothing / (nothing + thing), 6), **facts)
        elif judged.classes[best[number]] != region.name:
            suggested = judged.classes[best[number]]
            yield (
                number,
                Suspicion(
                    kind="name", score=round(1 - given, 6), suggested=suggested, probability=round(top, 4), **facts
                ),
            )


def _odd_outlines(regions: Regions) -> Iterator[tuple[int, Suspicion]]:
    """Yield tiny regions, and those that repeat an earlier one of their image."""
    for numbers in regions.by_image():  # Masks alone: the judge has decoded every image.
        seen: list[tuple[int, Mask]] = []
        for number in numbers.tolist():
            region = regions[number]
            mask = region.read_mask()
            facts: dict[str, Any] = {
                "annotation_id": region.region_id,
                "image_id": region.image_id,
                "file_name": region.image_path.name,
                "given": region.name,
            }
            if mask.area < TINY:
                yield number, Suspicion(kind="tiny", score=round(1 - mask.area / TINY, 4), **facts)
            for other, earlier in seen:
                shared = iou(mask, earlier)
                if shared >= SAME:
                    other_id = regions[other].region_id
                    yield number, Suspicion(kind="duplicate", score=round(shared, 4), other_id=other_id, **facts)
                    break
            seen.append((number, mask))
