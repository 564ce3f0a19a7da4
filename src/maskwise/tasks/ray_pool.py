"""Start Ray, and say how many workers Ray Data keeps and what each of them needs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from maskwise import errors
from maskwise.errors import MaskwiseError
from maskwise.extras import needs_extra


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
def naming_ray() -> Iterator[None]:
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


def as_text(error: MaskwiseError) -> str:
    """Return an error as JSON, so that a worker can hand it to the driver."""
    return json.dumps({"error": type(error).__name__, "message": str(error)})


def raise_text(answer: str) -> None:
    """Raise the error that a worker handed over, if the answer is one.

    Raises:
        MaskwiseError: of the class that the worker met.
    """
    if answer.startswith('{"error"'):
        fields = json.loads(answer)
        raise getattr(errors, fields["error"])(fields["message"])
