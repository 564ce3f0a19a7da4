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


class SlowBlocks:
    """Blocks that note who reads them and take their time."""

    def __init__(self, blocks, log):
        self.blocks, self.log = blocks, log
        self.categories, self.size, self.key = blocks.categories, blocks.size, blocks.key

    def __len__(self):
        return len(self.blocks)

    def read(self, block):
        with open(self.log, "a") as file:
            file.write(json.dumps([block, os.getpid(), ray.get_runtime_context().get_node_id()]) + "\n")
        time.sleep(0.5)
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

    def kill():
        while not any(node != other.node_id for _, _, node in read(log)):
            time.sleep(0.05)
        block, pid, _ = next(one for one in read(log) if one[2] != other.node_id)
        os.kill(pid, signal.SIGKILL)
        killed.append(["worker", block])
        while not any(node == other.node_id for _, _, node in read(log)):
            time.sleep(0.05)
        block, _, _ = [one for one in read(log) if one[2] == other.node_id][-1]
        cluster.remove_node(other, allow_graceful=False)
        killed.append(["machine", block])

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    args = (f"file://{images}", segments, f"{folder}/ray", Predictor(model, threads=1))
    more = {"engine": "ray", "shard_images": 3}
    first = label_shards(*args, **more)
    killer.join(5)
    done = [block for block, _, _ in read(log)]
    shard = sorted(Path(folder, "ray").glob("part-*"))[2]
    content = shard.read_bytes()
    shard.unlink()
    log.unlink()
    second = label_shards(*args, **more)
    assert shard.read_bytes() == content
    again = [block for block, _, _ in read(log)]
    said = {"killed": killed, "read": done, "again": again, "now": [first.shards_now, second.shards_now]}
    Path(folder, "said.json").write_text(json.dumps(said))  # Not printed: Ray prints too.
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
