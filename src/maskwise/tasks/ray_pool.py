"""A pool of workers of Ray Data that answer numbered questions, each of which keeps the model open."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from maskwise import errors
from maskwise.errors import MaskwiseError
from maskwise.extras import needs_extra

Work = TypeVar("Work")


def answers_of_workers(
    work: Work,
    answer: Callable[[Work, list[int]], list[str]],
    *,
    count: int,
    batch: int,
    blocks: int | None,
    threads: int | None,
    device: str,
) -> Iterator[str]:
    """Yield the answers to the questions 0, 1, ... `count` - 1, in any order.

    Workers get numbers and return text: images and results pass through the driver only as far as an answer has them.
    Ray starts a dead worker again and repeats its batch.

    Args:
        work: what every worker needs, such as the model; each gets it once.
        answer: answers a batch of questions. It runs in the workers; a `MaskwiseError` is raised here.
        count: number of questions.
        batch: questions at a time: what is done twice when a worker dies.
        blocks: pieces that Ray Data deals out; None: as it likes.
        threads: CPU threads of each worker; None for one.
        device: `cpu`, or `cuda` for a GPU per worker.

    Raises:
        MissingExtraError: Ray is not installed.
        MaskwiseError: what a worker raised, or Ray could not go on.
    """
    data = start_ray()
    import ray

    shared = ray.put(work)

    class Worker:
        def __init__(self) -> None:
            self.work: Work = ray.get(shared)

        def __call__(self, questions: dict[str, Any]) -> dict[str, Any]:
            try:
                return {"answer": answer(self.work, [int(number) for number in questions["number"]])}
            except MaskwiseError as error:  # Raised in the driver: Ray would wrap it, and print its trace.
                return {"answer": [_as_text(error)]}

    # Not ray.data.range: its tasks would wait for a core for ever, for the workers have them all.
    numbers = data.from_items([{"number": number} for number in range(count)], override_num_blocks=blocks)
    answers = numbers.map_batches(Worker, batch_size=batch, **pool(threads, device))
    with _naming_ray():
        for row in answers.iter_rows():
            _raise_text(row["answer"])
            yield row["answer"]


def start_ray() -> Any:
    """Return `ray.data`; Ray is started, or joined where `RAY_ADDRESS` names a cluster.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    with needs_extra("ray"):
        import ray
        import ray.data
    if not ray.is_initialized():
        # It would warn that workers cannot start again if the work that they share is lost: the driver holds it.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data


def pool(threads: int | None, device: str) -> dict[str, Any]:
    """Return the arguments of `map_batches` that say how many workers there are and what each of them needs.

    As many workers start as the cluster has room for; more come when it grows, and one is enough to go on.

    Args:
        threads: CPU threads of each worker; None for one.
        device: `cpu`, or `cuda` for a GPU per worker.
    """
    import ray

    needs = {"num_cpus": threads or 1}
    room = [ray.cluster_resources().get("CPU", 1) // needs["num_cpus"]]  # type: ignore[no-untyped-call]
    if device == "cuda":
        needs["num_gpus"] = 1
        room.append(ray.cluster_resources().get("GPU", 1))  # type: ignore[no-untyped-call]
    size = max(int(min(room)), 1)
    return {"compute": ray.data.ActorPoolStrategy(min_size=1, initial_size=size, max_size=size), **needs}


@contextmanager
def _naming_ray() -> Iterator[None]:
    """Turn Ray's errors into one line.

    Raises:
        MaskwiseError: Ray could not go on.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise MaskwiseError(f"Ray ended the run ({reason}); what is done is kept: repeat the command") from error


def _as_text(error: MaskwiseError) -> str:
    """Return an error as JSON, so that a worker can hand it to the driver."""
    return json.dumps({"error": type(error).__name__, "message": str(error)})


def _raise_text(answer: str) -> None:
    """Raise the error that a worker handed over, if the answer is one.

    Raises:
        MaskwiseError: of the class that the worker met.
    """
    if answer.startswith('{"error"'):
        fields = json.loads(answer)
        raise getattr(errors, fields["error"])(fields["message"])
