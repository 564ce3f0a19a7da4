"""Make shards with Ray Data: blocks flow to a pool of workers, each of which keeps the model open."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from maskwise import errors
from maskwise.errors import MaskwiseError
from maskwise.extras import needs_extra
from maskwise.tasks.block_labeller import ShardWork, label_block
from maskwise.tasks.shard_files import Shard


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


def pool(work_threads: int | None, device: str) -> dict[str, Any]:
    """Return the arguments of `map_batches` that say how many workers there are and what each of them needs.

    As many workers start as the cluster has room for; more come when it grows, and one is enough to go on.

    Args:
        work_threads: CPU threads of each worker; None for one.
        device: `cpu`, or `cuda` for a GPU per worker.
    """
    import ray

    needs = {"num_cpus": work_threads or 1}
    room = [ray.cluster_resources().get("CPU", 1) // needs["num_cpus"]]  # type: ignore[no-untyped-call]
    if device == "cuda":
        needs["num_gpus"] = 1
        room.append(ray.cluster_resources().get("GPU", 1))  # type: ignore[no-untyped-call]
    size = max(int(min(room)), 1)
    return {"compute": ray.data.ActorPoolStrategy(min_size=1, initial_size=size, max_size=max(size, 1)), **needs}


def label_blocks_with_ray(work: ShardWork) -> Iterator[tuple[Shard, bool]]:
    """Make the shards of all blocks, in any order; yields each with whether it was made now.

    Workers get numbers of blocks and return what the manifest says of a shard: images and results never pass through
    the driver. Ray starts a dead worker again and repeats its block.

    Raises:
        MissingExtraError: Ray is not installed.
        MaskwiseError: what a worker raised.
    """
    data = start_ray()
    import ray

    shared = ray.put(work)

    class Worker:
        def __init__(self) -> None:
            self.work: ShardWork = ray.get(shared)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return {"answer": [self.answer(int(block)) for block in batch["block"]]}

        def answer(self, block: int) -> str:
            try:
                shard, now = label_block(self.work, block)
            except MaskwiseError as error:  # Raised in the driver: Ray would wrap it, and print its trace.
                return json.dumps({"error": type(error).__name__, "message": str(error)})
            return json.dumps({"shard": asdict(shard), "now": now})

    count = len(work.blocks)
    # Not ray.data.range: its tasks would wait for a core for ever, for the workers have them all.
    numbers = data.from_items([{"block": block} for block in range(count)], override_num_blocks=count)
    answers = numbers.map_batches(Worker, batch_size=1, **pool(work.predictor.threads, work.predictor.device))
    for row in answers.iter_rows():
        answer = json.loads(row["answer"])
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"])
        yield Shard(**answer["shard"]), answer["now"]
