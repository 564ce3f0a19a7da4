"""Start training runs as separate processes, to kill them or to run several; torch is loaded only once."""

import errno
import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import torch
from safetensors.torch import save

from maskwise.cli import main
from maskwise.training import checkpoint
from maskwise.training.settings import TrainSettings, settings_to_dict

CONTEXT = multiprocessing.get_context("forkserver")  # Not fork: threads do not survive it.
CONTEXT.set_forkserver_preload(["maskwise.training.loop", "maskwise.training.exporting", "children"])


def write_recipe(settings: TrainSettings, path: Path) -> Path:
    """Write a recipe that gives these settings; return its path."""
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in settings_to_dict(settings).items()))
    return path


def _toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


class Child:
    """`maskwise train` as a separate process."""

    def __init__(self, recipe: Path, folder: Path, hook=None, environment=None):
        self.reached = CONTEXT.Event()
        self.errors = recipe.parent / f"stderr-{folder.name}-{(environment or {}).get('RANK', 0)}.txt"
        args = (recipe, folder, self.errors, hook, self.reached, environment or {})
        self.process = CONTEXT.Process(target=_train, args=args)
        self.process.start()

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def end(self, timeout_s=120):
        """Wait for the process; return the exit code and the text on stderr."""
        self.process.join(timeout_s)
        if self.process.is_alive():
            self.kill()
            raise TimeoutError(f"still running after {timeout_s} s")
        return self.process.exitcode, self.errors.read_text()


def _train(recipe, folder, errors, hook, reached, environment):
    os.environ.update(environment)
    torch.set_num_threads(1)
    with open(errors, "w", buffering=1) as file:
        sys.stderr = file
        if hook:
            hook(reached)
        sys.exit(main.run(["train", str(recipe), "-o", str(folder)]))


def start_several(recipe, folders, hooks=None):
    """Start the processes of one distributed run, with the environment that torchrun would give them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = str(len(folders))
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common["CUDA_VISIBLE_DEVICES"] = ""
    return [
        Child(recipe, folder, (hooks or {}).get(rank), common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, folder in enumerate(folders)
    ]


class StopInTheMiddleOfWrite:
    """Write half of the n-th file of tensors (from 1), then signal and wait to be killed."""

    def __init__(self, number):
        self.number = number

    def __call__(self, reached):
        count = 0

        def half(tensors, path, metadata):
            nonlocal count
            count += 1
            content = save(tensors, metadata)
            if count < self.number:
                path.write_bytes(content)
                return
            with open(path, "wb", buffering=0) as file:
                file.write(content[: len(content) // 2])
                reached.set()
                signal.pause()

        checkpoint.save_file = half


class FullDisk:
    """From the n-th file of tensors on, limit files to a few kilobytes: the kernel refuses the write."""

    def __init__(self, number):
        self.number = number

    def __call__(self, _reached):
        really, count = checkpoint.save_file, 0

        def limited(*args, **more):
            nonlocal count
            count += 1
            if count >= self.number:
                resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
            really(*args, **more)

        checkpoint.save_file = limited


def full_log(_reached):
    """Make the log's disk full from its third record on."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    really, count = RecordWriter.write, 0

    def full(*args, **more):
        nonlocal count
        count += 1
        if count > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really(*args, **more)

    RecordWriter.write = full
