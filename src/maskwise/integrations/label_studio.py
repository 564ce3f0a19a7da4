"""Name the regions of Label Studio's tasks: which there are, and the results that go back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskwise.data.label_studio_regions import Kind, geometry_of, kind_of, mask_of_region, region_values
from maskwise.data.masks import Mask
from maskwise.errors import MaskError, naming_mask
from maskwise.integrations.label_studio_config import LABELS, Control, Labelling
from maskwise.model.prediction import ImageOutputs
from maskwise.model.segmenter import Segment
from maskwise.tasks.naming import MIN_SCORE, Thing, things_of

MIN_OFFERED = 0.5
"""A region gets a name if it is at least this probable that it is one of the configuration's names."""
RUNNERS_UP = 4
"""Maximum number of further names in a region's note."""


@dataclass(frozen=True, eq=False)
class TaskRegion:
    """A region of a task.

    Attributes:
        results: what the task says of it; empty for one that the segmenter found.
        mask: where it is.
        kind: its shape.
    """

    results: tuple[Mapping[str, Any], ...]
    mask: Mask
    kind: Kind

    @property
    def region_id(self) -> str:
        """Its id in Label Studio; empty if it has none."""
        return str(self.results[0].get("id", "")) if self.results else ""


@dataclass(frozen=True)
class RegionName:
    """The name of a region.

    Attributes:
        option: as the configuration has it.
        score: its probability among the configuration's names, 0 to 1.
        runners_up: further names and their probabilities, the most probable first.
    """

    option: str
    score: float
    runners_up: tuple[tuple[str, float], ...]


