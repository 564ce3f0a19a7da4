"""Optimiser, learning rates and losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise.errors import SettingsError
from maskwise.training.batches import NOTHING
from maskwise.training.network import RegionClassifier
from maskwise.training.settings import ScheduleSettings, TrainSettings


def make_optimiser(network: RegionClassifier, settings: ScheduleSettings) -> torch.optim.Optimizer:
    """Trunk and new layers at their own rates; weight decay on matrices and kernels only."""
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
    """What the peak learning rates are multiplied by at a step.

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


def losses_of(logits: Tensor, targets: Tensor, settings: ScheduleSettings) -> Tensor:
    """The loss of each region: cross entropy with label smoothing, or the published one.

    The published loss is the mean over classes of -onehot * log(p + 1e-7): cross entropy over the number of classes,
    but for the small term. Where the target is `NOTHING`, every class is as right as any other.
    """
    nothing = targets == NOTHING
    wanted = F.one_hot(targets.clamp(min=0), logits.shape[1]).to(logits.dtype)
    wanted[nothing] = 1 / logits.shape[1]
    if settings.loss == "cross_entropy":
        return F.cross_entropy(logits, wanted, label_smoothing=settings.label_smoothing, reduction="none")
    return -(wanted * torch.log(logits.softmax(dim=1) + 1e-7)).mean(dim=1)


def set_mode(network: RegionClassifier, *, head_only: bool, frozen: Sequence[str] = ()) -> None:
    """Training mode, but with the trunk's batch statistics kept as pretrained: batches here are small.

    Args:
        network: to be set.
        head_only: nothing but the head learns.
        frozen: modules and parameters of the trunk that do not learn, by dotted name.
    """
    network.train()
    for module in network.trunk.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    still = tuple(f"trunk.{name}." for name in frozen)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(
            name.startswith(("head.", "teach.")) if head_only else not f"{name}.".startswith(still)
        )


def check_frozen(network: RegionClassifier, settings: TrainSettings) -> None:
    """Refuse to freeze what the trunk does not have.

    Raises:
        SettingsError: no such module or parameter; the message lists those that there are.
    """
    known = {name for name, _ in (*network.trunk.named_modules(), *network.trunk.named_parameters())}
    unknown = [name for name in settings.schedule.frozen if not name or name not in known]
    if unknown:
        names = ", ".join(name for name, _ in network.trunk.named_children())
        raise SettingsError(
            f"schedule.frozen: trunk {settings.network.trunk} has no {', '.join(map(repr, unknown))}; it has {names}"
        )
