"""The training loop."""

from __future__ import annotations

import errno
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import accelerate
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from maskwise import __version__
from maskwise.data.atomic_files import make_folder, write_json
from maskwise.errors import InputError, ModelError, SettingsError
from maskwise.training.batches import NO_CLASS, RegionBatch, read_batches
from maskwise.training.builder import build_network
from maskwise.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimiser_tensors,
    remove_leftovers,
    restore_optimiser,
    unwrapped_optimiser,
)
from maskwise.training.data import ResumableBatchSampler, Split, TrainingRegions, batch_shape, read_data
from maskwise.training.distributed import (
    DDPWrapper,
    check_same_on_all,
    explain_lost_processes,
    main_process_first,
    make_accelerator,
    mean_over_processes,
    unused_parameters,
)
from maskwise.training.head_regression import fit_network_head
from maskwise.training.holdout import (
    HeldOutOutputs,
    LogitsAndKnown,
    holdout_temperature,
    predict_holdout,
    split_known,
)
from maskwise.training.monitoring import Throughput, hardest_sheet, holdout_scalars
from maskwise.training.network import TEACHER_HEAD, RegionClassifier
from maskwise.training.optimiser import check_frozen, make_optimiser, rate_factor, region_losses, set_training_mode
from maskwise.training.settings import TrainSettings, expand_variables, settings_to_dict
from maskwise.training.skipped import SkippedImages
from maskwise.training.teacher import distances_to_teacher, teacher_embeddings

CHECKPOINT = "checkpoint.safetensors"
FINAL = "final.safetensors"
TEACHER = "teacher.safetensors"
RECORD = "run.json"
"""Files of a run folder."""
UNWRITABLE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of a log that cannot be written: the disk is full, or the folder is read-only."""


def train(settings: TrainSettings, folder: Path) -> Path:
    """Train a model, or resume the run in the folder. In a distributed run every process must call this.

    Args:
        settings: of the whole run.
        folder: run folder; made if missing. If it has a checkpoint, the run resumes there.

    Returns:
        Path of the final, calibrated checkpoint; `exporting.export_model` makes a model file from it. Only the main
        process writes files.

    Raises:
        SettingsError: the settings do not fit each other, the data, or the run already in the folder.
        InputError: the folder cannot be made, a file in it cannot be written, or most images cannot be read. The last
            checkpoint stays whole, and the run resumes there when it is started again.
        AnnotationError, MaskError: the data cannot be used.
        ModelError: the weights cannot be loaded or do not fit.
        MaskwiseError: another process of the run has ended.
    """
    split = read_data(settings.data)
    accelerator = make_accelerator(settings.run.device, bf16=_use_bf16(settings.schedule.precision))
    make_folder(folder)
    if accelerator.is_main_process:
        for name in (CHECKPOINT, FINAL, TEACHER):
            remove_leftovers(folder / name)
    with explain_lost_processes(accelerator):
        run = start_run(settings, split, folder, accelerator)
        with _open_log(run) as log:
            _train_steps(run, log)
        final = _finish(run)
    if accelerator.is_main_process:
        save_final(final, folder)
    accelerator.end_training()
    return folder / FINAL


def save_final(final: Checkpoint, folder: Path) -> Path:
    """Write the final checkpoint and the record of a run; return the checkpoint's path.

    Raises:
        InputError: a file cannot be written.
    """
    final.save(folder / FINAL)
    record = {"settings": settings_to_dict(final.settings), "temperature": final.temperature, **final.record}
    write_json(folder / RECORD, record)
    return folder / FINAL


@contextmanager
def _open_log(run: Run) -> Iterator[SummaryWriter | None]:
    """Open the TensorBoard log in the main process; give None in the others.

    Entries of steps after the checkpoint that a killed run left are hidden.

    Raises:
        InputError: the log cannot be written, for example because the disk is full.
    """
    if not run.accelerator.is_main_process:
        yield None
        return
    hook = threading.excepthook

    def ignore_os_error(args: threading.ExceptHookArgs) -> None:
        """The log's own thread would print the error, which is raised here too."""
        if not isinstance(args.exc_value, OSError):
            hook(args)

    threading.excepthook = ignore_os_error
    try:
        with SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1) as log:
            yield log
    except OSError as error:
        if error.errno not in UNWRITABLE_ERRORS:
            raise
        raise InputError(
            f"{run.folder}: the log cannot be written ({error.strerror}); make room, or make the folder writable, then"
            " start the run again: it resumes from its last checkpoint"
        ) from error
    finally:
        threading.excepthook = hook


