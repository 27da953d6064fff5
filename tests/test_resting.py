"""Trials that are paused at a rung: who goes on, what a kill leaves, what the samplers see, who may wake them."""

import itertools
import random

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gantune.collapse import Verdict
from gantune.config import Asha, Hyperband
from gantune.driver import crew as crew_module
from gantune.driver import samplers
from gantune.driver.control import Control
from gantune.driver.crew import Crew, SharedLedger
from gantune.driver.database import Database
from gantune.driver.fronts import FrontHalving
from gantune.driver.halving import Halving
from gantune.driver.ledger import Ledger
from gantune.driver.schedulers import build_scheduler
from gantune.driver.screen import Screen
from gantune.driver.study import Study
from gantune.progress import Progress
from gantune.requests import Requests
from gantune.results import ENDED
from gantune.run import Run
from gantune.screen import overview
from gantune.space import load_space

SPACE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
budget: {trials: 12, samples_per_trial: 900}
search: {scheduler: {asha: {first_rung: 0.12, reduction: 3, spared: 0}}}
space:
  architecture: mlp
  loss: [minimax, hinge]
  optimizer: adam
  lr_g: log 1e-4..1e-2
"""
THIRDS = Asha(first_rung=0.1, reduction=3.0)


# The rule


def rule(reduction=3.0):
    return Halving(Asha(first_rung=0.1, reduction=reduction), 900)  # rungs at 90, 270, 810


def comes(halving, number, samples, score):
    return not halving.stops(number, samples, score, score)


def test_the_first_of_a_rung_and_whoever_beats_all_before_go_on_at_once():
    halving = rule()
    assert [comes(halving, number, 90, score) for number, score in enumerate([5.0, 9.0, 4.0, 4.5])] == [
        True,
        False,
        True,
        False,
    ]
    assert halving.wakes([1, 3]) is None


def test_one_that_rests_is_woken_once_enough_came_in_below_it():
    halving = rule()
    for number, score in enumerate([5.0, 9.0, 9.5, 9.6, 9.7]):
        comes(halving, number, 90, score)
    assert halving.wakes([1, 2, 3, 4]) is None
    comes(halving, 5, 90, 9.8)  # two of six are the upper third
    assert halving.wakes([2, 3, 4, 5]) is None
    assert halving.wakes([1, 2, 3, 4, 5]) == 1


def test_what_came_to_a_higher_rung_is_woken_there_or_not_at_all():
    halving = rule(reduction=2.0)
    for number, score in enumerate([1.0, 2.0, 3.0, 4.0]):
        comes(halving, number, 90, score)
    assert comes(halving, 0, 180, 1.0)
    assert not comes(halving, 1, 180, 2.0)
    assert halving.wakes([1, 2, 3]) is None  # #1 is of the upper half below, but has gone on from there
    comes(halving, 4, 180, 2.5)
    comes(halving, 5, 180, 2.6)
    assert halving.wakes([1, 2, 3, 4, 5]) == 1


def test_the_highest_rung_comes_first():
    halving = rule(reduction=2.0)
    for number in range(8):
        comes(halving, number, 90, float(number))
    for number in (0, 1, 2, 3):
        comes(halving, number, 180, float(number))
    assert halving.wakes([1, 2, 3, 4, 5, 6, 7]) == 1
    assert halving.wakes([2, 3, 4, 5, 6, 7]) is None


def test_what_collapses_leaves_its_place_to_another():
    halving = rule()
    for number, score in enumerate([5.0, 9.0, 9.5]):
        comes(halving, number, 90, score)
    assert halving.wakes([1, 2]) is None
    halving.collapsed(0)
    assert halving.wakes([1, 2]) == 1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("config", [THIRDS, Hyperband(brackets=2)], ids=["asha", "hyperband"])
def test_in_the_end_a_rungs_best_part_went_on_whatever_the_order(config, seed):
    """As synchronous halving would have it, but for the few who were among the best for a while."""
    rng = random.Random(seed)
    scores = {number: rng.uniform(1, 100) for number in range(60)}
    halving = Halving(config, 900)
    place, resting = dict.fromkeys(scores, -1), []
    todo = list(scores)
    while True:
        if (number := halving.wakes(resting)) is not None:
            resting.remove(number)
        elif todo:
            number = todo.pop(rng.randrange(len(todo)))
        else:
            break
        rungs = halving.rungs(number)
        while place[number] + 1 < len(rungs):
            place[number] += 1
            if not comes(halving, number, rungs[place[number]], scores[number]):
                resting.append(number)
                break
        else:
            place[number] = len(rungs)
    for rungs in {tuple(halving.rungs(number)) for number in scores}:
        members = [number for number in scores if tuple(halving.rungs(number)) == rungs]
        for index in range(len(rungs)):
            came = sorted((number for number in members if place[number] >= index), key=scores.__getitem__)
            upper = came[: max(1, int(len(came) / config.reduction))]
            assert all(place[number] > index for number in upper)
            beyond = sum(place[number] > index for number in came)
            assert beyond <= 2 * len(upper) + 3


def test_of_several_objectives_the_whole_front_goes_on_and_the_rest_by_its_order():
    halving = FrontHalving(THIRDS, 900, ["recall"])
    points = [(5.0, 0.2), (9.0, 0.9), (9.5, 0.1), (9.6, 0.8), (9.7, 0.1), (9.8, 0.05)]
    went = []
    for number, (score, recall) in enumerate(points):
        halving.measured(number, score, {"recall": recall})
        went.append(comes(halving, number, 90, score))
    assert went == [True, True, False, False, False, False]
    assert halving.wakes([2, 3, 4, 5]) is None
    for number in (6, 7, 8):
        halving.measured(number, 20.0 + number, {"recall": 0.0})
        comes(halving, number, 90, 20.0 + number)
    assert halving.wakes([2, 3, 4, 5]) in (2, 3)  # three of nine


# The books


class Books:
    """A run whose driver dies at any moment, with the scheduler that Tune would ask."""

    def __init__(self, folder):
        self.folder = folder
        self.run = Run(folder / "runs" / "tiny")
        self.run.folder.mkdir(parents=True)

    def open(self, *overrides):
        path = self.folder / "tiny.yaml"
        path.write_text(SPACE)
        space = load_space(path, overrides)
        self.run.begin(space)
        ledger = Ledger(self.run, space, Study(self.run.study_path, space, 500.0))
        ledger.halts = build_scheduler(space, ledger.rows())
        return ledger

    def trials(self):
        storage = JournalStorage(JournalFileBackend(str(self.run.study_path)))
        (name,) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage).trials


@pytest.fixture
def books(tmp_path):
    return Books(tmp_path)


def progress(samples_seen, score, state="running", **values):
    return Progress(samples_seen=samples_seen, score=score, best_score=score, metrics={}, state=state, **values)


def step(ledger, number, samples_seen, score):
    """A report, through the scheduler, as Tune's loop passes it on."""
    if samples_seen >= 900:
        return ledger.record(number, progress(900, score, "finished"), stopped=True)
    result = {"number": number, "samples_seen": samples_seen, "score": score}
    stopped = ledger.halts.on_trial_result(None, None, result) == "STOP"
    return ledger.record(number, progress(samples_seen, score), stopped=stopped)


