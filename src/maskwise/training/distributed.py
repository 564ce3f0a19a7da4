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

TIMEOUT = timedelta(minutes=30)
"""Longest that a process waits for the others in a step: as long as the main one may take to write a checkpoint."""
PATIENCE = timedelta(days=7)
"""Longest that the others wait while the main process does alone what may take hours; a process that ends is noticed
at once."""


def world_size() -> int:
    """Number of processes that the run was started with.

    Raises:
        SettingsError: WORLD_SIZE is not a number.
    """
    text = os.environ.get("WORLD_SIZE") or "1"
    if not text.isdecimal() or text == "0":
        raise SettingsError(f"the environment's WORLD_SIZE is {text!r}; torchrun sets it to the number of processes")
    return int(text)


def make_accelerator(device: str, *, bf16: bool) -> accelerate.Accelerator:
    """The accelerator of this process; it has joined the others when it is given.

    Args:
        device: `RunSettings.device`.
        bf16: compute in bfloat16.

    Raises:
        SettingsError: there are more processes than GPUs on this machine, or they do not find each other.
    """
    several = world_size() > 1
    on_cpu = device == "cpu" or (several and not torch.accelerator.is_available())  # Else each would train alone.
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if not on_cpu and torch.cuda.is_available() and here > gpus:
        raise SettingsError(
            f"{here} processes on a machine of {gpus} GPU; start one for each GPU, or add --run.device cpu"
        )
    accelerator = accelerate.Accelerator(
        mixed_precision="bf16" if bf16 else "no",
        cpu=on_cpu,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )
    if accelerator.num_processes != world_size():
        raise SettingsError(
            f"WORLD_SIZE is {world_size()}, but {accelerator.num_processes} processes have met; start them with"
            " torchrun --nproc-per-node N -m maskwise train or accelerate launch, or add --run.device cpu"
        )
    return accelerator


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def refuse_several() -> None:
    """Refuse to go on as one of several processes.

    Raises:
        SettingsError: there are several.
    """
    if world_size() > 1:
        raise SettingsError(
            f"this command runs in one process and was started in {world_size()} (WORLD_SIZE); start it without"
            " torchrun or accelerate launch"
        )


@contextmanager
def others_may_end(accelerator: accelerate.Accelerator) -> Iterator[None]:
    """What breaks in the block because another process has ended, told as that.

    Raises:
        MaskwiseError: another process has ended, or has not answered for `TIMEOUT`.
    """
    try:
        yield
    except RuntimeError as error:  # gloo's have no type of their own.
        if accelerator.num_processes == 1 or not (isinstance(error, DistError) or "/gloo/" in str(error)):
            raise
        raise MaskwiseError(
            "another process of the run has ended, or does not answer; what it said tells why. Started again, the run"
            " goes on from its last checkpoint"
        ) from error


@contextmanager
def main_process_first(accelerator: accelerate.Accelerator) -> Iterator[None]:
    """The main process goes through the block alone, then the others, however long it takes.

    accelerate's own waits no longer than the steps' timeout.
    """
    if accelerator.num_processes == 1:
        yield
        return
    group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    if not accelerator.is_main_process:
        torch.distributed.barrier(group)
    yield
    if accelerator.is_main_process:
        torch.distributed.barrier(group)


def check_same(values: dict[str, Any]) -> None:
    """Refuse processes that do not start from the same.

    Args:
        values: what must be the same, by what the message calls it.

    Raises:
        SettingsError: a value differs between processes; every process raises it.
    """
    everywhere = gather_object([values])
    for name, value in everywhere[0].items():
        found = [others[name] for others in everywhere]
        if any(other != value for other in found):
            raise SettingsError(
                f"the processes differ in {name}: {', '.join(map(str, found))}; all machines need the same recipe and"
                " data, and a run folder that they share"
            )


class Together:
    """A network that every process has, and whose gradients become their mean over the processes.

    DistributedDataParallel takes stock of what learns when it is made, and waits for just these gradients. So a new one
    is made whenever that changes, and what does not learn is not sent around.
    """

    def __init__(self, network: nn.Module, accelerator: accelerate.Accelerator) -> None:
        """Wrap a network; all of its parameters that require a gradient must get one in every step.

        Args:
            network: on the accelerator's device.
            accelerator: of this process.
        """
        self.network = network
        self.accelerator = accelerator
        self._wrapped = network
        self._learning: list[bool] = []

    def __call__(self, *inputs: Tensor) -> Any:
        """What the network gives."""
        learning = [parameter.requires_grad for parameter in self.network.parameters()]
        if self.accelerator.num_processes > 1 and learning != self._learning:
            device = self.accelerator.device
            self._wrapped = DistributedDataParallel(self.network, device_ids=None if device.type == "cpu" else [device])
            self._learning = learning
        return self._wrapped(*inputs)


def idle_parameters(network: nn.Module, *inputs: Tensor) -> list[str]:
    """Names of the parameters that no output depends on, such as a norm that a trunk has for its own classifier.

    Args:
        network: gives a tensor or several.
        *inputs: what it takes.
    """
    outputs = network(*inputs)
    total = sum(output.sum() for output in (outputs if isinstance(outputs, tuple) else (outputs,)))
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]


def mean_over_processes(values: dict[str, Tensor], accelerator: accelerate.Accelerator) -> dict[str, float]:
    """The mean of each number (scalar tensors) over the processes; to be called by all."""
    means = accelerator.reduce(torch.stack([value.float() for value in values.values()]), reduction="mean")
    return dict(zip(values, means.tolist(), strict=True))