@dataclass
class Run:
    """State of a run.

    Attributes:
        settings: of the run.
        split: its data.
        folder: run folder.
        accelerator: device, precision and processes.
        network: the network being trained.
        average: the moving average of its weights; None if the settings ask for none.
        optimiser: its optimiser.
        teacher: the teacher's embedding of each training region; None without a teacher.
        frozen: modules and parameters of the trunk that are not trained, by dotted name.
        step: optimiser steps done.
        record: what is known about the run: counts, versions, seconds.
        skipped: images that could not be read.
    """

    settings: TrainSettings
    split: Split
    folder: Path
    accelerator: accelerate.Accelerator
    network: RegionClassifier
    average: AveragedModel | None
    optimiser: torch.optim.Optimizer
    teacher: Tensor | None
    frozen: tuple[str, ...]
    step: int = 0
    record: dict[str, Any] = field(default_factory=dict)
    skipped: SkippedImages = field(default_factory=SkippedImages)

    def __post_init__(self) -> None:
        self.ddp_network = DDPWrapper(self.network, self.accelerator)

    @property
    def best(self) -> RegionClassifier:
        """The network to predict with: the moving average if there is one."""
        return self.network if self.average is None else averaged_network(self.average)

    def checkpoint(self) -> Checkpoint:
        """Return everything needed to resume."""
        tensors = {f"model.{name}": t for name, t in self.network.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": t for name, t in averaged_network(self.average).state_dict().items()}
        state = optimiser_tensors(self.optimiser, self.network)
        tensors |= {f"optimiser.{name}": t for name, t in state.items()}
        return Checkpoint(self.settings, self.split.categories, self.step, 1.0, self.record, tensors)


def averaged_network(average: AveragedModel) -> RegionClassifier:
    """Return the network that holds the moving average of the weights."""
    network = average.module
    assert isinstance(network, RegionClassifier)
    return network


def start_run(settings: TrainSettings, split: Split, folder: Path, accelerator: accelerate.Accelerator) -> Run:
    """Return a run ready for its next step: the first, or the one after the folder's checkpoint.

    Arguments and errors are those of `train`.
    """
    torch.manual_seed(settings.schedule.seed)
    checkpoint = load_checkpoint(folder / CHECKPOINT) if (folder / CHECKPOINT).is_file() else None
    if accelerator.num_processes > 1:
        steps = checkpoint.step if checkpoint else 0
        check_same_on_all({"steps done": steps, "settings": settings.digest(), "regions": split.digest()})
    weights = "random" if checkpoint else settings.weights
    teacher = None
    if settings.teacher.model:
        model = Path(expand_variables(settings.teacher.model, setting="teacher.model"))
        with main_process_first(accelerator):  # The others read the file that the main process writes.
            teacher = teacher_embeddings(model, split.train, folder / TEACHER)
    network = build_network(
        settings.network,
        classes=len(split.categories),
        weights=weights,
        probe_size=probe_size(settings),
        teacher_width=0 if teacher is None else teacher.embeddings.shape[1],
        crops=len(settings.view.crops),
        known=split.nothing is not None,
    ).to(memory_format=torch.channels_last)
    check_frozen(network, settings)
    optimiser = make_optimiser(network, settings.schedule)
    network = network.to(accelerator.device)
    fitted: dict[str, float] = {}
    if settings.schedule.head_c and not checkpoint:
        with main_process_first(accelerator):  # The others read the embeddings that the main process writes.
            fitted = fit_network_head(network, split, settings, accelerator, folder)
    optimiser = accelerator.prepare_optimizer(optimiser)
    average = None
    if settings.schedule.average:
        decay = get_ema_multi_avg_fn(settings.schedule.average)  # type: ignore[no-untyped-call]
        average = AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
        average.n_averaged.fill_(1)  # With 0 the first update would copy the weights, in a resumed run at a later step.
    record: dict[str, Any] = {
        "maskwise": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(accelerator.device),
        "precision": accelerator.mixed_precision,
        "classes": len(split.categories),
        "regions_train": len(split.train),
        "regions_holdout": len(split.holdout),
        "processes": accelerator.num_processes,
        **fitted,
    }
    if teacher is not None:
        record["teacher_sha256"] = teacher.sha256
    embeddings = None if teacher is None else teacher.embeddings.to(accelerator.device)
    frozen = _frozen(network, settings, accelerator)
    run = Run(settings, split, folder, accelerator, network, average, optimiser, embeddings, frozen, record=record)
    if checkpoint:
        _resume(run, checkpoint)
    if teacher is not None and accelerator.is_main_process:
        run.skipped.report(teacher.skipped)
    return run


def _frozen(network: RegionClassifier, settings: TrainSettings, accelerator: accelerate.Accelerator) -> tuple[str, ...]:
    """Return the modules and parameters of the trunk that are not trained.

    In a distributed run these include parameters that no output uses: DDP would wait for their gradients.
    """
    frozen = settings.schedule.frozen
    if accelerator.num_processes > 1:
        set_training_mode(network, head_only=False, frozen=frozen)
        size = probe_size(settings)
        blank = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=accelerator.device)
        frozen += tuple(name.removeprefix("trunk.") for name in unused_parameters(network, blank, blank[..., 0]))
    return frozen


