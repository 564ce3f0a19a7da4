"""The numbers of an evaluation, typed. Accuracies and intervals are shares, 0 to 1; None where there is no region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

Interval = tuple[float, float]
"""Lower and upper end of a 95 % interval."""


@dataclass(frozen=True)
class SizeBin:
    """The regions of one range of sizes.

    Attributes:
        regions: how many.
        micro: micro accuracy.
        micro_ci95: Wilson's interval of it.
        macro: macro accuracy, the mean over classes.
    """

    regions: int
    micro: float | None
    micro_ci95: Interval
    macro: float | None


@dataclass(frozen=True)
class BySize:
    """Accuracy by size of the region.

    Attributes:
        coco: small, medium and large, by the area that the annotations state.
        published: the published bins, by pixels of the mask.
    """

    coco: Mapping[str, SizeBin]
    published: Mapping[str, SizeBin]


@dataclass(frozen=True)
class ClassResult:
    """The regions of one class.

    Attributes:
        regions: how many.
        accuracy: the share that is named right.
        ci95: Wilson's interval of it.
        most_confused_with: the wrong name that its regions get most often; None if they get none.
    """

    regions: int
    accuracy: float
    ci95: Interval
    most_confused_with: str | None


@dataclass(frozen=True)
class Confusion:
    """How many regions of a class got a wrong name."""

    true: str
    predicted: str
    count: int


@dataclass(frozen=True)
class ProtocolBin:
    """Accuracies of a published protocol: over all regions, and the mean over classes."""

    regions: int
    mean_of_class: float | None
    overall: float | None


@dataclass(frozen=True)
class Protocol:
    """A published protocol.

    Attributes:
        images_per_class: the first images of each class that count.
        classes: how many have a region.
        regions: how many, crowds included.
        mean_of_class: macro accuracy.
        overall: micro accuracy.
        by_size: the same for each published size bin.
    """

    images_per_class: int
    classes: int
    regions: int
    mean_of_class: float | None
    overall: float | None
    by_size: Mapping[str, ProtocolBin]


@dataclass(frozen=True)
class Accuracies:
    """Micro and macro accuracy."""

    micro: float | None
    macro: float | None


@dataclass(frozen=True, kw_only=True)
class BackgroundResult:
    """How well objects are told from regions that are none of the classes.

    Attributes:
        regions: number of regions of no class.
        images: how many images have one.
        auroc: area under the ROC curve of `known`, 0.5 to 1; if the model cannot tell, of the best class's probability.
        named_at_95: share of regions of no class that are named if 95 % of the objects are.
        objects_kept: share of objects that are named at the predictor's limits.
        named: share of regions of no class that are named at these limits.
        false_names_per_image: how many that are.
        curve: shares of objects kept, and of regions of no class named with them.
    """

    regions: int
    images: int
    auroc: float
    named_at_95: float
    objects_kept: float
    named: float
    false_names_per_image: float
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All numbers of an evaluation.

    Attributes:
        model: name of the model.
        mode: how regions were cropped; see `Predictor`.
        data: name of the regions.
        regions: how many counted: without crowds and without classes that the model does not know.
        images: how many have one of them.
        micro: share of regions named right.
        micro_ci95: bootstrap over images.
        macro: mean of the classes' accuracies.
        macro_ci95: bootstrap over images.
        top5: share of regions whose class is among the five most probable.
        log_loss: mean of -log(probability of the right class), nats.
        ece: expected calibration error.
        by_size: accuracies by size of the region.
        per_class: a result for each class that has regions.
        confusions: the most frequent ones, the most frequent first.
        protocols: the published protocols.
        mask_noise: accuracies under each kind of mask noise; empty unless asked for.
        background: how well objects are told from regions of no class; None unless these are given.
        unknown_classes: number of regions by class that the model does not know.
        crowds: number of crowd regions of known classes.
        faults: number of faults in the data whose regions were left out.
        seconds: time that the evaluation took.
    """

    model: str
    mode: str
    data: str
    regions: int
    images: int
    micro: float
    micro_ci95: Interval
    macro: float
    macro_ci95: Interval
    top5: float
    log_loss: float
    ece: float
    by_size: BySize
    per_class: Mapping[str, ClassResult]
    confusions: tuple[Confusion, ...]
    protocols: Mapping[str, Protocol]
    mask_noise: Mapping[str, Accuracies]
    background: BackgroundResult | None
    unknown_classes: Mapping[str, int]
    crowds: int
    faults: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values: the content of `report.json`."""
        return asdict(self)
