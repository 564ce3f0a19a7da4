"""Make shards with Ray Data: blocks flow to a pool of workers, each of which keeps the model open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from maskwise.errors import MaskwiseError
from maskwise.tasks.block_labeller import ShardWork, label_block
from maskwise.tasks.ray_pool import as_text, naming_ray, pool, raise_text, start_ray
from maskwise.tasks.shard_files import Shard


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
                return as_text(error)
            return json.dumps({"shard": asdict(shard), "now": now})

    count = len(work.blocks)
    # Not ray.data.range: its tasks would wait for a core for ever, for the workers have them all.
    numbers = data.from_items([{"block": block} for block in range(count)], override_num_blocks=count)
    answers = numbers.map_batches(Worker, batch_size=1, **pool(work.predictor.threads, work.predictor.device))
    with naming_ray():
        for row in answers.iter_rows():
            raise_text(row["answer"])
            answer = json.loads(row["answer"])
            yield Shard(**answer["shard"]), answer["now"]