def probe_size(settings: TrainSettings) -> int:
    """Return the side of the square image on which a network is built and traced, pixels."""
    return settings.view.size if settings.view.kind == "crop" else 224


def _resume(run: Run, checkpoint: Checkpoint) -> None:
    earlier = replace(
        checkpoint.settings,
        run=run.settings.run,
        data=replace(checkpoint.settings.data, workers=run.settings.data.workers),
    )
    if earlier.without_fallbacks() != run.settings.without_fallbacks():
        raise SettingsError(
            f"{run.folder}: has a run with other settings; give another folder, or the settings it was started with"
        )
    if checkpoint.categories != run.split.categories:
        raise SettingsError(f"{run.folder}: has a run with other classes; the data have changed since")
    if checkpoint.record.get("teacher_sha256") != run.record.get("teacher_sha256"):
        raise SettingsError(f"{run.folder}: has a run with another teacher, or with other regions; give another folder")
    run.network.load_state_dict(checkpoint.tensors_under("model"))
    if run.average is not None:
        averaged_network(run.average).load_state_dict(checkpoint.tensors_under("average"))
    restore_optimiser(unwrapped_optimiser(run.optimiser), run.network, checkpoint.tensors_under("optimiser"))
    run.step = checkpoint.step
    run.record = checkpoint.record
    run.skipped = SkippedImages(checkpoint.record.get("skipped_images"))


def _train_steps(run: Run, log: SummaryWriter | None) -> None:
    settings, schedule = run.settings, run.settings.schedule
    sampler = ResumableBatchSampler(settings, run.step, run.accelerator.process_index, run.accelerator.num_processes)
    batches = read_batches(TrainingRegions(run.split, settings), settings.data.workers, batch_sampler=sampler)
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
        for batch in batches:
            run.skipped.count(batch)
            values = take_step(run, batch)
            speed.images += batch_shape(settings, run.step)[1]
            run.step += 1
            progress.update(schedule.batch_size)
            if run.step % settings.run.log_every == 0 or run.step == schedule.steps:
                means = _batch_metrics(values, run.accelerator)
                progress.set_postfix({name.removeprefix("train/"): f"{value:.2f}" for name, value in means.items()})
                _log(run, log, {**means, "speed/images_per_s": speed.rate()})
            if run.step % settings.run.validate_every == 0 and run.split.holdout:
                with speed.paused():
                    summary = _validate(run, log)
                    if log is not None:
                        progress.write(f"step {run.step}: {summary}")
            if run.step % settings.run.checkpoint_every == 0 or run.step == schedule.steps:
                with speed.paused():
                    run.record["skipped_images"] = run.skipped.record()
                    run.record["seconds"] = round(time.monotonic() - started)
                    if run.accelerator.is_main_process:
                        run.checkpoint().save(run.folder / CHECKPOINT)


def _validate(run: Run, log: SummaryWriter | None) -> str:
    """Log metrics of the held-out set and draw its worst regions; return a summary in words."""
    outputs = _predict_holdout(run)
    logits, targets = outputs.logits, outputs.targets
    values = holdout_scalars(logits, targets, run.split.names)
    _log(run, log, values)
    if log is not None:
        picture = hardest_sheet(logits, targets, run.split, run.settings.view)
        if picture is not None:
            log.add_image("holdout/hardest", picture, run.step, dataformats="HWC")
    micro, macro = values["holdout/micro_accuracy"], values["holdout/macro_accuracy"]
    return f"held-out set: micro accuracy {micro:.3f}, macro accuracy {macro:.3f}"


def _log(run: Run, log: SummaryWriter | None, values: dict[str, float]) -> None:
    if log is not None:
        for group in run.optimiser.param_groups:
            values[f"rate/{group['peak_lr']:g}"] = group["lr"]
        for name, value in values.items():
            log.add_scalar(name, value, run.step)