def train(ledger, number, scores, until=900):
    """Train a trial from where it stands until it rests or ends."""
    seen = ledger.samples_seen(number)
    for samples_seen in range(seen // 108 * 108 + 108, until + 108, 108):
        if step(ledger, number, min(samples_seen, 900), scores[number]) is not None:
            return


def scores_of(seed):
    rng = random.Random(seed)
    return {number: rng.uniform(1, 100) for number in range(40)}


@pytest.mark.parametrize("seed", range(5))
def test_every_trial_ends_once_and_the_best_was_trained_to_the_end(books, seed):
    scores, ledger = scores_of(seed), books.open()
    while (proposal := ledger.next()) is not None:
        train(ledger, proposal.number, scores)
    assert ledger.resting > 0
    assert not ledger.complete()
    ledger.retire()
    assert ledger.complete()
    assert ledger.resting == 0
    records = books.run.trials()
    assert [record.number for record in records] == list(range(12))
    assert {record.state for record in records} == {"finished", "pruned"}
    assert books.run.best().state == "finished"
    assert books.run.best().number == min(range(12), key=scores.__getitem__)
    rows = [row for row in books.run.results.rows() if row.state in ENDED]
    assert len(rows) == 12
    told = {trial.number: trial.state for trial in books.trials()}
    assert all(
        told[record.number] == (TrialState.COMPLETE if record.state == "finished" else TrialState.PRUNED)
        for record in records
    )


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_search_that_is_killed_wakes_and_ends_what_it_would_have(tmp_path, cut):
    """One trial at a time; the driver is killed after so many reports."""
    ends = []
    for killed in (False, True):
        (folder := tmp_path / str(killed)).mkdir()
        books, scores = Books(folder), scores_of(1)
        ledger, reports, number = books.open(), itertools.count(), None
        while True:
            proposal = ledger.next()
            if proposal is None:
                break
            number = proposal.number
            while True:
                samples_seen = min(900, ledger.samples_seen(number) // 108 * 108 + 108)
                rested = step(ledger, number, samples_seen, scores[number]) is not None
                if killed and next(reports) == cut:
                    ledger = books.open()
                    break
                if rested:
                    break
        ledger.retire()
        assert ledger.complete()
        ends.append({record.number: (record.state, record.samples_seen) for record in books.run.trials()})
    assert ends[0] == ends[1]


def test_what_rests_is_open_waits_for_nobody_and_is_told_as_paused(books):
    ledger = books.open()
    for number, score in enumerate([5.0, 9.0]):
        assert ledger.next().number == number
        row = step(ledger, number, 108, score)
        assert (row is None) == (number == 0)
    assert (row.trial, row.state, row.cause) == (1, "paused", "stopped by the scheduler at 108 samples")
    assert ledger.state_of(1) == "paused"
    assert (ledger.running, ledger.resting, ledger.ended.total()) == (1, 1, 0)
    assert "1 paused" in overview(ledger.situation())
    assert books.run.trials()[1].survived
    assert books.open().resting == 1
    assert [proposal.number for proposal in iter(books.open().next, None)][:2] == [0, 2]


def test_a_search_out_of_budget_leaves_all_that_is_open_paused(books):
    ledger = books.open("budget.samples=200")
    for number, score in enumerate([5.0, 9.0]):
        ledger.next()
        step(ledger, number, 108, score)
    assert ledger.next() is None
    ledger.close(ledger.out_of_budget())
    states = {record.number: record.state for record in books.run.trials()}
    assert states == {0: "paused", 1: "paused"}
    assert [row.stopped_by for row in ledger.rows()] == ["", "scheduler", "budget"]
    again = books.open("budget.samples=900")
    assert [again.next().number for _ in range(2)] == [0, 2]  # the other rests until it is among the best
    assert again.resting == 1


def test_nothing_is_retired_while_something_may_still_wake_it(books):
    ledger = books.open()
    for number, score in enumerate([5.0, 9.0]):
        ledger.next()
        step(ledger, number, 108, score)
    ledger.retire()
    assert ledger.resting == 1


def test_one_that_collapses_after_it_was_woken_is_told_as_collapsed(books):
    ledger = books.open()
    for number, score in enumerate([5.0, 9.0, 9.5, 9.6, 9.7, 9.8]):
        assert ledger.next().number == number
        step(ledger, number, 108, score)
    woken = ledger.next()
    assert woken.number == 1
    verdict = Verdict(state="diverged", cause="weights are not finite", evidence={})
    ledger.record(1, progress(216, None, "collapsed", verdict=verdict), stopped=True)
    assert books.trials()[1].state == TrialState.COMPLETE
    assert books.trials()[1].constraints["collapsed"] == 1.0
    assert books.open().resting == 4


def test_people_may_kill_what_rests_or_have_it_trained(books):
    ledger = books.open()
    for number, score in enumerate([5.0, 9.0, 9.5]):
        ledger.next()
        step(ledger, number, 108, score)
    requests = Requests(books.run)
    requests.begin()
    control = Control(requests, ledger, Screen())
    control.scheduler = ledger.halts
    kill, promote = requests.ask("kill", 1), requests.ask("promote", 2)
    control.look()
    assert requests.answer(kill).state == requests.answer(promote).state == "done"
    assert ledger.state_of(1) == "pruned"
    assert ledger.next().number == 2
    ledger.train(2)
    for samples_seen in range(216, 900, 108):
        assert step(ledger, 2, samples_seen, 50.0) is None  # whatever it scores
    assert ledger.state_of(2) == "running"


# The study


@pytest.mark.parametrize("objectives", ["fid", "[fid, recall]"])
def test_samplers_see_what_rests_at_its_lowest_score_until_it_goes_on(tmp_path, objectives):
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE)
    space = load_space(path, [f"objective.metric={objectives}"])
    study = Study(tmp_path / "study.journal", space, 500.0)
    numbers = [study.propose().number for _ in range(2)]
    for number in numbers:
        study.report(number, 108, 7.0)
    study.pause(numbers[0], 7.0, {"recall >= 0.2": 0.1}, {"recall": 0.1})
    seen = samplers._seen(study._study)._get_trials()
    assert [trial.state for trial in seen] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert seen[0].values == ([7.0, 0.1] if len(space.objective.names) > 1 else [7.0])
    assert seen[0].constraints == {"recall >= 0.2": 0.1, "collapsed": -1.0}
    assert study._study.trials[0].state == TrialState.RUNNING
    study.wake(numbers[0])
    assert [trial.state for trial in samplers._seen(study._study)._get_trials()] == [TrialState.RUNNING] * 2


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsgaii", "random", "qmc"])
def test_every_sampler_proposes_beside_trials_at_rest(tmp_path, sampler):
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE)
    study = Study(tmp_path / "study.journal", load_space(path, [f"search.sampler={sampler}"]), 500.0)
    for _ in range(24):
        number = study.propose().number
        study.report(number, 108, 50.0 - number)
        study.pause(number, 50.0 - number, {}, {})
    assert study.proposed() == 24


