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
from maskwise.errors import InputError, SettingsError
from maskwise.training.batches import NOTHING, Batch, read_batches
from maskwise.training.builder import build_network
from maskwise.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimiser_tensors,
    remove_leftovers,
    restore_optimiser,
)
from maskwise.training.data import Draws, Split, TrainingRegions, batch_shape, read_data
from maskwise.training.distributed import (
    Together,
    check_same,
    idle_parameters,
    main_process_first,
    make_accelerator,
    mean_over_processes,
    others_may_end,
)
from maskwise.training.holdout import Answers, holdout_answers, temperature_of
from maskwise.training.monitoring import Throughput, hard_examples, holdout_scalars
from maskwise.training.network import RegionClassifier
from maskwise.training.optimiser import check_frozen, losses_of, make_optimiser, rate_factor, set_mode
from maskwise.training.settings import NetworkSettings, TrainSettings, expand, settings_to_dict
from maskwise.training.skipped import SkippedImages
from maskwise.training.teacher import distances_to_teacher, teacher_embeddings

CHECKPOINT = "checkpoint.safetensors"
FINAL = "final.safetensors"
TEACHER = "teacher.safetensors"
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)
RECORD = "run.json"


def train(settings: TrainSettings, folder: Path) -> Path:
    """Train, or go on with, a run; of several processes all must call, and the main one alone writes.

    Args:
        settings: of the whole run.
        folder: run folder; made if missing. A checkpoint in it is resumed from.

    Returns:
        The final checkpoint, calibrated; `export.export_model` makes the model file of it.

    Raises:
        SettingsError: settings that do not fit each other, the data, or the run already in the folder.
        InputError: the folder cannot be made, a file in it cannot be written, or most images cannot be read. The last
            checkpoint is whole, and the run goes on from it when started again.
        AnnotationError, MaskError: data that cannot be used.
        ModelError: weights that cannot be had or do not fit.
        MaskwiseError: another process of the run has ended.
    """
    split = read_data(settings.data)
    accelerator = make_accelerator(settings.run.device, bf16=_computes_in_bf16(settings.schedule.precision))
    make_folder(folder)
    if accelerator.is_main_process:
        for name in (CHECKPOINT, FINAL, TEACHER):
            remove_leftovers(folder / name)
    with others_may_end(accelerator):
        run = start_run(settings, split, folder, accelerator)
        with _open_log(run) as log:
            _steps(run, log)
        final = _finish(run)
    if accelerator.is_main_process:
        save_final(final, folder)
    accelerator.end_training()
    return folder / FINAL


def save_final(final: Checkpoint, folder: Path) -> Path:
    """Write the checkpoint of a run that has ended, and its record; gives the checkpoint's path.

    Raises:
        InputError: a file cannot be written.
    """
    final.save(folder / FINAL)
    record = {"settings": settings_to_dict(final.settings), "temperature": final.temperature, **final.record}
    write_json(folder / RECORD, record)
    return folder / FINAL


@contextmanager
def _open_log(run: Run) -> Iterator[SummaryWriter | None]:
    """The TensorBoard log, of the main process; points of steps that a killed run did after its checkpoint are hidden.

    Raises:
        InputError: the disk is full.
    """
    if not run.accelerator.is_main_process:
        yield None
        return
    hook = threading.excepthook
    # The thread that writes the log prints its error, before the error is raised here too.
    threading.excepthook = lambda args: None if isinstance(args.exc_value, OSError) else hook(args)
    try:
        with SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1) as log:
            yield log
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise InputError(
            f"{run.folder}: the log cannot be written ({error.strerror}); make room, or make the"
            " folder writable, then start the run again: it goes"
            " on from its last checkpoint"
        ) from error
    finally:
        threading.excepthook = hook