def take_step(run: Run, batch: RegionBatch) -> dict[str, Tensor]:
    """Take one optimiser step.

    Returns:
        Losses, whose mean over the processes is the loss of the whole batch, and the counts `right` and `named`: crops
        that were named correctly, and crops that have a class.
    """
    schedule, accelerator = run.settings.schedule, run.accelerator
    device = accelerator.device
    # Only dropout uses this seed: a resumed run repeats it, and each process has its own.
    torch.manual_seed(schedule.seed + run.step + accelerator.process_index * schedule.steps)
    factor = rate_factor(run.step, schedule)
    for group in run.optimiser.param_groups:
        group["lr"] = group["peak_lr"] * factor
    set_training_mode(run.network, head_only=run.step < schedule.head_steps, frozen=run.frozen)
    batch = batch.to(device)
    crops = len(batch.images) // (1 if batch.crop_of is None else 2)
    with accelerator.autocast():
        out = run.ddp_network(batch.images, batch.masks, batch.image_of, batch.crop_of)
    logits, embeddings = (batch.add_crops(out), None) if run.teacher is None else out
    weights = batch.weights / crops
    losses = {"train/loss": (weights * region_losses(logits.float(), batch.targets, schedule)).sum()}
    if run.teacher is not None and embeddings is not None:
        distances = distances_to_teacher(embeddings.float(), run.teacher[batch.numbers])
        teacher_loss = run.settings.teacher.weight * (weights * distances * (batch.targets != NO_CLASS)).sum()
        class_loss = losses["train/loss"]
        losses = {
            "train/loss": class_loss + teacher_loss,
            "train/loss_classes": class_loss,
            "train/loss_teacher": teacher_loss,
        }
    # DDP averages gradients over processes, but one process may have more crops of the batch than another.
    share = crops * accelerator.num_processes / batch_shape(run.settings, run.step)[1]
    accelerator.backward(losses["train/loss"] * share)
    if schedule.clip:
        accelerator.clip_grad_norm_(run.network.parameters(), schedule.clip)
    run.optimiser.step()
    run.optimiser.zero_grad()
    _update_average(run)
    targets = batch.targets[:crops]
    counts = {"right": (logits[:crops].argmax(dim=1) == targets).sum(), "named": (targets != NO_CLASS).sum()}
    return {name: value.detach() * share for name, value in losses.items()} | counts


def _batch_metrics(values: dict[str, Tensor], accelerator: accelerate.Accelerator) -> dict[str, float]:
    """Return what is logged about a step: losses and, if any crop has a class, the accuracy."""
    means = mean_over_processes(values, accelerator)
    right, named = means.pop("right"), means.pop("named")
    return means | ({"train/accuracy": right / named} if named else {})


def _update_average(run: Run) -> None:
    if run.average is None:
        return
    # At first the average is a copy: it would carry the random initial head along for long.
    if run.step < min(100, run.settings.schedule.steps // 2):
        averaged_network(run.average).load_state_dict(run.network.state_dict())
    else:
        run.average.update_parameters(run.network)


def _predict_holdout(run: Run) -> HeldOutOutputs:
    """Return the network's outputs on the held-out set; all processes must call this.

    Regions whose images cannot be read are removed from the run's held-out set.
    """
    network = run.best if run.best.known_head is None else LogitsAndKnown(run.best)
    outputs = predict_holdout(network, run.split, run.settings, run.accelerator)
    outputs, min_known = split_known(outputs, len(run.split.categories))
    if min_known is not None:
        run.record["min_known"] = min_known
    run.skipped.report(outputs.skipped)
    run.split = run.split.with_holdout(outputs.numbers.tolist())
    return outputs


def _finish(run: Run) -> Checkpoint:
    """Calibrate, and return a checkpoint with only the weights to predict with."""
    temperature = 1.0
    if run.split.holdout:
        outputs = _predict_holdout(run)
        temperature = holdout_temperature(outputs, run.split, run.settings.data.class_power)
        run.record["holdout_accuracy"] = round(outputs.accuracy, 4)
    run.record["skipped_images"] = run.skipped.record()
    tensors = {f"model.{name}": t for name, t in run.best.state_dict().items() if not name.startswith(TEACHER_HEAD)}
    return Checkpoint(run.settings, run.split.categories, run.step, temperature, run.record, tensors)


def load_network(checkpoint: Checkpoint) -> RegionClassifier:
    """Return the network of a checkpoint, ready to predict.

    Raises:
        ModelError, SettingsError: see `build_network`.
    """
    network = build_network(
        checkpoint.settings.network,
        classes=len(checkpoint.categories),
        probe_size=probe_size(checkpoint.settings),
        crops=len(checkpoint.settings.view.crops),
        known=bool(checkpoint.settings.data.nothing),
    )
    weights = {name: tensor for name, tensor in checkpoint.weights.items() if not name.startswith(TEACHER_HEAD)}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"the checkpoint's weights do not fit its own settings ({reason})") from error
    return network.eval()


def _use_bf16(precision: str) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
