"""How many trials share a machine: GPUs by measured memory, CPUs by what pays."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import jsonschema
import pytest
import torch

from gantune import pace
from gantune.building import build_networks
from gantune.data.data_set import open_data
from gantune.driver import sharing
from gantune.driver.ledger import Ledger
from gantune.driver.study import Study
from gantune.errors import SpecError
from gantune.packing import FILLED, Memory, Share, best_threads, examples, largest, measure_threads, part
from gantune.progress import Progress
from gantune.run import Run
from gantune.schema import schema
from gantune.space import load_space
from gantune.survey import Machine

GB = 10**9
SPACE = {
    "version": 1,
    "name": "tiny",
    "data": {"dataset": "digits", "size": 8},
    "objective": {"metric": "kid", "samples": {"report": 64, "final": 64}, "reports": 2},
    "collapse": {"enabled": False},
    "budget": {"trials": 8, "samples_per_trial": 600},
    "search": {"scheduler": "none"},
    "resources": {"cpus_per_trial": "auto", "gpus_per_trial": "auto"},
    "space": {
        "architecture": {"mlp": {"hidden": [8, 16, 64], "depth": 1, "z_dim": 4}},
        "loss": "hinge",
        "optimizer": "adam",
        "lr_g": "log 1e-4..1e-2",
        "batch_size": [8, 32, 256],
    },
}


# Reading


def test_auto_is_read_written_back_and_known_to_the_schema():
    space = load_space(SPACE)
    assert (space.resources.cpus_per_trial, space.resources.gpus_per_trial) == ("auto", "auto")
    assert load_space(space.document()) == space
    jsonschema.validate(SPACE, schema())


@pytest.mark.parametrize("name", ["cpus_per_trial", "gpus_per_trial"])
@pytest.mark.parametrize("value", ["all", "1", -1, True])
def test_what_is_neither_a_number_nor_auto_is_a_mistake(name, value):
    with pytest.raises(SpecError, match=r"expected a number .*, or auto"):
        load_space({**SPACE, "resources": {name: value}})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**SPACE, "resources": {name: value}}, schema())


def test_auto_is_a_number_nowhere_else():
    with pytest.raises(SpecError, match="expected a whole number"):
        load_space({**SPACE, "budget": {"trials": "auto"}})


# Threads


@pytest.mark.parametrize(
    ("seconds", "cpus", "trials", "expected"),
    [
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, 8, 100, 1),  # threads bring nothing
        ({1: 1.0, 2: 0.5, 4: 0.25, 8: 0.125}, 8, 100, 1),  # as much in all either way: the fewest
        ({1: 1.0, 2: 0.49, 4: 0.25, 8: 0.125}, 8, 100, 1),  # a little more is noise
        ({1: 1.0, 2: 0.4, 4: 0.25, 8: 0.2}, 8, 100, 2),
        ({1: 1.0, 2: 0.6, 4: 0.4, 8: 0.3}, 8, 1, 8),  # one trial has the machine to itself
        ({1: 1.0, 2: 0.6, 4: 0.4, 8: 0.6}, 8, 2, 4),
        ({1: 1.0, 2: 0.6, 4: 0.4}, 6, 1, 4),
        ({1: 1.0}, 1, 5, 1),
    ],
)
def test_the_count_of_threads_is_that_by_which_the_machine_gets_most_done(seconds, cpus, trials, expected):
    assert best_threads(seconds.__getitem__, cpus, trials) == expected


def test_threads_are_timed_on_real_configurations_and_left_as_they_were(monkeypatch):
    monkeypatch.setattr(pace, "TIMED_SECONDS", 0.001)
    space, before = load_space(SPACE), torch.get_num_threads()
    assert measure_threads(space, open_data(space.data), 2) in (1, 2)
    assert torch.get_num_threads() == before


# Memory


@pytest.mark.parametrize("needed", [1, GB // 3, 7 * GB, 22 * GB, 36 * GB, 37 * GB, 79 * GB, 200 * GB])
def test_trials_that_share_a_gpu_fit_its_memory_and_one_always_may(needed):
    memory = Memory(needed=needed, room=80 * GB, total=80 * GB)
    assert memory.trials == 1 or memory.trials * needed <= FILLED * memory.room
    assert (memory.trials + 1) * needed > FILLED * memory.room
    assert part(memory.trials) * memory.trials <= 1
    assert part(memory.trials) * (memory.trials + 1) > 1 or memory.trials >= 100


def test_a_third_of_a_gpu_is_what_ray_can_count():
    assert [part(trials) for trials in (1, 2, 3, 7)] == [1.0, 0.5, 0.3333, 0.1428]


def test_the_largest_configurations_are_measured():
    space = load_space(SPACE)
    shape = open_data(space.data).shape
    found = examples(space, 24)
    chosen = largest(found, shape)

    def weights(config):
        networks = build_networks(config.architecture, shape, seed=0)
        return sum(value.numel() for net in (networks.generator, networks.discriminator) for value in net.parameters())

    assert max(map(weights, found)) == max(map(weights, chosen))
    assert max(weights(config) * config.batch_size for config in found) == max(
        weights(config) * config.batch_size for config in chosen
    )
    assert 1 <= len(chosen) <= 4


def test_the_given_configurations_are_among_those_looked_at():
    baseline = {"architecture": {"mlp": {"hidden": 8}}, "lr_g": 0.00123, "batch_size": 8}
    space = load_space({**SPACE, "baseline": baseline})
    assert examples(space, 3)[0].lr_g == 0.00123
    assert len(examples(space, 3)) == 3


# Settling


@pytest.fixture
def run(tmp_path):
    found = Run(tmp_path / "tiny")
    found.folder.mkdir()
    return found


def settled(run, monkeypatch, gpus=0, measured=(), threads=2, **resources):
    space = load_space({**SPACE, "resources": {**SPACE["resources"], **resources}})
    run.begin(space)
    said = []
    monkeypatch.setattr(sharing.ray, "cluster_resources", lambda: {"CPU": 16, "GPU": gpus})
    monkeypatch.setattr(sharing, "_measured", lambda space, run, images: measured)
    monkeypatch.setattr(sharing, "measure_threads", lambda space, images, cpus: threads)
    monkeypatch.setattr(sharing, "look_at_machine", lambda: Machine(cpus=16, free=0))
    return sharing.settle(space, run, SimpleNamespace(), said.append), said


def test_as_many_trials_share_a_gpu_as_fit_the_smallest(run, monkeypatch):
    needed = int(22.1 * GB)
    both = [Memory(needed=needed, room=total, total=total) for total in (200 * GB, 80 * GB)]
    share, said = settled(run, monkeypatch, gpus=4, measured=both)
    assert share == Share(cpus=1.0, gpus=0.3333)
    assert said[-1] == "3 trials a GPU: the largest measured needs 22.1 GB of 80"
    assert run.manifest()["sessions"][-1]["resources"] == {"cpus_per_trial": 1.0, "gpus_per_trial": 0.3333}


def test_without_a_gpu_auto_is_none_and_threads_are_timed_once_a_run(run, monkeypatch):
    share, said = settled(run, monkeypatch)
    assert (share, share.threads) == (Share(cpus=2.0, gpus=0.0), 2)
    assert said[-1] == "2 threads a trial: so this machine with 16 CPUs gets most done"
    share, said = settled(run, monkeypatch, threads=8)
    assert share.cpus == 2.0
    assert said == ["2 threads a trial, as before: a trial's numbers depend on it"]
    assert run.resources() == {"cpus_per_trial": 2.0, "gpus_per_trial": 0.0}


def test_what_is_given_is_taken_and_nothing_is_measured(run, monkeypatch):
    assert settled(run, monkeypatch, gpus=4, cpus_per_trial=3, gpus_per_trial=0.5) == (Share(cpus=3.0, gpus=0.5), [])


@pytest.mark.parametrize(("gpus", "expected"), [(0, 0.0), (2, 1.0)])
def test_where_nothing_is_said_a_trial_takes_a_gpu_if_there_is_one(run, monkeypatch, gpus, expected):
    share, said = settled(run, monkeypatch, gpus=gpus, cpus_per_trial=1, gpus_per_trial=None)
    assert (share.gpus, said) == (expected, [])


def test_gpu_hours_count_the_share_of_a_gpu_that_is_settled_and_the_next_session_begins_with_it(run, monkeypatch):
    share, _ = settled(run, monkeypatch, gpus=1, measured=[Memory(needed=40 * GB, room=90 * GB, total=90 * GB)])
    assert share.gpus == 0.5
    space = load_space(SPACE, ["budget.gpu_hours=1"])

    def opened():
        return Ledger(run, space, Study(run.study_path, space, 500.0))

    ledger = opened()
    ledger.occupy(share.gpus)
    ledger.next()
    ledger.record(0, Progress(samples_seen=600, score=1.0, best_score=1.0, metrics={}, seconds=7100.0), stopped=True)
    assert ledger.out_of_budget() == ""
    ledger.next()
    ledger.record(1, Progress(samples_seen=600, score=1.0, best_score=1.0, metrics={}, seconds=200.0), stopped=True)
    assert "budget.gpu_hours is used up: 1.014 of 1" in ledger.out_of_budget()
    assert opened().out_of_budget() == ledger.out_of_budget()


def test_a_forecast_counts_auto_as_if_nothing_were_said():
    auto, none = load_space(SPACE).resources, load_space({**SPACE, "resources": {}}).resources
    for machine in (Machine(cpus=4, free=0), Machine(cpus=16, gpus=2, gpu="Example GPU", free=0)):
        assert machine.at_once(auto) == machine.at_once(none)


def test_a_search_settles_its_own_share_and_notes_it(tmp_path):
    (tmp_path / "space.json").write_text(json.dumps({**SPACE, "budget": {"trials": 1, "samples_per_trial": 600}}))
    text = "import gantune; gantune.search('space.json', overrides=['resources.gpus_per_trial=0'])"
    done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+ threads? a trial: so this machine with \d+ CPUs gets most done$", done.stderr, re.M)
    (session,) = Run(tmp_path / "runs" / "tiny").manifest()["sessions"]
    assert session["resources"]["cpus_per_trial"] >= 1
    assert session["resources"]["gpus_per_trial"] == 0
