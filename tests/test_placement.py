"""Where trials run: fractions of pretended GPUs on Ray's own cluster of several nodes in one machine."""

import pickle
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from gantune.config import DataConfig
from gantune.data.data_set import open_data
from gantune.domains import FixedDraw
from gantune.driver import trainable
from gantune.driver.sharing import shipped
from gantune.metrics.reference_file import prepare_reference
from gantune.run import Run
from gantune.space import load_space

SEARCH = """
import ray
from ray.cluster_utils import Cluster
import gantune

small = {"object_store_memory": 100_000_000}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
for _ in range(2):
    cluster.add_node(num_cpus=2, num_gpus=2, **small)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
gantune.search("space.yaml", runs="runs")
ray.shutdown()
cluster.shutdown()
"""
SPACE = """
version: 1
name: shared
data: {dataset: digits, size: 8}
objective: {samples: {report: 256, final: 256}, reports: 4}
budget: {trials: 16, samples_per_trial: 2400}
search: {scheduler: none, sampler: random}
resources: {gpus_per_trial: 0.5}
collapse: {enabled: false}
space: {architecture: mlp, loss: hinge, optimizer: adam, lr_g: log 1e-4..1e-2, batch_size: 32}
"""


def test_sixteen_trials_share_the_gpus_of_two_nodes_and_none_is_promised_twice(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    done = subprocess.run(
        [sys.executable, "-c", SEARCH], cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run(tmp_path / "runs" / "shared")
    assert [trial.state for trial in run.trials()] == ["finished"] * 16
    stays = defaultdict(list)  # by GPU, from a trial's first report to its last
    for number in range(16):
        rows = [row for row in run.results.rows() if row.trial == number]
        (place,) = {row.place for row in rows}
        address, node, gpu = place.split()
        assert address
        assert gpu in ("gpu0", "gpu1")
        stays[node, gpu].append((rows[0].run_seconds, rows[-1].run_seconds))
    assert len({node for node, _ in stays}) == 2
    for beside in stays.values():
        at_once = [sum(start <= moment < end for start, end in beside) for moment, _ in beside]
        assert max(at_once) <= 2  # halves
    assert any(
        sum(start <= moment < end for stay in stays.values() for start, end in stay) > 1
        for stay in stays.values()
        for moment, _ in stay
    )


def test_what_a_cluster_was_sent_is_not_opened_where_it_trains(tmp_path, monkeypatch):
    (tmp_path / "space.yaml").write_text(SPACE)
    space = load_space(tmp_path / "space.yaml", ["space.lr_g=1e-3"])
    images = open_data(space.data)
    config = space.draw(FixedDraw({}), seed=0)
    reference = prepare_reference(images)
    monkeypatch.setattr(trainable, "open_data", lambda config: pytest.fail("there is no such folder here"))
    actor = trainable.GanTrainable.__new__(trainable.GanTrainable)
    wish = {
        **{"number": 0, "alone": False, "pickled": pickle.dumps(config), "folder": str(tmp_path), "place": ""},
        **{"reference": str(reference), "threads": 1, "device": "cpu", "micro_batches": 1, "processes": 1},
    }
    actor.setup(wish, images=shipped(images))
    assert actor._trial is not None
    assert next(actor._trial).samples_seen == 608  # the first of four reports, in whole batches
    actor.cleanup()


def test_pictures_that_are_mapped_from_a_file_are_sent_as_a_plain_array(tmp_path):
    images = open_data(DataConfig(dataset="digits", size=8))
    np.save(tmp_path / "examples.npy", images.examples)
    mapped = replace(images, examples=np.load(tmp_path / "examples.npy", mmap_mode="r"))
    assert type(shipped(mapped).examples) is np.ndarray
    assert np.array_equal(shipped(mapped).examples, images.examples)
    assert shipped(mapped).key == images.key
