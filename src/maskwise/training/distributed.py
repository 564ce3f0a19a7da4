"""Distributed runs: GPUs of one or several machines, as `torchrun` and `accelerate launch` start them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import accelerate
import torch
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import Tensor, nn
from torch.distributed import DistError
from torch.nn.parallel import DistributedDataParallel

from maskwise.errors import MaskwiseError, SettingsError

STEP_TIMEOUT = timedelta(minutes=30)
"""Longest wait for another process in a step; the main process must write its checkpoint in this time."""
MAIN_PROCESS_TIMEOUT = timedelta(days=7)
"""Longest wait while the main process works alone, which may take hours. A process that ends is noticed at once."""


def world_size() -> int:
    """Return the number of processes that the run was started with.

    Raises:
        SettingsError: the environment variable WORLD_SIZE is not a number of at least 1.
    """
    text = os.environ.get("WORLD_SIZE") or "1"
    if not text.isdecimal() or text == "0":
        raise SettingsError(
            f"the environment variable WORLD_SIZE is {text!r}; torchrun sets it to the number of processes"
        )
    return int(text)


def make_accelerator(device: str, *, bf16: bool) -> accelerate.Accelerator:
    """Join the other processes of the run; return the accelerator of this one.

    Args:
        device: `RunSettings.device`.
        bf16: whether to compute in bfloat16.

    Raises:
        SettingsError: this machine has more processes than GPUs, or the processes do not find each other.
    """
    several = world_size() > 1
    on_cpu = device == "cpu" or (several and not torch.accelerator.is_available())  # Otherwise each would train alone.
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if not on_cpu and torch.cuda.is_available() and here > gpus:
        raise SettingsError(
            f"{here} processes for {gpus} GPU on this machine; start one process per GPU, or add --run.device cpu"
        )
    accelerator = accelerate.Accelerator(
        mixed_precision="bf16" if bf16 else "no",
        cpu=on_cpu,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=STEP_TIMEOUT)],
    )
    if accelerator.num_processes != world_size():
        raise SettingsError(
            f"WORLD_SIZE is {world_size()}, but {accelerator.num_processes} processes found each other; start them with"
            " torchrun --nproc-per-node N -m maskwise train or accelerate launch, or add --run.device cpu"
        )
    return accelerator


def is_main_process() -> bool:
    """Return whether this is the main process, the one that writes files."""
    return int(os.environ.get("RANK", "0")) == 0


def require_single_process() -> None:
    """Refuse to run as one of several processes.

    Raises:
        SettingsError: there are several processes.
    """
    if world_size() > 1:
        raise SettingsError(
            f"this command runs in one process, but was started in {world_size()} (WORLD_SIZE); start it without"
            " torchrun or accelerate launch"
        )


@contextmanager
def explain_lost_processes(accelerator: accelerate.Accelerator) -> Iterator[None]:
    """Turn errors in the block that come from the end of another process into one clear error.

    Raises:
        MaskwiseError: another process has ended, or has not answered for `STEP_TIMEOUT`.
    """
    try:
        yield
    except RuntimeError as error:  # gloo's errors have no type of their own.
        if accelerator.num_processes == 1 or not (isinstance(error, DistError) or "/gloo/" in str(error)):
            raise
        raise MaskwiseError(
            "another process of the run has ended, or does not answer; its own output says why. Start the run again: it"
            " resumes from its last checkpoint"
        ) from error


@contextmanager
def main_process_first(accelerator: accelerate.Accelerator) -> Iterator[None]:
    """Run the block in the main process first, then in the others, however long it takes.

    accelerate has the same, but waits no longer than the timeout of a step.
    """
    if accelerator.num_processes == 1:
        yield
        return
    group = torch.distributed.new_group(backend="gloo", timeout=MAIN_PROCESS_TIMEOUT)
    assert isinstance(group, torch.distributed.ProcessGroup)  # Not the mark of a process outside the group.
    if not accelerator.is_main_process:
        torch.distributed.barrier(group)
    yield
    if accelerator.is_main_process:
        torch.distributed.barrier(group)


def check_same_on_all(values: dict[str, Any]) -> None:
    """Refuse to train if the processes do not start from the same state.

    Args:
        values: what must be equal, keyed by its name in the error.

    Raises:
        SettingsError: a value differs between processes; every process raises it.
    """
    by_process = gather_object([values])
    for name, value in by_process[0].items():
        values_of_name = [others[name] for others in by_process]
        if any(other != value for other in values_of_name):
            raise SettingsError(
                f"the processes differ in {name}: {', '.join(map(str, values_of_name))}; all machines need the same"
                " recipe and data, and a shared run folder"
            )


class DDPWrapper:
    """A network whose gradients are averaged over all processes (DistributedDataParallel, DDP).

    DDP notes which parameters are trained when it is made, and waits for exactly their gradients. This class makes a
    new DDP whenever they change, so gradients of frozen parameters are never sent.
    """

    def __init__(self, network: nn.Module, accelerator: accelerate.Accelerator) -> None:
        """Wrap a network. Every parameter that requires a gradient must get one in every step.

        Args:
            network: on the accelerator's device.
            accelerator: of this process.
        """
        self.network = network
        self.accelerator = accelerator
        self._wrapped = network
        self._trained: list[bool] = []

    def __call__(self, *inputs: Tensor | None) -> Any:
        """Return the network's outputs."""
        trained = [parameter.requires_grad for parameter in self.network.parameters()]
        if self.accelerator.num_processes > 1 and trained != self._trained:
            device = self.accelerator.device
            self._wrapped = DistributedDataParallel(self.network, device_ids=None if device.type == "cpu" else [device])
            self._trained = trained
        return self._wrapped(*inputs)


def unused_parameters(network: nn.Module, *inputs: Tensor) -> list[str]:
    """Return the names of parameters that no output depends on, such as a norm before a trunk's own classifier.

    Args:
        network: returns one tensor or a tuple of tensors.
        *inputs: of the network.
    """
    outputs = network(*inputs)
    total = torch.stack([o.sum() for o in (outputs if isinstance(outputs, tuple) else (outputs,))]).sum()
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]


def mean_over_processes(values: dict[str, Tensor], accelerator: accelerate.Accelerator) -> dict[str, float]:
    """Return the mean of each number (scalar tensors) over the processes; all processes must call this."""
    means = accelerator.reduce(torch.stack([value.float() for value in values.values()]), reduction="mean")
    return dict(zip(values, means.tolist(), strict=True))
