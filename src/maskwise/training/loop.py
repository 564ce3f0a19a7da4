"""The training loop."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import accelerate
import cv2
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from maskwise import __version__
from maskwise.calibration import fit_temperature
from maskwise.errors import SettingsError
from maskwise.files import make_folder, write_json
from maskwise.regions import LabelledRegion
from maskwise.training.builder import build_network
from maskwise.training.checkpoint import Checkpoint, load_checkpoint, optimiser_tensors, restore_optimiser
from maskwise.training.data import Batch, Draws, PlainRegions, Split, TrainingRegions, collate, read_data
from maskwise.training.network import RegionClassifier
from maskwise.training.settings import NetworkSettings, ScheduleSettings, TrainSettings, expand, settings_to_dict
from maskwise.training.teacher import distance_to_teacher, teacher_embeddings
from maskwise.training.watch import Throughput, hard_examples, holdout_scalars

CHECKPOINT = "checkpoint.safetensors"
FINAL = "final.safetensors"
TEACHER = "teacher.safetensors"


def train(settings: TrainSettings, folder: Path) -> Path:
    """Train, or go on with, a run.

    Args:
        settings: of the whole run.
        folder: run folder; made if missing. A checkpoint in it is resumed from.

    Returns:
        The final checkpoint, calibrated; `export.export_model` makes the model file of it.

    Raises:
        SettingsError: settings that do not fit each other, the data, or the run already in the folder.
        InputError: the folder cannot be made.
        AnnotationError, ImageError, MaskError: data that cannot be used.
        ModelError: weights that cannot be had or do not fit.
    """
    split = read_data(settings.data)
    accelerator = accelerate.Accelerator(
        mixed_precision="bf16" if _computes_in_bf16(settings.schedule.precision) else "no",
        cpu=settings.run.device == "cpu",
    )
    make_folder(folder)
    run = _start(settings, split, folder, accelerator)
    with SummaryWriter(str(folder / "tensorboard"), purge_step=run.step) as log:
        _steps(run, log)
    final = _finish(run)
    if accelerator.is_main_process:
        final.save(folder / FINAL)
        write_json(
            folder / "run.json",
            {"settings": settings_to_dict(settings), "temperature": final.temperature, **final.record},
        )
    return folder / FINAL


@dataclass
class _Run:
    """What changes while training, in one place."""

    settings: TrainSettings
    split: Split
    folder: Path
    accelerator: accelerate.Accelerator
    network: nn.Module
    average: AveragedModel | None
    optimiser: torch.optim.Optimizer
    teacher: Tensor | None
    step: int = 0
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def bare(self) -> RegionClassifier:
        return self.accelerator.unwrap_model(self.network)

    @property
    def best(self) -> RegionClassifier:
        """The network to use: averaged where the run averages."""
        return self.bare if self.average is None else self.average.module

    def checkpoint(self) -> Checkpoint:
        tensors = {f"model.{name}": t for name, t in self.bare.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": t for name, t in self.average.module.state_dict().items()}
        state = optimiser_tensors(self.optimiser, self.bare)
        tensors |= {f"optimiser.{name}": t for name, t in state.items()}
        return Checkpoint(self.settings, self.split.categories, self.step, 1.0, self.record, tensors)


def _start(settings: TrainSettings, split: Split, folder: Path, accelerator: accelerate.Accelerator) -> _Run:
    torch.manual_seed(settings.schedule.seed)
    weights = "random" if (folder / CHECKPOINT).is_file() else settings.weights
    teacher = None
    if settings.teacher.model:
        with accelerator.main_process_first():  # The others read what the first has kept.
            teacher = teacher_embeddings(Path(expand(settings.teacher.model)), split.train, folder / TEACHER)
    network = build_network(
        settings.network,
        classes=len(split.categories),
        weights=weights,
        probe_size=probe_size(settings),
        teacher_width=0 if teacher is None else teacher.embeddings.shape[1],
    ).to(memory_format=torch.channels_last)
    check_frozen(network, settings)
    optimiser = make_optimiser(network, settings.schedule)
    network, optimiser = accelerator.prepare(network, optimiser)
    bare = accelerator.unwrap_model(network)
    average = None
    if settings.schedule.average:
        average = AveragedModel(bare, multi_avg_fn=get_ema_multi_avg_fn(settings.schedule.average), use_buffers=True)
        average.n_averaged.fill_(1)  # At 0 the first update would copy, in a resumed run at another step.
    record = {
        "maskwise": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(accelerator.device),
        "precision": accelerator.mixed_precision,
        "classes": len(split.categories),
        "regions_train": len(split.train),
        "regions_holdout": len(split.holdout),
    }
    if teacher is not None:
        record["teacher_sha256"] = teacher.sha256
    embeddings = None if teacher is None else teacher.embeddings.to(accelerator.device)
    run = _Run(settings, split, folder, accelerator, network, average, optimiser, embeddings, record=record)
    if (folder / CHECKPOINT).is_file():
        _resume(run, load_checkpoint(folder / CHECKPOINT))
    return run


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


def probe_size(settings: TrainSettings) -> int:
    """Side of the square image on which a network is built and traced, pixels."""
    return settings.view.size if settings.view.kind == "crop" else 224


def _resume(run: _Run, checkpoint: Checkpoint) -> None:
    same = replace(
        checkpoint.settings,
        run=run.settings.run,
        data=replace(checkpoint.settings.data, workers=run.settings.data.workers),
    )
    if same != run.settings:
        raise SettingsError(
            f"{run.folder}: holds a run of other settings; give another folder, or the settings it was started with"
        )
    if checkpoint.categories != run.split.categories:
        raise SettingsError(f"{run.folder}: holds a run on other classes; the data have changed since")
    if checkpoint.record.get("teacher_sha256") != run.record.get("teacher_sha256"):
        raise SettingsError(
            f"{run.folder}: holds a run under another teacher, or on other regions; give another folder"
        )
    run.bare.load_state_dict(checkpoint.part("model"))
    if run.average is not None:
        run.average.module.load_state_dict(checkpoint.part("average"))
    restore_optimiser(run.optimiser.optimizer, run.bare, checkpoint.part("optimiser"))
    run.step = checkpoint.step
    run.record = checkpoint.record


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


def loss_of(logits: Tensor, targets: Tensor, settings: ScheduleSettings) -> Tensor:
    """The loss of a batch: cross entropy with label smoothing, or the published one.

    The published loss is the mean over batch and classes of -onehot * log(p + 1e-7): cross entropy over the number of
    classes, but for the small term.
    """
    if settings.loss == "cross_entropy":
        return F.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
    right = logits.softmax(dim=1).gather(1, targets[:, None])
    return -torch.log(right + 1e-7).mean() / logits.shape[1]


def _steps(run: _Run, log: SummaryWriter) -> None:
    settings, schedule = run.settings, run.settings.schedule
    draws = Draws(settings, run.step, run.accelerator.process_index, run.accelerator.num_processes)
    loader = DataLoader(
        TrainingRegions(run.split, settings),
        batch_sampler=draws,
        collate_fn=collate,
        prefetch_factor=4 if settings.data.workers else None,
        **_worker_options(settings),
    )
    started = time.monotonic() - run.record.get("seconds", 0)
    hidden = not run.accelerator.is_main_process
    progress = tqdm(
        desc=settings.run.name,
        unit=" images",
        initial=run.step * schedule.batch_size,
        total=schedule.steps * schedule.batch_size,
        disable=hidden,
        mininterval=2,
    )
    speed = Throughput()
    with progress:
        for batch in loader:
            loss, accuracy = _step(run, batch)
            speed.images += len(batch.targets)
            run.step += 1
            progress.update(schedule.batch_size)
            if run.step % settings.run.log_every == 0 or run.step == schedule.steps:
                progress.set_postfix(loss=f"{loss.item():.3f}", accuracy=f"{accuracy.item():.2f}")
                _log(
                    run,
                    log,
                    {
                        "train/loss": loss.item(),
                        "train/accuracy": accuracy.item(),
                        "speed/images_per_s": _sum_over_processes(run, speed.rate()),
                    },
                )
            if run.step % settings.run.validate_every == 0 and run.split.holdout:
                with speed.paused():
                    progress.write(f"step {run.step}: {_validate(run, log)}")
            if run.accelerator.is_main_process and (
                run.step % settings.run.checkpoint_every == 0 or run.step == schedule.steps
            ):
                with speed.paused():
                    run.record["seconds"] = round(time.monotonic() - started)
                    run.checkpoint().save(run.folder / CHECKPOINT)


def _validate(run: _Run, log: SummaryWriter) -> str:
    """Log how the held-out regions are named, and draw the worst; gives the main figures as words."""
    logits, targets = holdout_logits(run.best, run.split, run.settings, run.accelerator)
    values = holdout_scalars(logits, targets, run.split.names)
    _log(run, log, values)
    if run.accelerator.is_main_process:
        picture = hard_examples(logits, targets, run.split, run.settings.view)
        log.add_image("holdout/hard", picture, run.step, dataformats="HWC")
    return "held-out accuracy {holdout/accuracy:.3f}, mean over classes {holdout/accuracy_classes:.3f}".format(**values)


def _sum_over_processes(run: _Run, value: float) -> float:
    total = run.accelerator.reduce(torch.tensor(value, device=run.accelerator.device), reduction="sum")
    return total.item()


def _worker_options(settings: TrainSettings) -> dict[str, Any]:
    # Not forked: OpenCV's thread pool does not survive a fork, and the first resize in the child then hangs.
    workers = settings.data.workers
    return {
        "num_workers": workers,
        "worker_init_fn": _one_thread,
        "multiprocessing_context": "forkserver" if workers else None,
    }


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _log(run: _Run, log: SummaryWriter, values: dict[str, float]) -> None:
    if run.accelerator.is_main_process:
        for group in run.optimiser.param_groups:
            values[f"rate/{group['peak_lr']:g}"] = group["lr"]
        for name, value in values.items():
            log.add_scalar(name, value, run.step)


def _step(run: _Run, batch: Batch) -> tuple[Tensor, Tensor]:
    """One optimiser step; gives the loss and the accuracy on the batch."""
    schedule, network, device = run.settings.schedule, run.network, run.accelerator.device
    torch.manual_seed(schedule.seed + run.step)  # Dropout alone draws from it: a resumed run draws the same.
    factor = rate_factor(run.step, schedule)
    for group in run.optimiser.param_groups:
        group["lr"] = group["peak_lr"] * factor
    set_mode(run.bare, head_only=run.step < schedule.head_steps, frozen=schedule.frozen)
    images, masks, targets = batch.images.to(device), batch.masks.to(device), batch.targets.to(device)
    with run.accelerator.autocast():
        out = network(images, masks)
    logits, told = (out, None) if run.teacher is None else out
    loss = loss_of(logits.float(), targets, schedule)
    if told is not None:
        right = run.teacher[batch.numbers.to(device)]
        loss = loss + run.settings.teacher.weight * distance_to_teacher(told.float(), right)
    run.accelerator.backward(loss)
    if schedule.clip:
        run.accelerator.clip_grad_norm_(network.parameters(), schedule.clip)
    run.optimiser.step()
    run.optimiser.zero_grad()
    if run.average is not None:
        # An average that begins with the random head would carry it along for long.
        young = run.step < min(100, schedule.steps // 2)
        run.average.module.load_state_dict(run.bare.state_dict()) if young else run.average.update_parameters(run.bare)
    return loss.detach(), _accuracy(logits.detach(), targets)


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


def holdout_logits(
    network: RegionClassifier, split: Split, settings: TrainSettings, accelerator: accelerate.Accelerator
) -> tuple[Tensor, Tensor]:
    """Logits (N x classes) and class indices (N) of the held-out regions."""
    return logits_of(network, split.holdout, split, settings, accelerator)


def logits_of(
    network: nn.Module,
    regions: Sequence[LabelledRegion],
    split: Split,
    settings: TrainSettings,
    accelerator: accelerate.Accelerator | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits (N x classes) and class indices (N) of regions seen as prediction sees them.

    Args:
        network: takes images and masks.
        regions: the regions.
        split: says which classes there are.
        settings: of the run: view and batch size.
        accelerator: where and how exactly it computes; left out, on the processor in float32.
    """
    loader = DataLoader(
        PlainRegions(regions, settings.view, split.categories),
        batch_size=1 if settings.view.kind == "whole" else settings.schedule.batch_size,
        collate_fn=collate,
        **_worker_options(settings),
    )
    network.eval()
    logits, targets = [], []
    device = accelerator.device if accelerator else torch.device("cpu")
    with torch.no_grad(), accelerator.autocast() if accelerator else nullcontext():
        for batch in loader:
            logits.append(network(batch.images.to(device), batch.masks.to(device)).float().cpu())
            targets.append(batch.targets)
    return torch.cat(logits), torch.cat(targets)


def _finish(run: _Run) -> Checkpoint:
    """Calibrate and keep only the weights to use."""
    temperature = 1.0
    if run.split.holdout:
        logits, targets = holdout_logits(run.best, run.split, run.settings, run.accelerator)
        weights = run.split.calibration_weights(run.settings.data.class_power)
        temperature = fit_temperature(logits.numpy(), targets.numpy(), weights.numpy())
        run.record["holdout_accuracy"] = round(_accuracy(logits, targets).item(), 4)
    tensors = {f"model.{name}": t for name, t in run.best.state_dict().items() if not name.startswith("teach.")}
    return Checkpoint(run.settings, run.split.categories, run.step, temperature, run.record, tensors)


def network_of(checkpoint: Checkpoint) -> RegionClassifier:
    """The network of a checkpoint, ready to predict.

    Raises:
        ModelError, SettingsError: see `build_network`.
    """
    settings: NetworkSettings = checkpoint.settings.network
    network = build_network(settings, classes=len(checkpoint.categories), probe_size=probe_size(checkpoint.settings))
    network.load_state_dict({name: t for name, t in checkpoint.weights.items() if not name.startswith("teach.")})
    return network.eval()


def _accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == targets).float().mean()


def _computes_in_bf16(precision: str) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
