"""Every setting of a training run: one source for defaults, help texts, recipes and the record inside a model.

This module imports no torch, so that `maskwise train --help` answers at once.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

from maskwise.errors import SettingsError
from maskwise.views.view import ViewSettings

if TYPE_CHECKING:
    import cattrs

T = TypeVar("T")
Merge = Literal["multiply", "add", "both", "hard"]


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """The network: trunk, attention branch, head."""

    trunk: str = "resnet50"
    """Name of a timm model."""
    trunk_options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of timm's create_model, such as img_size of a ViT."""
    stride_in_1x1: bool = False
    """Of ResNets with bottlenecks: the stride is in a stage's first 1x1 convolution (v1, MSRA's), not in the 3x3."""
    sites: tuple[str, ...] = ("conv1",)
    """Where attention acts: module names of the trunk, `input` for the image itself, `features` for the trunk's last
    features (then all regions of a view share one pass of the trunk). None: no branch."""
    merge: Merge = "add"
    """At a site: features times maps, plus maps, both, or times the resized mask itself (hard, nothing learned)."""
    initial: Literal["identity", "add_ones", "default"] = "identity"
    """Branch before training: changes nothing; added maps start as one; or torch's random initial values."""
    branch_stride: Literal[1, 2] = 1
    """1: the mask is resized to the features, then convolved. 2: the full-size mask is convolved with stride 2."""
    pool: Literal["mean", "mask", "both"] = "mean"
    """What the head sees of the last features: their mean (the published form), their mean under the mask, or both."""
    dropout: float = 0.0
    """Before the head, 0 to 1."""
    normalisation: Literal["trunk", "published"] = "trunk"
    """Of the pixels: as the trunk was pretrained, or minus (123.68, 116.779, 103.939) over 65."""


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One folder of images with labelled regions: a COCO file, or label maps with a list of classes."""

    images: str
    """Folder of images, relative to data_root."""
    annotations: str = ""
    """COCO instances JSON, relative to data_root."""
    label_maps: str = ""
    """Folder of label maps (PNG), relative to data_root; instead of annotations."""
    classes_file: str = ""
    """Text file that names the label maps' values, relative to data_root."""
    ignore: tuple[str, ...] = ()
    """Classes to leave out, by this source's own names."""
    rename: dict[str, str] = field(default_factory=dict)
    """This source's class names to the names that the model shall use."""
    min_area: int = 1
    """Smaller regions are left out, pixels."""
    calibrate: bool = True
    """Its held-out regions set the temperature; no for a source whose regions are easier than those to be named."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What is learned from, and how regions are drawn."""

    data_root: str = "${MASKWISE_DATA:-../shared/data}"
    """Folder that the sources are relative to; ${NAME:-value} reads the environment."""
    sources: tuple[SourceSettings, ...] = ()
    """Folders of labelled regions; classes of one name are one class."""
    holdout: float = 0.1
    """Fraction of each source's images that is never trained on: for calibration and for choosing, 0 to 1."""
    class_power: float = 0.5
    """A class is drawn in proportion to its number of regions to this power: 0 every class alike, 1 as they come."""
    regions_per_view: int = 1
    """As many regions are learned from one view: the one drawn, and others that lie in it, each weighed as its class is
    drawn, 1 at most. Their losses add up, so that gradients are larger. Needs a network whose sites are `features` or
    none, so that they share one pass of the trunk."""
    image_first: bool = False
    """Draw an image of the class, then a region of it (published), instead of a region of the class at once."""
    workers: int = 1
    """Processes that prepare samples; 0: the training process itself."""


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """How training samples are varied."""

    flip: float = 0.5
    """Probability of mirroring left to right."""
    scale: tuple[float, float] = (0.75, 1.33)
    """The crop's side is multiplied by a factor drawn between these."""
    shift: float = 0.1
    """The crop is moved by up to this fraction of its side, each way."""
    widen: float = 1.0
    """The crop is then widened by a factor drawn between 1 and this, the region anywhere in it, as in shared views."""
    brightness: float = 0.3
    """Factor drawn between 1 - this and 1 + this; likewise contrast and saturation."""
    contrast: float = 0.3
    saturation: float = 0.3
    mask_jitter: float = 0.5
    """Probability that the mask is made sloppy: dilated, eroded, shifted, boxed, or a coarse polygon."""
    mask_strength: float = 0.15
    """Largest dilation or erosion over the region's size (square root of its area); shifts are up to 2/3 of it."""
    blank: float = 0.0
    """Probability, below 1, that a view shows nothing (black, white, a colour, noise): all classes are alike right."""


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """A model whose embeddings of the training regions are learned beside their names."""

    model: str = ""
    """Model file of the teacher; none: names alone are learned."""
    weight: float = 5.0
    """Of the distance (one minus cosine) to the teacher's embedding, beside the loss of the names."""


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """Random windows of random size, as published, in place of the region's own view; used for whole-image models."""

    enabled: bool = False
    min_side: int = 160
    """Smallest height and width of a batch, pixels."""
    max_side: int = 800
    """Largest height and width of a batch, pixels."""
    max_pixels: int = 800 * 800 * 4
    """Height x width x batch size is at most this."""


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """Optimisation."""

    steps: int = 3000
    """Optimiser steps."""
    batch_size: int = 32
    """Regions per step, of all processes together (with windows: at most this many)."""
    head_steps: int = 0
    """First steps in which nothing but the head learns."""
    frozen: tuple[str, ...] = ()
    """Modules and parameters of the trunk that never learn, by dotted name, such as blocks.0 of a ViT."""
    optimiser: Literal["adamw", "adam"] = "adamw"
    loss: Literal["cross_entropy", "published"] = "cross_entropy"
    """published: mean over all classes of -onehot * log(p + 1e-7)."""
    lr_trunk: float = 1e-4
    """Peak learning rate of the trunk."""
    lr_new: float = 1e-3
    """Peak learning rate of branch and head."""
    warmup_steps: int = 100
    """Steps of linear rise of both rates."""
    decay: Literal["cosine", "constant"] = "cosine"
    """After the warm-up."""
    weight_decay: float = 0.05
    clip: float = 1.0
    """Largest norm of the gradient; 0: not clipped."""
    label_smoothing: float = 0.1
    average: float = 0.998
    """Decay of the averaged weights, which are what is exported; 0: the last weights are."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the processor computes in it."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Records, checkpoints and the model file at the end."""

    name: str = "model"
    """What the model is called."""
    note: str = ""
    """What is tried and why, for the record."""
    device: str = "auto"
    """auto, cpu, cuda."""
    log_every: int = 20
    """Steps between points of the log."""
    checkpoint_every: int = 200
    """Steps between checkpoints; the newest is kept."""
    validate_every: int = 1000
    """Steps between accuracies on the held-out regions."""
    export: Literal["int8", "fp16", "fp32", "auto"] = "auto"
    """How the model file stores weights; auto: int8 if it costs under half a point on held-out regions, else fp16."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A whole training run; a TOML recipe has these sections."""

    network: NetworkSettings = field(default_factory=NetworkSettings)
    weights: str = "timm"
    """Initial weights of the trunk: `timm` (its pretrained ones, downloaded), a safetensors file, or `random`."""
    view: ViewSettings = field(default_factory=ViewSettings)
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    window: WindowSettings = field(default_factory=WindowSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        checks = {
            "network.dropout": self.network.dropout,
            "data.holdout": self.data.holdout,
            "augment.flip": self.augment.flip,
            "augment.mask_jitter": self.augment.mask_jitter,
            "augment.blank": self.augment.blank,
            "schedule.average": self.schedule.average,
            "schedule.label_smoothing": self.schedule.label_smoothing,
        }
        for name, value in checks.items():
            if not 0 <= value < 1 and not (value == 1 and name in ("augment.flip", "augment.mask_jitter")):
                raise SettingsError(f"{name} is {value}; accepted is a fraction from 0 to below 1")
        if self.view.kind == "whole" and not self.window.enabled and self.schedule.batch_size != 1:
            raise SettingsError(
                "view.kind 'whole' gives every sample its own size: enable window, or set schedule.batch_size to 1"
            )
        if self.augment.widen < 1 or self.data.regions_per_view < 1:
            raise SettingsError(
                f"augment.widen is {self.augment.widen} and data.regions_per_view {self.data.regions_per_view}; each"
                " must be at least 1"
            )
        if self.data.regions_per_view > 1 and set(self.network.sites) - {"features"}:
            raise SettingsError(
                f"data.regions_per_view is {self.data.regions_per_view}, but at the sites"
                f" {', '.join(self.network.sites)} the mask acts inside the trunk, which then runs for each region"
                " apart; set network.sites to ['features'] or [], or data.regions_per_view to 1"
            )
        if self.network.branch_stride == 2 and self.network.merge == "hard":
            raise SettingsError("merge 'hard' has no convolution and so no branch_stride 2")

    def digest(self) -> str:
        """Short text that is another for other settings."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def _exactly(value: Any, kind: type) -> Any:
    """The value if it is of the kind: cattrs alone would turn "false" into True and 1.5 steps into one."""
    if type(value) is kind or (kind is float and type(value) is int):
        return kind(value)
    raise SettingsError(f"{value!r} is not of type {kind.__name__}")


def _list_of(kinds: tuple[Any, ...], value: Any, _tuple: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or (kinds[-1] is not ... and len(value) != len(kinds)):
        raise SettingsError(f"{value!r} is not a list" + (f" of {len(kinds)}" if kinds[-1] is not ... else ""))
    each = (kinds[0],) * len(value) if kinds[-1] is ... else kinds
    return tuple(_converter().structure(item, kind) for item, kind in zip(value, each, strict=True))


@cache
def _converter() -> cattrs.Converter:
    import cattrs  # Here, so that the help texts need nothing of the training extra.

    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in (bool, int, float, str):
        converter.register_structure_hook(kind, _exactly)
    converter.register_structure_hook_factory(
        lambda kind: get_origin(kind) is tuple, lambda kind: partial(_list_of, get_args(kind))
    )
    return converter


def read_recipe(path: str | os.PathLike[str]) -> TrainSettings:
    """Read a TOML recipe; what it leaves out has the defaults.

    Raises:
        SettingsError: the file is missing or is not TOML, or a key or value is not a setting; the message names it.
    """
    return settings_from_dict(read_toml(path), str(path))


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A TOML file as plain values.

    Raises:
        SettingsError: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: the recipe cannot be read ({error})") from error


def settings_from_dict(content: dict[str, Any], where: str) -> TrainSettings:
    """Settings from a parsed recipe or a checkpoint's record.

    Args:
        content: sections as in `TrainSettings`.
        where: how errors call the source.

    Raises:
        SettingsError: a key or value is not a setting; the message names it.
    """
    return structure(content, TrainSettings, where)


def structure(content: dict[str, Any], kind: type[T], where: str) -> T:
    """Plain values as a dataclass of settings; nothing unknown is let through, nothing is converted.

    Args:
        content: the values.
        kind: the dataclass.
        where: how errors call the source.

    Raises:
        SettingsError: a key or value does not fit; the message names it.
    """
    import cattrs

    try:
        return _converter().structure(content, kind)
    except Exception as error:  # cattrs raises a group with the whole tree; its leaves are what a person can use.
        lines = cattrs.transform_error(error, format_exception=_line_of)
        raise SettingsError(f"{where}: " + "; ".join(line.removesuffix(" @ $") for line in lines)) from error


def _line_of(error: BaseException, kind: Any) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    import cattrs

    given, _, accepted = str(error).partition(" not in literal typing.Literal")
    return f"{given!r}; accepted are {accepted[1:-1]}" if accepted else cattrs.v.format_exception(error, kind)


def settings_to_dict(settings: TrainSettings) -> dict[str, Any]:
    """As plain values, for a checkpoint's record and `run.json`."""
    return _converter().unstructure(settings)


def expand(text: str) -> str:
    """Replace `${NAME}` and `${NAME:-value}` by the environment's values, as a shell does.

    Raises:
        SettingsError: a variable without a value is not set.

    >>> expand("${NOT_SET_ANYWHERE:-../data}/coco")
    '../data/coco'
    """
    import re

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise SettingsError(f"{text}: the environment variable {match['name']} is not set")
        return found

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", value, text)