# Several drivers


@pytest.fixture
def drivers(tmp_path, monkeypatch):
    monkeypatch.setattr(crew_module, "SECONDS_BETWEEN", 0)

    def join():
        path = tmp_path / "tiny.yaml"
        path.write_text(SPACE)
        space, run = load_space(path), Run(tmp_path / "runs" / "tiny")
        crew = Crew(run)
        run.begin(space, storage="sqlite")
        crew.enrol(run)
        url = f"sqlite:///{tmp_path}/studies.db"
        database = Database(url=url, study=run.manifest()["study"], driver=crew.name)
        ledger = SharedLedger(run, space, Study(database, space, 500.0), crew)
        ledger.halts = build_scheduler(space, ledger.rows(), heard=ledger.heard)
        return ledger

    return join


def test_what_one_driver_laid_to_rest_another_may_wake(drivers):
    one, other = drivers(), drivers()
    for number, score in enumerate([5.0, 9.0, 9.5, 9.6, 9.7]):
        assert one.next().number == number
        step(one, number, 108, score)
    assert other.next().number == 5
    step(other, 5, 108, 9.8)
    woken = other.next()
    assert woken.number == 1
    assert one.next().number == 6  # the woken one is the other's
    other._crew.__exit__()  # it dies, and what it woke rests again
    assert one.next().number == 1