@dataclass
class Run:
    """What changes while training, in one place."""

    settings: TrainSettings
    split: Split
    folder: Path
    accelerator: accelerate.Accelerator
    bare: RegionClassifier
    average: AveragedModel | None
    optimiser: torch.optim.Optimizer
    teacher: Tensor | None
    frozen: tuple[str, ...]
    step: int = 0
    record: dict[str, Any] = field(default_factory=dict)
    skipped: SkippedImages = field(default_factory=SkippedImages)

    def __post_init__(self) -> None:
        self.network = Together(self.bare, self.accelerator)

    @property
    def best(self) -> RegionClassifier:
        """The network to use: averaged where the run averages."""
        return self.bare if self.average is None else self.average.module

    def checkpoint(self) -> Checkpoint:
        """All that going on needs."""
        tensors = {f"model.{name}": t for name, t in self.bare.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": t for name, t in self.average.module.state_dict().items()}
        state = optimiser_tensors(self.optimiser, self.bare)
        tensors |= {f"optimiser.{name}": t for name, t in state.items()}
        return Checkpoint(self.settings, self.split.categories, self.step, 1.0, self.record, tensors)


def start_run(settings: TrainSettings, split: Split, folder: Path, accelerator: accelerate.Accelerator) -> Run:
    """A run ready for its next step, which a checkpoint in the folder decides; arguments and errors as in `train`."""
    torch.manual_seed(settings.schedule.seed)
    kept = load_checkpoint(folder / CHECKPOINT) if (folder / CHECKPOINT).is_file() else None
    if accelerator.num_processes > 1:
        check_same({"steps done": kept.step if kept else 0, "settings": settings.digest(), "regions": split.digest()})
    weights = "random" if kept else settings.weights
    teacher = None
    if settings.teacher.model:
        with main_process_first(accelerator):  # The others read what the first has kept.
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
    network = network.to(accelerator.device)
    optimiser = accelerator.prepare_optimizer(optimiser)
    average = None
    if settings.schedule.average:
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.schedule.average), use_buffers=True)
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
        "processes": accelerator.num_processes,
    }
    if teacher is not None:
        record["teacher_sha256"] = teacher.sha256
    embeddings = None if teacher is None else teacher.embeddings.to(accelerator.device)
    frozen = _frozen(network, settings, accelerator)
    run = Run(settings, split, folder, accelerator, network, average, optimiser, embeddings, frozen, record=record)
    if kept:
        _resume(run, kept)
    if teacher is not None and accelerator.is_main_process:
        run.skipped.name(teacher.skipped)
    return run


def _frozen(network: RegionClassifier, settings: TrainSettings, accelerator: accelerate.Accelerator) -> tuple[str, ...]:
    """Modules and parameters of the trunk that do not learn; several processes must know of those that cannot."""
    frozen = settings.schedule.frozen
    if accelerator.num_processes > 1:
        set_mode(network, head_only=False, frozen=frozen)
        size = probe_size(settings)
        blank = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=accelerator.device)
        frozen += tuple(name.removeprefix("trunk.") for name in idle_parameters(network, blank, blank[..., 0]))
    return frozen


def probe_size(settings: TrainSettings) -> int:
    """Side of the square image on which a network is built and traced, pixels."""
    return settings.view.size if settings.view.kind == "crop" else 224


def _resume(run: Run, checkpoint: Checkpoint) -> None:
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
    run.skipped = SkippedImages(checkpoint.record.get("skipped_images"))


def _steps(run: Run, log: SummaryWriter | None) -> None:
    settings, schedule = run.settings, run.settings.schedule
    draws = Draws(settings, run.step, run.accelerator.process_index, run.accelerator.num_processes)
    batches = read_batches(TrainingRegions(run.split, settings), settings.data.workers, batch_sampler=draws)
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
                means = _of_whole_batch(values, run.accelerator)
                progress.set_postfix({name.removeprefix("train/"): f"{value:.2f}" for name, value in means.items()})
                _log(run, log, {**means, "speed/images_per_s": speed.rate()})
            if run.step % settings.run.validate_every == 0 and run.split.holdout:
                with speed.paused():
                    found = _validate(run, log)
                    if log is not None:
                        progress.write(f"step {run.step}: {found}")
            if run.step % settings.run.checkpoint_every == 0 or run.step == schedule.steps:
                with speed.paused():
                    run.record["skipped_images"] = run.skipped.record()
                    run.record["seconds"] = round(time.monotonic() - started)
                    if run.accelerator.is_main_process:
                        run.checkpoint().save(run.folder / CHECKPOINT)


