"""Every setting of a training run: the only place for defaults, help texts, recipes and the record inside a model.

Imports no torch, so that `maskwise train --help` is fast.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args, get_origin

from maskwise.errors import SettingsError
from maskwise.shared_files import find_shared
from maskwise.views.view import ViewSettings

if TYPE_CHECKING:
    import cattrs

T = TypeVar("T")
Merge = Literal["multiply", "add", "both", "hard"]
Pool = Literal["mean", "mask", "both", "layers"]
Initial = Literal["identity", "add_ones", "default"]
StoredAs = Literal["int8", "fp16", "fp32"]
Storage = Literal["int8", "fp16", "fp32", "auto"]

VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<fallback>:-[^}]*)?\}")


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """The network: trunk, attention branch, head."""

    trunk: str = "resnet50"
    """Name of a timm model."""
    trunk_options: dict[str, Any] = field(default_factory=dict)
    """More arguments of timm's create_model, for example img_size of a ViT."""
    stride_in_1x1: bool = False
    """ResNets with bottlenecks only: put a stage's stride into its first 1x1 convolution (ResNet v1 by MSRA) instead of
    its 3x3 convolution."""
    sites: tuple[str, ...] = ("conv1",)
    """Where the mask acts: names of modules of the trunk, `input` for the image itself, or `features` for the trunk's
    last features (all regions of a crop then share one pass of the trunk). An empty list: no attention branch."""
    merge: Merge = "add"
    """How the mask acts at a site: multiply the features by learned maps, add learned maps, do both, or multiply by the
    resized mask itself (hard; nothing is learned)."""
    initial: Initial = "identity"
    """Attention branch before training. identity: changes nothing; add_ones: adds one everywhere; default: torch's
    random initial values."""
    branch_stride: Literal[1, 2] = 1
    """1: resize the mask to the features, then convolve it. 2: convolve the full-size mask with stride 2."""
    pool: Pool = "mean"
    """What the head sees of the last features: their mean (the published form), their mean under the mask, or both.
    layers (ViTs): the means under the mask of the last two blocks, the class token, and the maximum over the patches
    that the region covers, standardised over the training regions."""
    dropout: float = 0.0
    """Dropout probability before the head, 0 to 1."""
    normalisation: Literal["trunk", "published"] = "trunk"
    """Normalisation of pixels. trunk: as the trunk was pretrained; published: subtract (123.68, 116.779, 103.939) and
    divide by 65."""


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One folder of images with labelled regions: a COCO file, or label maps with a list of classes."""

    images: str
    """Folder of images; absolute, or relative to data_root."""
    annotations: str = ""
    """COCO instances file (JSON); absolute, or relative to data_root, or else to the working folder."""
    label_maps: str = ""
    """Folder of label maps (PNG), in place of annotations; absolute, or relative to data_root."""
    classes_file: str = ""
    """Text file that names the values of the label maps; absolute, or relative to data_root."""
    ignore: tuple[str, ...] = ()
    """Classes to leave out, by this source's own names."""
    rename: dict[str, str] = field(default_factory=dict)
    """New names of classes, for example sofa = "couch"."""
    min_area: int = 1
    """Leave out regions smaller than this, pixels."""
    calibrate: bool = True
    """Set the temperature on held-out regions of this source. Choose false for a source whose regions are easier than
    those you want to name."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The training data, and how regions are sampled."""

    data_root: str = "${MASKWISE_DATA}"
    """Folder that relative paths of sources start from. ${NAME} is the value of an environment variable; ${NAME:-value}
    is `value` if the variable is not set."""
    sources: tuple[SourceSettings, ...] = ()
    """Folders of labelled regions. Classes with the same name become one class."""
    nothing: tuple[SourceSettings, ...] = ()
    """Regions that are none of the classes, for example segments of a photograph's background; their own classes do not
    matter. The model then learns to say "none of these". Needs schedule.head_c."""
    holdout: float = 0.1
    """Fraction of each source's images in the held-out set, 0 to 1. They are never trained on and serve for validation
    and calibration."""
    class_power: float = 0.5
    """Sample each class in proportion to its number of regions to this power. 0: all classes equally often; 1: as often
    as they occur."""
    regions_per_view: int = 1
    """Train on up to this many regions per crop: the sampled one plus others inside it, weighted by class frequency (at
    most 1). Losses add up, so gradients grow. Above 1, sites must be `features` or empty, so that all regions of a crop
    share one pass of the trunk."""
    image_first: bool = False
    """Sample an image of the class first, then a region in it (published); otherwise sample a region directly."""
    workers: int = 1
    """Processes that load samples; 0: the training process itself."""


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Data augmentation of training samples."""

    flip: float = 0.5
    """Probability of mirroring left to right, 0 to 1."""
    scale: tuple[float, float] = (0.75, 1.33)
    """Multiply the crop's side by a random factor between these two."""
    shift: float = 0.1
    """Move the crop by up to this fraction of its side in each direction."""
    widen: float = 1.0
    """Then widen the crop by a random factor between 1 and this, with the region anywhere in it, as in shared crops."""
    brightness: float = 0.3
    """Multiply brightness by a random factor between 1 minus this and 1 plus this."""
    contrast: float = 0.3
    """Multiply contrast by a random factor between 1 minus this and 1 plus this."""
    saturation: float = 0.3
    """Multiply saturation by a random factor between 1 minus this and 1 plus this."""
    mask_jitter: float = 0.5
    """Probability of mask noise, 0 to 1: the mask is dilated, eroded, shifted, or replaced by its box or a coarse
    polygon."""
    mask_strength: float = 0.15
    """Largest dilation or erosion, as a fraction of the region's size (square root of its area). Shifts reach 2/3 of
    it."""
    blank: float = 0.0
    """Probability that a crop shows nothing (black, white, one colour or noise), 0 to below 1. The target is then the
    same probability for every class."""


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """Distillation: learn a larger model's embeddings of the training regions, in addition to their classes."""

    model: str = ""
    """Model file of the teacher; empty: learn classes only."""
    weight: float = 5.0
    """Weight of the distance to the teacher's embedding (one minus cosine) in the loss; classes weigh 1."""


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """Random windows of random size, as published, instead of a crop around the region. For whole-image models."""

    enabled: bool = False
    """Train on random windows."""
    min_side: int = 160
    """Smallest height and width of a batch, pixels."""
    max_side: int = 800
    """Largest height and width of a batch, pixels."""
    max_pixels: int = 800 * 800 * 4
    """Maximum of height x width x batch size."""


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """Optimisation."""

    steps: int = 3000
    """Number of optimiser steps."""
    batch_size: int = 32
    """Crops per step, summed over all processes; with windows, the maximum."""
    head_c: float = 0.0
    """Before the first step, fit the head to the embeddings of all training regions by logistic regression; this is C,
    the inverse of its penalty. 0: start from random weights. Needs network.pool 'layers'. With 0 steps, nothing else is
    trained."""
    head_copies: int = 0
    """Number of augmented copies of each training region that the regression sees beside the region itself."""
    head_steps: int = 0
    """Train only the head during the first steps: how many."""
    frozen: tuple[str, ...] = ()
    """Modules and parameters of the trunk that are never trained, by dotted name, for example blocks.0 of a ViT."""
    optimiser: Literal["adamw", "adam"] = "adamw"
    """Optimiser."""
    loss: Literal["cross_entropy", "published"] = "cross_entropy"
    """Loss. published: the mean over all classes of -onehot * log(p + 1e-7)."""
    lr_trunk: float = 1e-4
    """Peak learning rate of the trunk."""
    lr_new: float = 1e-3
    """Peak learning rate of the attention branch and the head."""
    warmup_steps: int = 100
    """Steps during which both learning rates rise linearly."""
    decay: Literal["cosine", "constant"] = "cosine"
    """Learning rates after the warm-up."""
    weight_decay: float = 0.05
    """Weight decay of matrices and convolution kernels; biases and norms have none."""
    clip: float = 1.0
    """Maximum norm of the gradient; 0: no clipping."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes, 0 to below 1."""
    average: float = 0.998
    """Decay per step of the moving average of the weights, which is what is exported; 0: export the last weights."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the computation. auto: bfloat16 if the processor supports it."""
    seed: int = 0
    """Seed of the initial weights and of all sampling."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Records, checkpoints and the model file."""

    name: str = "model"
    """Name of the model."""
    note: str = ""
    """A note for the record: what this run tries and why."""
    device: str = "auto"
    """Device: auto, cpu or cuda."""
    log_every: int = 20
    """Steps between log entries."""
    checkpoint_every: int = 200
    """Steps between checkpoints; only the newest is kept."""
    validate_every: int = 1000
    """Steps between validations on the held-out set."""
    export: Storage = "auto"
    """How the model file stores weights. auto: int8 if it costs less than half a point of held-out accuracy, otherwise
    fp16."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A whole training run; a TOML recipe has these sections."""

    network: NetworkSettings = field(default_factory=NetworkSettings)
    weights: str = "timm"
    """Initial weights of the trunk: `timm` (download timm's pretrained weights), a safetensors file, or `random`."""
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
                raise SettingsError(f"{name} is {value}; it must be a fraction from 0 to below 1")
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
                f" {', '.join(self.network.sites)} the mask acts inside the trunk, which must then run once per region;"
                " set network.sites to ['features'] or [], or data.regions_per_view to 1"
            )
        if self.view.wide_context and (
            self.data.regions_per_view > 1 or self.teacher.model or self.window.enabled or self.augment.blank
        ):
            raise SettingsError(
                "view.wide_context gives every region a second crop: set data.regions_per_view to 1 and augment.blank"
                " to 0, and use neither teacher nor window"
            )
        if self.schedule.head_c and self.network.pool != "layers":
            raise SettingsError(f"schedule.head_c needs network.pool 'layers', not {self.network.pool!r}")
        if self.data.nothing and not self.schedule.head_c:
            raise SettingsError("data.nothing needs schedule.head_c: only the regression learns from it")
        if self.schedule.steps < 0 or self.schedule.head_c < 0 or self.schedule.head_copies < 0:
            raise SettingsError("schedule.steps, head_c and head_copies must be 0 or more")
        if not self.schedule.steps and not self.schedule.head_c:
            raise SettingsError("schedule.steps is 0 and schedule.head_c too: nothing would be trained")
        if self.network.branch_stride == 2 and self.network.merge == "hard":
            raise SettingsError("merge 'hard' has no convolution, so branch_stride must be 1")

    def digest(self) -> str:
        """Return a short text that differs between different settings."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    def without_fallbacks(self) -> TrainSettings:
        """Return the same settings with `${NAME:-value}` shortened to `${NAME}`.

        The fallback says where files lie on one machine, not what they are. Runs that differ in nothing else are equal.
        """
        return replace(
            self,
            weights=drop_fallbacks(self.weights),
            data=replace(self.data, data_root=drop_fallbacks(self.data.data_root)),
            teacher=replace(self.teacher, model=drop_fallbacks(self.teacher.model)),
        )


def _exact(value: Any, kind: type[Any]) -> Any:
    """Return the value if it has the type. cattrs alone would turn "false" into True and 1.5 steps into 1."""
    if type(value) is kind or (kind is float and type(value) is int):
        return kind(value)
    raise SettingsError(f"{value!r} is not of type {kind.__name__}")


def _exact_tuple(kinds: tuple[Any, ...], value: Any, _tuple: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or (kinds[-1] is not ... and len(value) != len(kinds)):
        raise SettingsError(f"{value!r} is not a list" + (f" of {len(kinds)}" if kinds[-1] is not ... else ""))
    item_kinds = (kinds[0],) * len(value) if kinds[-1] is ... else kinds
    return tuple(_converter().structure(item, kind) for item, kind in zip(value, item_kinds, strict=True))


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


@cache
def _converter() -> cattrs.Converter:
    import cattrs  # Imported here: the help texts need no package of the training extra.

    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in (bool, int, float, str):
        converter.register_structure_hook(kind, _exact)
    converter.register_structure_hook_factory(_is_tuple, lambda kind: partial(_exact_tuple, get_args(kind)))
    return converter


def read_recipe(path: str | os.PathLike[str]) -> TrainSettings:
    """Read a TOML recipe; settings that it does not name have their defaults.

    Raises:
        SettingsError: the file is missing or is not TOML, or a key or value is not a setting; the message names it.
    """
    return settings_from_dict(read_toml(path), str(path))


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file as plain values; see `find_shared` for where it is looked for.

    Raises:
        SettingsError: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(find_shared(Path(path)).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: the recipe cannot be read ({error})") from error


def settings_from_dict(content: dict[str, Any], where: str) -> TrainSettings:
    """Make settings from a parsed recipe or a checkpoint's record.

    Args:
        content: sections as in `TrainSettings`.
        where: name of the file, for errors.

    Raises:
        SettingsError: a key or value is not a setting; the message names it.
    """
    return parse_settings(content, TrainSettings, where)


def parse_settings(content: dict[str, Any], kind: type[T], where: str) -> T:
    """Make a dataclass of settings from plain values. Unknown keys are refused; values are not converted.

    Args:
        content: the values.
        kind: the dataclass.
        where: name of the file, for errors.

    Raises:
        SettingsError: a key or value does not fit; the message names it.
    """
    import cattrs

    try:
        return _converter().structure(content, kind)
    except Exception as error:  # cattrs raises a tree of errors; its leaves tell a person what is wrong.
        lines = cattrs.transform_error(error, format_exception=_error_line)
        raise SettingsError(f"{where}: " + "; ".join(line.removesuffix(" @ $") for line in lines)) from error


def _error_line(error: BaseException, kind: Any) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    import cattrs

    given, _, accepted = str(error).partition(" not in literal typing.Literal")
    return f"{given!r}; accepted are {accepted[1:-1]}" if accepted else cattrs.v.format_exception(error, kind)


def settings_to_dict(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings as plain values, for a checkpoint's record and `run.json`."""
    return cast("dict[str, Any]", _converter().unstructure(settings))