def results_of_task(task: Mapping[str, Any], context: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the results that have a task's regions.

    The first with any counts: what the annotator sees, the latest draft, the latest annotation that was not cancelled,
    the latest prediction.

    Args:
        task: as Label Studio sends it.
        context: of a request while somebody annotates; its `result` has the regions on the screen.
    """
    latest = [_records(task.get(key)) for key in ("drafts", "annotations", "predictions")]
    for record in (context or {}, *(one for records in latest for one in records)):
        result = record.get("result")
        found = [one for one in result if isinstance(one, Mapping)] if isinstance(result, list) else []
        if any(kind_of(one) for one in found):
            return found
    return []


def _records(value: Any) -> list[Mapping[str, Any]]:
    """Return the annotations, drafts or predictions of a task that count, the latest first."""
    records = [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
    return [one for one in reversed(records) if not one.get("was_cancelled")]


def regions_of_results(
    results: Iterable[Mapping[str, Any]], labelling: Labelling, image_hw: tuple[int, int]
) -> tuple[list[TaskRegion], list[str]]:
    """Return the regions of results, and what is wrong with those that cannot be read.

    Args:
        results: of `results_of_task`; those with the same id are one region.
        labelling: the project's configuration.
        image_hw: the image's height and width, pixels.
    """
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for number, result in enumerate(results):
        if result.get("to_name", labelling.image) == labelling.image:
            groups.setdefault(result.get("id", number), []).append(result)
    regions, problems = [], []
    for key, group in groups.items():
        shape = next((one for one in group if kind_of(one)), None)
        kind = None if shape is None else kind_of(shape)
        if shape is None or kind is None:
            continue
        try:
            with naming_mask(f"region {str(key)[:40]}"):
                regions.append(
                    TaskRegion(
                        tuple([shape, *(one for one in group if one is not shape)]),
                        mask_of_region(shape, image_hw),
                        kind,
                    )
                )
        except MaskError as error:
            problems.append(str(error))
    return regions, problems


def names_of(outputs: ImageOutputs, labelling: Labelling) -> list[RegionName | None]:
    """Return the name of each region among those of a configuration; None for "none of these".

    A region gets no name if it is less probable that it is one of the configuration's names than `MIN_OFFERED`, or by
    the model's own limits. Classes of one option count together.

    Args:
        outputs: of the model.
        labelling: the project's configuration.
    """
    options = labelling.options
    names = [category.name.lower() for category in outputs.categories]
    offered = list(dict.fromkeys(options[name] for name in names if name in options))
    if not offered:
        return [None] * len(outputs.probabilities)
    belongs = np.array([[options.get(name) == option for option in offered] for name in names], dtype=np.float64)
    sums = outputs.probabilities.astype(np.float64) @ belongs
    totals = sums.sum(axis=1)
    shares = sums / np.maximum(totals, 1e-12)[:, None]
    none = outputs.limits.are_none(shares.max(axis=1), outputs.known) | (totals < MIN_OFFERED)
    found: list[RegionName | None] = []
    for row, is_none in zip(shares, none.tolist(), strict=True):
        order = np.argsort(-row, kind="stable").tolist()
        pairs = [(offered[i], float(row[i])) for i in order]
        found.append(None if is_none else RegionName(*pairs[0], tuple(pairs[1 : 1 + RUNNERS_UP])))
    return found


def regions_of_segments(
    segments: Sequence[Segment], outputs: ImageOutputs, labelling: Labelling
) -> tuple[list[TaskRegion], list[RegionName | None]]:
    """Return the things among segments, and their names; parts of things of the same name are left out.

    Args:
        segments: everything in the image.
        outputs: of the model, a row for each.
        labelling: the project's configuration.
    """
    shape = labelling.shape_for(None)
    kind = shape.kind if shape is not None else None
    assert kind is not None, "see `read_labelling`"
    names = names_of(outputs, labelling)
    things = [Thing(*pair) for pair in zip(segments, outputs.predictions(1), strict=True)]
    name_of = {id(thing): name for thing, name in zip(things, names, strict=True)}
    kept = things_of([thing for thing in things if name_of[id(thing)] is not None], MIN_SCORE)
    return [TaskRegion((), thing.segment.mask, kind) for thing in kept], [name_of[id(thing)] for thing in kept]


def prediction_of(
    regions: Sequence[TaskRegion], names: Sequence[RegionName | None], labelling: Labelling, model_version: str
) -> dict[str, Any]:
    """Return a prediction as Label Studio takes it. Regions that were there and got no name come back as they were.

    Args:
        regions: of the task.
        names: one for each.
        labelling: the project's configuration.
        model_version: name of the model.
    """
    result: list[dict[str, Any]] = []
    scores = []
    for number, (region, name) in enumerate(zip(regions, names, strict=True), start=1):
        if name is None:
            result += [dict(one) for one in region.results]
            continue
        scores.append(name.score)
        for part, value in enumerate(_values(region)):
            region_id = region.region_id or f"thing-{number}" + (f"-{part}" if part else "")
            result += _results(region, region_id, value, name, labelling)
    score = round(sum(scores) / len(scores), 6) if scores else 0.0
    return {"result": result, "score": score, "model_version": model_version}


def _values(region: TaskRegion) -> list[dict[str, Any]]:
    return [geometry_of(region.results[0]["value"])] if region.results else region_values(region.mask, region.kind)


def _results(
    region: TaskRegion, region_id: str, value: dict[str, Any], name: RegionName, labelling: Labelling
) -> Iterator[dict[str, Any]]:
    """Yield the results of one region: its shape with a label, or its shape and then a name of its own."""
    height, width = region.mask.image_hw
    common = {
        "id": region_id,
        "to_name": labelling.image,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
    }
    score = round(name.score, 6)
    note = {"meta": {"text": [f"{option} {share:.1%}" for option, share in name.runners_up]}}
    shape, choices = labelling.shape_for(region.kind), labelling.choices
    if shape is not None and _has(shape, name):
        kind = LABELS[region.kind]
        yield {**common, **note, "from_name": shape.name, "type": kind, "score": score,
               "value": {**value, kind: [name.option]}}  # fmt: skip
    elif region.results:
        yield {**region.results[0], **common}
    elif shape is not None:
        yield {**common, "from_name": shape.name, "type": region.kind, "value": value}
    if choices is not None and _has(choices, name):
        yield {**common, **note, "from_name": choices.name, "type": choices.key, "score": score,
               "value": {**value, choices.key: [name.option]}}  # fmt: skip


def _has(control: Control, name: RegionName) -> bool:
    return any(option == name.option for _, option in control.options)
