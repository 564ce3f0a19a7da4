"""Optimiser, learning rates and losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise.errors import SettingsError
from maskwise.training.batches import NO_CLASS
from maskwise.training.network import TEACHER_HEAD, RegionClassifier
from maskwise.training.settings import ScheduleSettings, TrainSettings


def make_optimiser(network: RegionClassifier, settings: ScheduleSettings) -> torch.optim.Optimizer:
    """Return an optimiser with separate learning rates for trunk and new layers; only matrices and kernels decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        rate = settings.lr_trunk if name.startswith("trunk.") else settings.lr_new
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(
        [{"params": p, "lr": rate, "peak_lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()],
        fused=True,
    )


def rate_factor(step: int, settings: ScheduleSettings) -> float:
    """Return the factor of the peak learning rates at a step, 0 to 1.

    >>> s = ScheduleSettings(steps=110, warmup_steps=10)
    >>> [round(rate_factor(step, s), 3) for step in (0, 9, 10, 60, 110)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.decay == "constant":
        return 1.0
    done = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * done))


def region_losses(
    logits: Float[Tensor, "n classes"], targets: Int64[Tensor, " n"], settings: ScheduleSettings
) -> Float[Tensor, " n"]:
    """Return the loss of each region: cross entropy with label smoothing, or the published loss.

    The published loss is the mean over classes of -onehot * log(p + 1e-7), which is the cross entropy divided by the
    number of classes, apart from the small term. If a target is `NO_CLASS`, all classes are equally right.
    """
    wanted = F.one_hot(targets.clamp(min=0), logits.shape[1]).to(logits.dtype)
    wanted[targets == NO_CLASS] = 1 / logits.shape[1]
    if settings.loss == "cross_entropy":
        return F.cross_entropy(logits, wanted, label_smoothing=settings.label_smoothing, reduction="none")
    return -(wanted * torch.log(logits.softmax(dim=1) + 1e-7)).mean(dim=1)


def set_training_mode(network: RegionClassifier, *, head_only: bool, frozen: Sequence[str] = ()) -> None:
    """Set training mode, but keep the trunk's batch statistics as pretrained, because batches are small.

    Args:
        network: the network.
        head_only: train only the head.
        frozen: modules and parameters of the trunk that are not trained, by dotted name.
    """
    network.train()
    for module in network.trunk.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    frozen_prefixes = tuple(f"trunk.{name}." for name in frozen)
    for name, parameter in network.named_parameters():
        in_head = name.startswith(("head.", TEACHER_HEAD))
        parameter.requires_grad_(in_head if head_only else not f"{name}.".startswith(frozen_prefixes))


def check_frozen(network: RegionClassifier, settings: TrainSettings) -> None:
    """Refuse to freeze a module or parameter that the trunk does not have.

    Raises:
        SettingsError: the trunk has no such module or parameter; the message lists its modules.
    """
    known = {name for name, _ in (*network.trunk.named_modules(), *network.trunk.named_parameters())}
    unknown = [name for name in settings.schedule.frozen if not name or name not in known]
    if unknown:
        names = ", ".join(name for name, _ in network.trunk.named_children())
        raise SettingsError(
            f"schedule.frozen: trunk {settings.network.trunk} has no {', '.join(map(repr, unknown))}; it has {names}"
        )
