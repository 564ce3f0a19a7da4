"""Make shards with Ray Data: numbers of blocks go to workers, and what the manifest says of each shard comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from maskwise.tasks.block_labeller import ShardWork, label_block
from maskwise.tasks.ray_pool import answers_of_workers
from maskwise.tasks.shard_files import Shard


def label_blocks_with_ray(work: ShardWork) -> Iterator[tuple[Shard, bool]]:
    """Make the shards of all blocks, in any order; yields each with whether it was made now.

    Raises:
        MissingExtraError: Ray is not installed.
        MaskwiseError: what a worker raised.
    """
    count, predictor = len(work.blocks), work.predictor
    answers = answers_of_workers(
        work, _label, count=count, batch=1, blocks=count, threads=predictor.threads, device=predictor.device
    )
    for text in answers:
        answer = json.loads(text)
        yield Shard(**answer["shard"]), answer["now"]


def _label(work: ShardWork, blocks: list[int]) -> list[str]:
    made = (label_block(work, block) for block in blocks)
    return [json.dumps({"shard": asdict(shard), "now": now}) for shard, now in made]
