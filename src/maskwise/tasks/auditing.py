"""Find labels that look wrong: regions whose name an independent judge would not give, duplicates, tiny outlines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from maskwise.data.masks import Mask
from maskwise.data.problems import SKIPPED, Id, OnError, Problem
from maskwise.data.regions import Regions, RegionSet
from maskwise.errors import AnnotationError
from maskwise.extras import needs_extra
from maskwise.model.predictor import Predictor
from maskwise.tasks.embedding import embed_regions
from maskwise.tasks.evaluation import evaluate
from maskwise.tasks.linear_heads import choose_head, out_of_sample_logits
from maskwise.tasks.naming import overlap

How = Literal["auto", "model", "cross-validated"]
Kind = Literal["name", "none", "duplicate", "tiny"]
TINY = 16
"""Regions of fewer pixels are listed."""
SAME = 0.9
"""Two regions of an image with at least this IoU are duplicates."""
KNOWN_SHARE = 0.9
"""`auto` asks the model if it knows the names of at least this share of the regions."""


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A label that may be wrong.

    Attributes:
        kind: name (another name fits better), none (it looks like none of the classes), duplicate, or tiny.
        score: how suspicious, 0 to 1; those of one kind can be compared.
        annotation_id: of the region.
        image_id: of its image.
        file_name: of its image.
        given: its name.
        suggested: a better one; None if there is none to suggest.
        probability: of the suggested name, 0 to 1.
        given_probability: of the given name.
        known: probability of being one of the classes at all; None if the model cannot tell.
        other_id: of the annotation that it repeats.
    """

    kind: Kind
    score: float
    annotation_id: Id
    image_id: Id
    file_name: str
    given: str
    suggested: str | None = None
    probability: float | None = None
    given_probability: float | None = None
    known: float | None = None
    other_id: Id | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values, without what does not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Audit:
    """The result of `audit`.

    Attributes:
        how: who judged: model or cross-validated.
        regions: the regions that were looked at.
        suspicions: the most suspicious first.
        numbers: place of each in `regions`.
        problems: faults in the data whose regions were left out.
    """

    how: How
    regions: Regions
    suspicions: tuple[Suspicion, ...]
    numbers: tuple[int, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class _Judged:
    """Probabilities of every class for every region, by a judge that has not seen its label."""

    regions: Regions
    classes: tuple[str, ...]
    probabilities: Float[np.ndarray, "regions classes"]
    known: Float[np.ndarray, " regions"]
    problems: tuple[Problem, ...]


def audit(regions: RegionSet, predictor: Predictor, *, how: How = "auto", on_error: OnError = "stop") -> Audit:
    """List the labels that look wrong.

    Every region is judged by something that has not seen its label: the model, where it knows the names; else heads
    fitted to the embeddings of other images, by cross-validation. A name is suspicious if another one is more probable;
    its score is the difference of the two probabilities, times the probability of being one of the classes at all.

    Args:
        regions: the labelled regions; crowds are left out.
        predictor: the model that judges or embeds.
        how: who judges; auto: the model if it knows the names of at least 90 % of the regions.
        on_error: what to do about images and masks that cannot be used; see `evaluate`.

    Raises:
        AnnotationError: no region is left, or fewer than two classes; or, with `stop`, images or masks cannot be used.
        MissingExtraError: cross-validation needs the extra `fit`.

    Source:
        The score is the normalised margin of C. Northcutt et al., Confident Learning, arXiv:1911.00068, and of J. Kuan
        and J. Mueller, Model-agnostic label quality scoring, ICML DataPerf 2022.
    """
    regions = regions.only(~regions.regions.crowd)
    if not len(regions.regions):
        raise AnnotationError("there is no region to look at")
    if how == "auto":
        named = regions.regions.called(predictor.classes)
        how = "model" if named.mean() >= KNOWN_SHARE else "cross-validated"
    judge = _by_the_model if how == "model" else _by_cross_validation
    judged = judge(regions, predictor, on_error)
    found = [*_wrong_names(judged, predictor), *_odd_outlines(judged.regions)]
    found.sort(key=lambda pair: -pair[1].score)
    suspicions, numbers = tuple(one for _, one in found), tuple(number for number, _ in found)
    return Audit(how, judged.regions, suspicions, numbers, judged.problems)


def _by_the_model(regions: RegionSet, predictor: Predictor, on_error: OnError) -> _Judged:
    evaluation = evaluate(predictor, regions, on_error=on_error)
    named = evaluation.named
    known = named.known if predictor.info.min_known is not None else np.full(len(named.known), np.nan)
    return _Judged(named.regions, evaluation.classes, named.probabilities.astype(float), known, evaluation.problems)


def _by_cross_validation(regions: RegionSet, predictor: Predictor, on_error: OnError) -> _Judged:
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
    return _Judged(
        kept, classes, scaled / scaled.sum(axis=1, keepdims=True), np.full(len(kept), np.nan), tuple(problems)
    )


def _wrong_names(judged: _Judged, predictor: Predictor) -> Iterator[tuple[int, Suspicion]]:
    """Yield regions that look like another class, or like none."""
    places = {name: number for number, name in enumerate(judged.classes)}
    best = judged.probabilities.argmax(axis=1)
    limit = predictor.info.min_known or 0.0
    for number, region in enumerate(judged.regions):
        given = float(judged.probabilities[number, places[region.name]])
        top, known = float(judged.probabilities[number, best[number]]), float(judged.known[number])
        facts: dict[str, Any] = {
            "annotation_id": region.region_id,
            "image_id": region.image_id,
            "file_name": region.image_path.name,
            "given": region.name,
            "given_probability": round(given, 4),
            "known": None if np.isnan(known) else round(known, 4),
        }
        if known < limit:
            yield number, Suspicion(kind="none", score=round(1 - known, 4), **facts)
        elif judged.classes[best[number]] != region.name:
            score = (top - given) * (1.0 if np.isnan(known) else known)
            suggested = judged.classes[best[number]]
            yield (
                number,
                Suspicion(kind="name", score=round(score, 4), suggested=suggested, probability=round(top, 4), **facts),
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
                iou = _iou(mask, earlier)
                if iou >= SAME:
                    other_id = regions[other].region_id
                    yield number, Suspicion(kind="duplicate", score=round(iou, 4), other_id=other_id, **facts)
                    break
            seen.append((number, mask))


def _iou(one: Mask, other: Mask) -> float:
    shared = overlap(one, other)
    return shared / (one.area + other.area - shared)
