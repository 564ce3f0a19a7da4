"""The network: an image classifier steered by a mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise.training.settings import Initial, Pool

Side = int | torch.SymInt
"""Side of an image, pixels; a symbol while a graph is exported."""

INPUT_SITE = "input"
"""The site before the trunk: the normalised image itself."""
LAST_SITE = "features"
"""The site after the trunk: its last features. If it is the only site, all regions of an image share one pass of the
trunk."""
POOLED_BLOCKS = 2
"""Number of last blocks whose features are pooled with `layers`."""
COVERED = 0.3
"""Patches that a region covers by at least this share count for the maximum over its patches."""
TEACHER_HEAD = "teacher_head."
"""Prefix of the weights that only predict the teacher's embeddings. They are dropped after training."""


@dataclass(frozen=True)
class Site:
    """A place in a trunk where the mask can act, and the layout of the features there.

    Attributes:
        name: dotted name of the trunk's module whose output is steered, `input` or `features`.
        channels: number of channels.
        layout: `nchw`, `nhwc`, or `tokens` (batch, prefix + height * width, channels).
        prefix: number of leading tokens without a position in the image (class token, registers).
        reduction: image pixels per feature in each direction.
    """

    name: str
    channels: int
    layout: Literal["nchw", "nhwc", "tokens"] = "nchw"
    prefix: int = 0
    reduction: int = 1

    def to_maps(self, features: Tensor, image_hw: tuple[Side, Side]) -> Float[Tensor, "n c h w"]:
        """Return the features as maps, without prefix tokens."""
        if self.layout == "nchw":
            return features
        if self.layout == "nhwc":
            return features.permute(0, 3, 1, 2)
        grid = (image_hw[0] // self.reduction, image_hw[1] // self.reduction)
        return torch.unflatten(features[:, self.prefix :].transpose(1, 2), 2, grid)

    def from_maps(self, maps: Float[Tensor, "n c h w"], features: Tensor) -> Tensor:
        """Return maps in the features' own layout; prefix tokens are those of `features`."""
        if self.layout == "nchw":
            return maps
        if self.layout == "nhwc":
            return maps.permute(0, 2, 3, 1)
        return torch.cat([features[:, : self.prefix], maps.flatten(2).transpose(1, 2)], dim=1)


class SoftAttention(nn.Module):
    """Multiply the features of a site by learned maps of the mask, add learned maps, or both.

    Source:
        S. Eppel, arXiv:1812.00291.
    """

    def __init__(
        self,
        channels: int,
        merge: Literal["multiply", "add", "both"],
        *,
        initial: Initial = "identity",
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.multiply = nn.Conv2d(1, channels, 3, stride, 1) if merge in ("multiply", "both") else None
        self.add = nn.Conv2d(1, channels, 3, stride, 1) if merge in ("add", "both") else None
        if initial != "default":
            _fill(self.multiply, 1.0)
            _fill(self.add, 1.0 if initial == "add_ones" else 0.0)

    def forward(self, features: Float[Tensor, "n c h w"], mask: Float[Tensor, "n 1 H W"]) -> Float[Tensor, "n c h w"]:
        """Return the features steered by a mask (0 to 1, image size)."""
        if self.stride == 1:
            mask = _resize(mask, features)
        if self.multiply is not None:
            features = features * self.multiply(mask)
        if self.add is not None:
            features = features + self.add(mask)
        return features


class HardAttention(nn.Module):
    """Multiply the features by the resized mask itself; nothing is learned."""

    def forward(self, features: Float[Tensor, "n c h w"], mask: Float[Tensor, "n 1 H W"]) -> Float[Tensor, "n c h w"]:
        """Return the features, zero outside the mask (0 to 1, image size)."""
        return features * _resize(mask, features)


def _fill(convolution: nn.Conv2d | None, bias: float) -> None:
    if convolution is not None:
        nn.init.zeros_(convolution.weight)
        assert convolution.bias is not None
        nn.init.constant_(convolution.bias, bias)


def _resize(mask: Tensor, features: Tensor) -> Tensor:
    return F.interpolate(mask, features.shape[-2:], mode="bilinear", align_corners=False).to(features.dtype)


class RegionClassifier(nn.Module):
    """Trunk, attention branch and linear head: an image and a mask in, logits out.

    Takes rendered views (uint8) and normalises them itself, so the data loader and the ONNX file have the same input.
    """

    mean_rgb: Tensor
    std_rgb: Tensor
    embedding_mean: Tensor
    embedding_std: Tensor
    """Of every embedding of each crop, over the training regions; only with the pool `layers`."""

    def __init__(
        self,
        trunk: nn.Module,
        *,
        attention: Sequence[tuple[Site, nn.Module]],
        features: Site,
        classes: int,
        pool: Pool = "mean",
        crops: int = 1,
        known: bool = False,
        dropout: float = 0.0,
        teacher_width: int = 0,
        mean_rgb: Sequence[float],
        std_rgb: Sequence[float],
    ) -> None:
        """Combine the parts; `builder.build_network` makes them from settings.

        Args:
            trunk: has `forward_features`.
            attention: sites and the modules that act there, in the order of the trunk.
            features: layout of the output of `forward_features`.
            classes: number of logits.
            pool: mean of the last features, mean under the mask, or both concatenated; or `layers`, see
                `NetworkSettings.pool`.
            crops: how many crops of every region are seen; each has columns of its own in the head.
            known: whether it also says how probable it is that a region is one of the classes at all.
            dropout: dropout probability before the head, 0 to 1.
            teacher_width: length of the teacher's embeddings, predicted while training; 0: no teacher.
            mean_rgb: subtracted from pixels of 0 to 255.
            std_rgb: pixels are divided by it afterwards.
        """
        super().__init__()
        self.trunk = trunk
        self.sites = tuple(site for site, _ in attention)
        self.branch = nn.ModuleList(module for _, module in attention)
        self.features = features
        self.pool = pool
        self.crops = crops
        self.width = features.channels * {"mean": 1, "mask": 1, "both": 2, "layers": POOLED_BLOCKS + 2}[pool]
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.width * crops, classes)
        self.known_head = nn.Linear(self.width * crops, 1) if known else None
        if pool == "layers":
            self.register_buffer("embedding_mean", torch.zeros(crops, self.width))
            self.register_buffer("embedding_std", torch.ones(crops, self.width))
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.teacher_head = nn.Linear(self.head.in_features, teacher_width) if teacher_width else None
        self.register_buffer("mean_rgb", torch.tensor(mean_rgb, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std_rgb", torch.tensor(std_rgb, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    @property
    def shares(self) -> bool:
        """Whether regions of one image share one pass of the trunk, because no mask acts before its last features."""
        return all(site.name == LAST_SITE for site in self.sites)

    def forward(
        self,
        images: UInt8[Tensor, "v H W 3"],
        masks: UInt8[Tensor, "n H W"],
        image_of: Int64[Tensor, " n"] | None = None,
        crop_of: Int64[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n classes"] | tuple[Float[Tensor, "n classes"], Float[Tensor, "n teacher"]]:
        """Return logits of regions; when training with a teacher, also the predicted teacher embeddings.

        Args:
            images: RGB, 0 to 255.
            masks: how much of each pixel the region covers, 0 to 255.
            image_of: index of the image that each mask lies in (default: one image per mask).
            crop_of: of a network with two crops: which of its region's crops each mask is in. The logits of a region
                are the sum of those of its crops.
        """
        embeddings = self.embed(images, masks, image_of, crop_of)
        logits = self.classify(self.dropout(embeddings), crop_of)
        if self.training and self.teacher_head is not None:
            return logits, self.teacher_head(embeddings)
        return logits

    def embed(
        self,
        images: UInt8[Tensor, "v H W 3"],
        masks: UInt8[Tensor, "n H W"],
        image_of: Int64[Tensor, " n"] | None = None,
        crop_of: Int64[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n d"]:
        """Return the embeddings that the head classifies; arguments as in `forward`."""
        mask = masks.unsqueeze(1).float() / 255
        image_hw = (images.shape[1], images.shape[2])
        if image_of is not None and not self.shares:
            images, image_of = images.index_select(0, image_of), None
        pixels = (images.permute(0, 3, 1, 2).float() - self.mean_rgb) / self.std_rgb
        pixels = self._steer_at(INPUT_SITE, pixels, mask)
        with self._steered(mask, image_hw):
            if self.pool == "layers":
                return self._standardised(self._pooled_layers(pixels, mask, image_of), crop_of)
            features = self.features.to_maps(trunk_features(self.trunk, pixels), image_hw).float()
        if image_of is not None:
            features = features.index_select(0, image_of)
        return self._pooled(self._steer_at(LAST_SITE, features, mask), mask)

    def classify(
        self, embeddings: Float[Tensor, "n d"], crop_of: Int64[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n classes"]:
        """Return the logits of embeddings; of several crops, each one's share of its region's logits."""
        return self._of_crops(self.head, embeddings, crop_of)

    def tell_known(
        self, embeddings: Float[Tensor, "n d"], crop_of: Int64[Tensor, " n"] | None = None
    ) -> Float[Tensor, " n"]:
        """Return the logit that a region is one of the classes at all; of several crops, each one's share."""
        assert self.known_head is not None, "the network was built without it"
        return self._of_crops(self.known_head, embeddings, crop_of)[:, 0]

    def _of_crops(self, layer: nn.Linear, embeddings: Tensor, crop_of: Tensor | None) -> Tensor:
        """Apply a layer that has columns of its own for each crop."""
        if crop_of is None:
            whole: Tensor = layer(embeddings)
            return whole
        weight = layer.weight.reshape(-1, self.crops, self.width).transpose(0, 1).flatten(0, 1)
        by_crop = F.linear(embeddings, weight).reshape(-1, self.crops, len(layer.bias)) + layer.bias / self.crops
        own = crop_of[:, None] == torch.arange(self.crops, device=crop_of.device)
        return (by_crop * own[..., None].to(by_crop.dtype)).sum(dim=1)

    def _pooled_layers(
        self, pixels: Float[Tensor, "v 3 H W"], mask: Float[Tensor, "n 1 H W"], image_of: Int64[Tensor, " n"] | None
    ) -> Float[Tensor, "n d"]:
        """Return means under the mask of the last blocks, the class token, and the maximum over covered patches."""
        layers = self.trunk.forward_intermediates(  # type: ignore[operator]
            pixels, indices=POOLED_BLOCKS, norm=True, return_prefix_tokens=True, intermediates_only=True
        )
        token, maps = layers[-1][1][:, 0].float(), [layer.float() for layer, _ in layers]
        if image_of is not None:
            token, *maps = (one.index_select(0, image_of) for one in (token, *maps))
        weight = F.avg_pool2d(mask, self.features.reduction)
        total = weight.sum(dim=(2, 3)).clamp(min=1e-6)
        means = [(one * weight).sum(dim=(2, 3)) / total for one in maps]
        covered = weight >= weight.amax(dim=(2, 3), keepdim=True).clamp(max=COVERED)
        maximum = torch.where(covered, maps[-1], torch.finfo(torch.float32).min).amax(dim=(2, 3))
        return torch.cat([*means, token, maximum], dim=1)

    def _standardised(self, embeddings: Float[Tensor, "n d"], crop_of: Int64[Tensor, " n"] | None) -> Tensor:
        mean, std = self.embedding_mean, self.embedding_std
        if crop_of is None:
            return (embeddings - mean[0]) / std[0]
        return (embeddings - mean.index_select(0, crop_of)) / std.index_select(0, crop_of)

    def _steer_at(self, name: str, features: Tensor, mask: Tensor) -> Tensor:
        """Return the features steered at a site that is not a module of the trunk."""
        for site, module in zip(self.sites, self.branch, strict=True):
            if site.name == name:
                features = module(features, mask)
        return features

    def _pooled(self, features: Float[Tensor, "n c h w"], mask: Float[Tensor, "n 1 H W"]) -> Float[Tensor, "n d"]:
        pooled = []
        if self.pool in ("mean", "both"):
            pooled.append(features.mean(dim=(2, 3)))
        if self.pool in ("mask", "both"):
            # Average over areas instead of sampling: a region smaller than one feature must still count.
            step = self.features.reduction
            weight = F.avg_pool2d(mask, step, ceil_mode=True, count_include_pad=False)
            # Some trunks drop the last rows and columns of odd sizes: repeat the nearest features there.
            missing = (weight.shape[3] - features.shape[3], weight.shape[2] - features.shape[2])
            features = F.pad(features, (0, missing[0], 0, missing[1]), mode="replicate")
            pooled.append((features * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)).clamp(min=1e-6))
        return torch.cat(pooled, dim=1)

    @contextmanager
    def _steered(self, mask: Tensor, image_hw: tuple[Side, Side]) -> Iterator[None]:
        """Steer the outputs of the sites' modules by the mask during the block."""
        with ExitStack() as stack:
            for site, module in zip(self.sites, self.branch, strict=True):
                if site.name not in (INPUT_SITE, LAST_SITE):
                    handle = self.trunk.get_submodule(site.name).register_forward_hook(
                        _hook(site, module, mask, image_hw)
                    )
                    stack.callback(handle.remove)
            yield


def trunk_features(trunk: nn.Module, pixels: Float[Tensor, "n 3 H W"]) -> Tensor:
    """Return the last features of a timm trunk."""
    forward_features = cast("Callable[[Tensor], Tensor]", trunk.forward_features)
    return forward_features(pixels)


def _hook(site: Site, module: nn.Module, mask: Tensor, image_hw: tuple[Side, Side]) -> Callable[..., Tensor]:
    def steer(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return site.from_maps(module(site.to_maps(output, image_hw), mask), output)

    return steer


def find_sites(trunk: nn.Module, names: Sequence[str], size: int) -> tuple[list[Site], Site]:
    """Return the layout of sites and of the last features, found by running a trunk once on a square image.

    Args:
        trunk: has `forward_features`.
        names: of the sites: dotted module names, `input` or `features`.
        size: side of the image, pixels.

    Returns:
        The sites in the given order, and the site of the last features.

    Raises:
        KeyError: the trunk has no module with a name.
        ValueError: an output does not have the layout of image features.
    """
    outputs: dict[str, Tensor] = {}
    modules = dict(trunk.named_modules())
    with ExitStack() as stack:
        for name in set(names) - {INPUT_SITE, LAST_SITE}:
            handle = modules[name].register_forward_hook(lambda _m, _i, out, name=name: outputs.__setitem__(name, out))
            stack.callback(handle.remove)
        training = trunk.training
        trunk.eval()
        with torch.no_grad():
            last = trunk_features(trunk, torch.zeros(1, 3, size, size))
        trunk.train(training)
    layouts = {INPUT_SITE: Site(INPUT_SITE, 3), LAST_SITE: _layout(LAST_SITE, last, size)}
    layouts |= {name: _layout(name, output, size) for name, output in outputs.items()}
    return [layouts[name] for name in names], layouts[LAST_SITE]


def _layout(name: str, output: object, size: int) -> Site:
    if not isinstance(output, Tensor):
        raise ValueError(f"module {name!r} returns a {type(output).__name__}, not features of an image")
    shape = tuple(output.shape)
    if len(shape) == 4 and shape[2] == shape[3]:
        return Site(name, shape[1], "nchw", reduction=math.ceil(size / shape[2]))
    if len(shape) == 4 and shape[1] == shape[2]:
        return Site(name, shape[3], "nhwc", reduction=math.ceil(size / shape[1]))
    if len(shape) == 3:
        side = math.isqrt(shape[1])
        return Site(name, shape[2], "tokens", prefix=shape[1] - side * side, reduction=size // side)
    raise ValueError(f"module {name!r} returns shape {shape}, not features of an image")
