"""Make shards on a cluster of two machines in one, and let a worker and a machine die; writes what was read when.

A process of its own: Ray leaves threads and warnings behind.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from maskwise import Predictor, label_shards
from maskwise.tasks import sharded_labelling

SLOW_S = 3.0


class SlowBlocks:
    """Blocks that note who reads them, and take their time at first."""

    def __init__(self, blocks, log):
        self.blocks, self.log = blocks, log
        self.categories, self.size, self.key = blocks.categories, blocks.size, blocks.key

    def __len__(self):
        return len(self.blocks)

    def read(self, block):
        first = all(one[0] != block for one in read(self.log))
        with open(self.log, "a") as file:
            node = ray.get_runtime_context().get_node_id()
            file.write(json.dumps([block, os.getpid(), node, time.time() if first else 0]) + "\n")
        if first:
            time.sleep(SLOW_S)
        yield from self.blocks.read(block)


def read(log):
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def main(images, segments, folder, model):
    log = Path(folder, "log")
    quick = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": quick}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    other = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    making = sharded_labelling.blocks_of
    sharded_labelling.blocks_of = lambda *args, **more: SlowBlocks(making(*args, **more), log)
    killed = []

    def begun(on_other):
        """Wait until a block is begun on the other machine, or on the first; it lasts for a while yet."""
        while True:
            for block, pid, node, when in read(log):
                if (node == other.node_id) == on_other and time.time() - when < SLOW_S / 2:  # A first time.
                    return block, pid
            time.sleep(0.02)

    def kill():
        block, pid = begun(on_other=False)
        os.kill(pid, signal.SIGKILL)
        killed.append(["worker", block])
        block, _ = begun(on_other=True)
        cluster.remove_node(other, allow_graceful=False)
        killed.append(["machine", block])

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    args = (f"file://{images}", segments, f"{folder}/ray", Predictor(model, threads=1))
    more = {"engine": "ray", "shard_images": 2}
    first = label_shards(*args, **more)
    killer.join(5)
    done = [one[0] for one in read(log)]
    shard = sorted(Path(folder, "ray").glob("part-*"))[2]
    content = shard.read_bytes()
    shard.unlink()
    log.unlink()
    second = label_shards(*args, **more)
    assert shard.read_bytes() == content
    again = [one[0] for one in read(log)]
    said = {"killed": killed, "read": done, "again": again, "now": [first.shards_now, second.shards_now]}
    Path(folder, "said.json").write_text(json.dumps(said))  # Not printed: Ray prints too.
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
