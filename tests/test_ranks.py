"""Trials on several GPUs, on a Ray that counts GPUs where there are none: each process then trains on the CPU."""

import subprocess
import sys

import pytest
import ray
from ray.exceptions import RayTaskError

from gantune.driver.ranks import ranks
from gantune.driver.trainable import fault_of
from gantune.errors import DataError
from gantune.packing import Share
from gantune.run import Run
from gantune.space import load_trial

SEARCH = """
import sys
from pathlib import Path
import ray
import gantune
from gantune.driver.parallel import train_parallel
from gantune.space import load_trial

ray.init("local", num_cpus=4, num_gpus=4, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
run = gantune.search("space.yaml", runs="runs")
again = []
config = load_trial(run.trial_folder(0) / "config.yaml")
train_parallel(config, run.reference_path, Path("again"), 2, "cpu", again.append)
print(*(progress.score for progress in again))
ray.shutdown()
"""
SPACE = """
version: 1
name: wide
data: {dataset: digits, size: 8}
objective: {samples: {report: 256, final: 256}, reports: 3}
budget: {trials: 4, samples_per_trial: 960}
search: {scheduler: {asha: {first_rung: 0.3, reduction: 2, spared: 0}}}
resources: {gpus_per_trial: 2, cpus_per_trial: 2}
collapse: {enabled: false}
space: {architecture: {mlp: {hidden: [16, 32]}}, loss: hinge, optimizer: adam, lr_g: log 1e-4..1e-2, batch_size: 32}
"""


def test_a_search_trains_each_trial_on_two_gpus_as_two_processes_would(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    done = subprocess.run(
        [sys.executable, "-c", SEARCH], cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run(tmp_path / "runs" / "wide")
    assert sorted(trial.state for trial in run.trials())[0] == "finished"
    assert {trial.state for trial in run.trials()} <= {"finished", "pruned"}
    rows = [row for row in run.results.rows() if row.trial == 0 and row.state != "pruned"]
    scores = [float(word) for word in done.stdout.split()[-3:]]
    assert [row.score for row in rows] == scores[: len(rows)]  # bit for bit
    assert load_trial(run.trial_folder(0) / "config.yaml").batch_size == 32
    assert all(row.place.count("gpu") == 1 for row in rows)
    assert "torch sees none" in done.stderr


def test_one_process_is_a_world_of_its_own():
    with ranks(1, None, {}) as world:
        assert (world.rank, world.size, world.leads) == (0, 1, True)


def test_a_trial_of_several_gpus_reserves_each_with_its_part_of_the_cpus():
    assert Share(cpus=2, gpus=4).bundles() == [{"CPU": 0.5, "GPU": 1.0}] * 4
    assert Share(cpus=8, gpus=4).threads == 2
    assert Share(cpus=1, gpus=0.25).bundles() == [{"CPU": 1, "GPU": 0.25}]
    assert Share(cpus=1, gpus=0.25).bundles(alone=True) == [{"CPU": 1, "GPU": 1.0}]
    assert Share(cpus=1, gpus=0).bundles(alone=True) == [{"CPU": 1, "GPU": 0}]
    a100 = Share(cpus=1, gpus=2, accelerator="A100")
    assert a100.bundles() == [{"CPU": 0.5, "GPU": 1.0, "accelerator_type:A100": 0.001}] * 2
    assert a100.wanted == {"CPU": 1, "GPU": 2, "accelerator_type:A100": 0.001}


def test_what_another_process_failed_of_is_what_the_trial_failed_of(monkeypatch):
    def failed(reference):
        raise RayTaskError("train", "traceback", DataError("pictures/: is not there"))

    monkeypatch.setattr(ray, "wait", lambda refs, **options: (refs, []))
    monkeypatch.setattr(ray, "get", failed)
    from gantune.driver.ranks import _cause

    found = _cause([object()])
    assert str(found) == "pictures/: is not there"
    assert fault_of(found) == "machine"
    monkeypatch.setattr(ray, "wait", lambda refs, **options: ([], refs))
    assert _cause([object()]) is None


@pytest.mark.parametrize("type_of_gpu", ["A100", None])
def test_a_type_of_gpu_that_no_machine_has_is_refused_with_those_there_are(monkeypatch, type_of_gpu):
    from gantune.driver.room import check_room
    from gantune.errors import RunError

    node = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0, "accelerator_type:T4": 1.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    share = Share(cpus=1, gpus=1, accelerator=type_of_gpu)
    if type_of_gpu is None:
        check_room(share)
        return
    with pytest.raises(RunError, match=r"no machine has a GPU of type A100; resources\.accelerator_type may be T4"):
        check_room(share)
