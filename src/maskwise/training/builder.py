"""Build networks from settings; networks themselves know no settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from maskwise.errors import ModelError, SettingsError
from maskwise.training.network import HardAttention, RegionClassifier, Site, SoftAttention, find_sites
from maskwise.training.settings import NetworkSettings, expand_variables

PUBLISHED_MEAN_RGB = (123.68, 116.779, 103.939)
PUBLISHED_STD_RGB = (65.0, 65.0, 65.0)


def build_network(
    settings: NetworkSettings,
    *,
    classes: int,
    weights: str = "random",
    probe_size: int = 224,
    teacher_width: int = 0,
    crops: int = 1,
    known: bool = False,
) -> RegionClassifier:
    """Build a network.

    Args:
        settings: trunk, sites, merge and head.
        classes: number of logits.
        weights: of the trunk: `random`, `timm`, or a safetensors file with timm's names (ResNets: or torchvision's).
        probe_size: side of the square image on which the layout of sites is found, pixels.
        teacher_width: length of the teacher's embeddings; 0: no teacher.
        crops: how many crops of every region the network sees.
        known: whether it also says how probable it is that a region is one of the classes at all.

    Raises:
        SettingsError: there is no such trunk or site, or the branch does not fit the trunk.
        ModelError: the weights cannot be loaded or do not fit.
    """
    trunk = _build_trunk(settings, weights)
    try:
        sites, features = find_sites(trunk, settings.sites, probe_size)
    except KeyError as error:
        names = ", ".join(name for name, _ in trunk.named_children())
        raise SettingsError(
            f"trunk {settings.trunk} has no module {error}; accepted are input, features, {names} and their submodules"
        ) from error
    except (ValueError, AssertionError, RuntimeError) as error:
        raise SettingsError(
            f"trunk {settings.trunk} cannot take images of {probe_size} pixels, or a site does not fit: {error}"
        ) from error
    if settings.pool == "layers" and not (features.layout == "tokens" and features.prefix and settings.sites == ()):
        raise SettingsError(
            f"pool 'layers' needs a ViT with a class token and no sites (sites = []); got trunk {settings.trunk}, sites"
            f" {list(settings.sites)}"
        )
    mean, std = _normalisation(settings, trunk)
    return RegionClassifier(
        trunk,
        attention=[(site, _attention(site, settings)) for site in sites],
        features=features,
        classes=classes,
        pool=settings.pool,
        crops=crops,
        known=known,
        dropout=settings.dropout,
        teacher_width=teacher_width,
        mean_rgb=mean,
        std_rgb=std,
    )


def _attention(site: Site, settings: NetworkSettings) -> nn.Module:
    if settings.merge == "hard":
        return HardAttention()
    if settings.branch_stride == 2 and site.reduction != 2:
        raise SettingsError(
            f"branch_stride 2 needs features at half the image's size; {site.name} is at 1/{site.reduction}"
        )
    return SoftAttention(site.channels, settings.merge, initial=settings.initial, stride=settings.branch_stride)


def _normalisation(settings: NetworkSettings, trunk: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if settings.normalisation == "published":
        return PUBLISHED_MEAN_RGB, PUBLISHED_STD_RGB
    config = cast("dict[str, Any]", trunk.pretrained_cfg)
    return tuple(255 * m for m in config["mean"]), tuple(255 * s for s in config["std"])


def _build_trunk(settings: NetworkSettings, weights: str) -> nn.Module:
    if not timm.is_model(settings.trunk):
        raise SettingsError(
            f"trunk {settings.trunk!r} is not a model of timm {timm.__version__}; see timm.list_models()"
        )
    try:
        trunk = timm.create_model(settings.trunk, pretrained=weights == "timm", num_classes=0, **settings.trunk_options)
    except TypeError as error:
        raise SettingsError(
            f"trunk {settings.trunk} does not take trunk_options {settings.trunk_options}: {error}"
        ) from error
    except Exception as error:  # An unreachable hub raises errors of many libraries.
        if weights != "timm":
            raise
        raise ModelError(
            f"timm's pretrained weights of {settings.trunk} cannot be downloaded ({type(error).__name__}: {error});"
            " connect to the internet, or give a safetensors file: --weights FILE"
        ) from error
    if settings.stride_in_1x1:
        _move_stride(settings.trunk, trunk)
    if weights not in ("timm", "random"):
        load_trunk(trunk, Path(expand_variables(weights, setting="weights")))
    return trunk


def _move_stride(name: str, trunk: Any) -> None:
    """Move each stage's stride into its first 1x1 convolution, as in the original ResNet weights."""
    if not hasattr(trunk, "layer1") or not hasattr(trunk.layer1[0], "conv3"):
        raise SettingsError(f"stride_in_1x1 needs a ResNet with bottlenecks, not {name}")
    for stage in (trunk.layer2, trunk.layer3, trunk.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride


def load_trunk(trunk: nn.Module, path: Path) -> None:
    """Load pretrained weights from a safetensors file, without its classifier.

    Raises:
        ModelError: there is no such file, it is not safetensors, or names or shapes do not fit; the message lists them.
    """
    tensors = read_safetensors(path)
    wanted = trunk.state_dict()
    missing = [name for name in wanted if name not in tensors and not name.endswith("num_batches_tracked")]
    extra = [name for name in tensors if name not in wanted and not name.startswith(("fc.", "head.", "classifier."))]
    misshapen = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name].shape]
    if missing or extra or misshapen:
        raise ModelError(
            f"{path}: does not fit the trunk: missing {missing[:5]}, unknown {extra[:5]}, wrong shape {misshapen[:5]}"
        )
    trunk.load_state_dict({name: tensors[name] for name in wanted if name in tensors}, strict=False)


def read_safetensors(path: Path) -> Mapping[str, Tensor]:
    """Return all tensors of a safetensors file, float16 as float32.

    Raises:
        ModelError: there is no such file, or it is not safetensors.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file; give a safetensors file, or `timm` to download timm's weights")
    try:
        return {name: t.float() if t.dtype == torch.float16 else t for name, t in load_file(path).items()}
    except SafetensorError as error:
        raise ModelError(f"{path}: is not a safetensors file ({error})") from error
