"""What gantune relies on in Tune's own loop, and what it makes of it."""

import os
from types import SimpleNamespace

import pytest
from ray.tune.execution.tune_controller import _get_max_pending_trials
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import SearchGenerator
from test_ledger import Books

from gantune.driver import room as room_module
from gantune.driver import tune
from gantune.driver.room import Room
from gantune.driver.tune import _Asking, _pending_as_asked, _queued
from gantune.packing import Share


@pytest.fixture
def asking(tmp_path):
    books = Books(tmp_path)
    books.run.folder.mkdir(parents=True)
    return _Asking(
        books.open("budget.trials=9"), books.run, Share(cpus=1, gpus=0), SimpleNamespace(asked=False), lambda: 2
    )


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(tune.time, "monotonic", lambda: self.now)


def test_there_are_never_more_trials_than_there_is_room_for(asking):
    assert [asking.suggest(name)["number"] for name in "ab"] == [0, 1]
    assert asking.suggest("c") is None
    asking.on_trial_complete("b")
    assert asking.suggest("c")["number"] == 2
    assert asking.suggest("d") is None
    asking.on_trial_complete("a", error=True)
    assert asking.suggest("d")["number"] == 3


def test_one_trial_is_drawn_ahead_while_all_workers_train(asking):
    books = asking._books
    asking.draw_ahead()
    assert asking.suggest("a")["number"] == 0
    asking.draw_ahead()
    assert books.running == 1
    assert asking.suggest("b")["number"] == 1
    for _ in range(3):
        asking.draw_ahead()
        assert books.running == 3
    asking.on_trial_complete("a")
    assert asking.suggest("c")["number"] == 2
    assert books.running == 3


def test_all_workers_are_started_at_once(asking):
    name = "TUNE_MAX_PENDING_TRIALS_PG"
    before = os.environ.get(name)
    with _pending_as_asked():
        assert _get_max_pending_trials(SearchGenerator(asking)) > 1000
    assert os.environ.get(name) == before


def test_free_worker_takes_no_trial_for_which_another_is_being_started(asking, monkeypatch):
    clock = Clock(monkeypatch)
    asking._room = lambda: 3
    scheduler = _queued(FIFOScheduler(), asking)
    trials = [SimpleNamespace(trial_id=name, status="PENDING") for name in "abc"]
    controller = SimpleNamespace(get_live_trials=lambda: trials, get_trials=lambda: trials)
    for trial in trials:
        trial.config = asking.suggest(trial.trial_id)
        clock.now += 1
    trials[0].status = "RUNNING"
    assert scheduler.choose_trial_to_run(controller) is trials[2]
    trials[2].status = "RUNNING"
    assert scheduler.choose_trial_to_run(controller) is trials[1]


def test_trial_for_which_no_worker_ever_comes_is_not_passed_over_for_ever(asking, monkeypatch):
    clock = Clock(monkeypatch)
    waiting = [SimpleNamespace(trial_id=name) for name in "ab"]
    asking.suggest("a")
    clock.now += tune.SECONDS_TO_START + 1
    asking.suggest("b")
    assert asking.choose(waiting) is waiting[0]
    assert asking.choose(waiting[1:]) is waiting[1]


def test_scheduler_that_pauses_trials_still_brings_them_back(asking):
    paused = SimpleNamespace(trial_id="a", status="PAUSED")
    controller = SimpleNamespace(get_live_trials=lambda: {}, get_trials=lambda: [paused])
    assert _queued(FIFOScheduler(), asking).choose_trial_to_run(controller) is paused


@pytest.mark.parametrize(
    ("share", "trials"),
    [
        (Share(cpus=1, gpus=0), 12),
        (Share(cpus=3, gpus=0), 3),
        (Share(cpus=1, gpus=0.3333), 3),
        (Share(cpus=1, gpus=1), 1),
        (Share(cpus=0.1, gpus=0.1), 10),
    ],
)
def test_room_is_what_fits_on_each_machine_that_is_up(share, trials, monkeypatch):
    machines = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(room_module.ray, "nodes", lambda: machines)
    monkeypatch.setattr(room_module, "joined", lambda: False)
    assert Room(share).trials() == trials


def test_as_many_again_wait_for_a_cluster_to_grow_and_one_where_it_has_not_for_a_while(monkeypatch):
    clock, machines = Clock(monkeypatch), []
    monkeypatch.setattr(room_module.ray, "nodes", lambda: machines)
    monkeypatch.setattr(room_module, "joined", lambda: True)
    room = Room(Share(cpus=1, gpus=0.5))
    assert room.trials() == 1
    for count, trials in ((1, 4), (2, 8), (4, 16)):
        machines[:] = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}] * count
        clock.now += 300
        assert room.trials() == trials
    clock.now += 590
    assert room.trials() == 16
    clock.now += 20
    assert room.trials() == 9