@pytest.mark.parametrize("seed", range(4))
def test_drivers_that_take_turns_end_every_trial_once(drivers, seed):
    crew, scores, rng = [drivers() for _ in range(3)], scores_of(seed), random.Random(seed)
    idle = set()
    while len(idle) < len(crew):
        ledger = rng.choice(crew)
        proposal = ledger.next()
        if proposal is None:
            if not ledger.more():
                idle.add(ledger)
            continue
        train(ledger, proposal.number, scores)
    for ledger in crew:
        ledger.retire()
    for ledger in crew:
        ledger.hear()
    assert all(ledger.complete() for ledger in crew)
    rows = [row for row in crew[0].rows() if row.state in ENDED]
    assert sorted(row.trial for row in rows) == list(range(12))
    best = min(range(12), key=scores.__getitem__)
    assert next(row.state for row in rows if row.trial == best) == "finished"


def test_a_driver_does_not_end_what_another_still_trains(drivers):
    one, other = drivers(), drivers()
    for number in range(12):
        assert (other if number == 11 else one).next().number == number
    for number in range(11):
        step(one, number, 108, 10.0 + number)
    train(one, 0, dict.fromkeys(range(12), 10.0))
    while (proposal := one.next()) is not None:
        train(one, proposal.number, {number: 10.0 + number for number in range(12)})
    assert one.more()
    one.retire()
    assert one.resting > 0
    other.hear()
    step(other, 11, 108, 50.0)
    one.hear()
    while (proposal := one.next()) is not None:
        train(one, proposal.number, {number: 10.0 + number for number in range(12)})
    assert not one.more()
    one.retire()
    assert one.complete()


def test_a_search_out_of_budget_leaves_paused_what_any_driver_laid_to_rest(drivers):
    one, other = drivers(), drivers()
    for number, score in enumerate([5.0, 9.0, 9.5]):
        assert one.next().number == number
        step(one, number, 108, score)
    assert one.resting == 2
    one.close("budget.hours is used up")
    other.close("budget.hours is used up")
    states = {record.number: record.state for record in one._run.trials()}
    assert states == dict.fromkeys(range(3), "paused")
    assert one._study.elsewhere() == other._study.elsewhere() == [0, 1, 2]
    assert not one.complete()