def expand_variables(text: str, *, setting: str = "") -> str:
    """Replace `${NAME}` and `${NAME:-value}` by environment variables, as a shell does. An empty variable is not set.

    Args:
        text: a path.
        setting: name of the setting that the text comes from, for errors.

    Raises:
        SettingsError: a variable is not set and has no fallback value; the message says what to set.

    >>> expand_variables("${NOT_SET_ANYWHERE:-../data}/coco")
    '../data/coco'
    """

    def value(match: re.Match[str]) -> str:
        name, fallback = match["name"], match["fallback"]
        if variable := os.environ.get(name):
            return variable
        if fallback is None:
            instead = f", or give --{setting.replace('_', '-')} PATH" if setting else ""
            raise SettingsError(
                f"{setting + ' is ' if setting else ''}{text!r}, but the environment variable {name} is not set; set"
                f" {name}{instead}"
            )
        return str(fallback.removeprefix(":-"))

    return VARIABLE.sub(value, text)


def drop_fallbacks(text: str) -> str:
    """Replace each `${NAME:-value}` by `${NAME}`.

    >>> drop_fallbacks("${HERE:-../data}/coco")
    '${HERE}/coco'
    """
    return VARIABLE.sub(r"${\g<name>}", text)


def data_folder(data_root: str, sources: Iterable[SourceSettings]) -> Path:
    """Return the folder that relative paths of sources start from; the working folder if all paths are absolute.

    Args:
        data_root: `DataSettings.data_root`.
        sources: the sources to be read.

    Raises:
        SettingsError: a path is relative, and data_root names an environment variable that is not set.
    """
    for source in sources:
        for path in (source.images, source.annotations, source.label_maps, source.classes_file):
            if path and not Path(path).is_absolute():
                return Path(expand_variables(data_root, setting="data.data_root"))
    return Path()