def _validate(run: Run, log: SummaryWriter | None) -> str:
    """Log how the held-out regions are named, and draw the worst; gives the main figures as words."""
    answers = _holdout_answers(run)
    logits, targets = answers.logits, answers.targets
    values = holdout_scalars(logits, targets, run.split.names)
    _log(run, log, values)
    if log is not None:
        picture = hard_examples(logits, targets, run.split, run.settings.view)
        if picture is not None:
            log.add_image("holdout/hard", picture, run.step, dataformats="HWC")
    return "held-out accuracy {holdout/accuracy:.3f}, mean over classes {holdout/accuracy_classes:.3f}".format(**values)


def _log(run: Run, log: SummaryWriter | None, values: dict[str, float]) -> None:
    if log is not None:
        for group in run.optimiser.param_groups:
            values[f"rate/{group['peak_lr']:g}"] = group["lr"]
        for name, value in values.items():
            log.add_scalar(name, value, run.step)


def take_step(run: Run, batch: Batch) -> dict[str, Tensor]:
    """One optimiser step; gives losses, whose mean over the processes is the whole batch's, and counts."""
    schedule, accelerator = run.settings.schedule, run.accelerator
    device = accelerator.device
    # Dropout alone draws from it: a resumed run draws the same, and each process its own.
    torch.manual_seed(schedule.seed + run.step + accelerator.process_index * schedule.steps)
    factor = rate_factor(run.step, schedule)
    for group in run.optimiser.param_groups:
        group["lr"] = group["peak_lr"] * factor
    set_mode(run.bare, head_only=run.step < schedule.head_steps, frozen=run.frozen)
    batch = batch.to(device)
    views = len(batch.images)
    with accelerator.autocast():
        out = run.network(batch.images, batch.masks, batch.image_of)
    logits, told = (out, None) if run.teacher is None else out
    weights = batch.weights / views
    losses = {"train/loss": (weights * losses_of(logits.float(), batch.targets, schedule)).sum()}
    if told is not None:
        distances = distances_to_teacher(told.float(), run.teacher[batch.numbers])
        taught = run.settings.teacher.weight * (weights * distances * (batch.targets != NOTHING)).sum()
        names = losses["train/loss"]
        losses = {"train/loss": names + taught, "train/loss_names": names, "train/loss_teacher": taught}
    # Gradients are averaged over processes, each of which may have more views of the batch than another.
    share = views * accelerator.num_processes / batch_shape(run.settings, run.step)[1]
    accelerator.backward(losses["train/loss"] * share)
    if schedule.clip:
        accelerator.clip_grad_norm_(run.bare.parameters(), schedule.clip)
    run.optimiser.step()
    run.optimiser.zero_grad()
    _average(run)
    targets = batch.targets[:views]
    counts = {"right": (logits[:views].argmax(dim=1) == targets).sum(), "named": (targets != NOTHING).sum()}
    return {name: value.detach() * share for name, value in losses.items()} | counts


def _of_whole_batch(values: dict[str, Tensor], accelerator: accelerate.Accelerator) -> dict[str, float]:
    """What is logged of a step: the losses and, where anything was to be named, the accuracy."""
    means = mean_over_processes(values, accelerator)
    right, named = means.pop("right"), means.pop("named")
    return means | ({"train/accuracy": right / named} if named else {})


def _average(run: Run) -> None:
    if run.average is not None:
        # An average that begins with the random head would carry it along for long.
        young = run.step < min(100, run.settings.schedule.steps // 2)
        run.average.module.load_state_dict(run.bare.state_dict()) if young else run.average.update_parameters(run.bare)


def _holdout_answers(run: Run) -> Answers:
    """Answers on the run's held-out regions; all processes must call.

    Regions whose images cannot be read are left out of the run's split from here on.
    """
    answers = holdout_answers(run.best, run.split, run.settings, run.accelerator)
    run.skipped.name(answers.skipped)
    run.split = run.split.holding(answers.numbers.tolist())
    return answers


def _finish(run: Run) -> Checkpoint:
    """Calibrate and keep only the weights to use."""
    temperature = 1.0
    if run.split.holdout:
        answers = _holdout_answers(run)
        temperature = temperature_of(answers.logits, answers.targets, run.split, run.settings.data.class_power)
        run.record["holdout_accuracy"] = round(answers.accuracy, 4)
    run.record["skipped_images"] = run.skipped.record()
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


def _computes_in_bf16(precision: str) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
