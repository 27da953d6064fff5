"""Trials' processes are gone before their checkpoints are read."""

import subprocess
import sys

SLOW = """
import sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from gantune.driver.workers import Workers

@ray.remote(num_cpus=1)
class Trial:
    def train(self, path):
        while True:  # a checkpoint that is written slowly, and again and again
            with path.open("a") as file:
                file.write(".")
            time.sleep(0.01)

small = {"object_store_memory": 80_000_000}
path = Path("checkpoint")
if sys.argv[1] == "joined":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    cluster.add_node(num_cpus=1, **small)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
else:
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, **small)
trial, workers = Trial.remote(), Workers()
trial.train.remote(path.resolve())
while not path.exists():
    time.sleep(0.05)
workers.note(trial)
workers.note(trial)
workers.end()
size = path.stat().st_size
time.sleep(0.5)
assert path.stat().st_size == size, "it is written still"
print("gone")
ray.shutdown()
"""


def end_of_workers(tmp_path, ray):
    """Run the script with a Ray of its own, or a joined one."""
    done = subprocess.run(
        [sys.executable, "-c", SLOW, ray], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.stdout.strip().endswith("gone"), done.stdout + done.stderr


def test_no_worker_writes_after_its_end_in_a_ray_of_our_own(tmp_path):
    end_of_workers(tmp_path, "own")


def test_no_worker_writes_after_its_end_on_another_node_of_a_cluster(tmp_path):
    end_of_workers(tmp_path, "joined")
