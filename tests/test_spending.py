from dataclasses import replace

import pytest
from made_runs import SPACE, make_run

from gantune.spending import Meter, duration, spending


def test_spending_adds_up_what_each_trial_came_to(tmp_path):
    run = make_run(tmp_path, trials=8, running=0, weights=False)
    rows = run.results.rows()
    spent = spending(run, rows)
    trials = run.trials()
    assert spent.trials == len(trials)
    assert spent.samples == sum(trial.samples_seen for trial in trials)
    assert spent.trial_hours * 3600 == pytest.approx(sum(trial.seconds for trial in trials))
    assert spent.gpu_hours == pytest.approx(spent.trial_hours / 2)
    assert spent.hours * 3600 == pytest.approx(max(row.run_seconds for row in rows))
    assert spent.cost is None


def test_a_repeat_under_a_fresh_seed_costs_what_it_costs(tmp_path):
    run = make_run(tmp_path, trials=3, running=0, weights=False)
    rows = run.results.rows()
    last = rows[-1]
    assert spending(run, [*rows, replace(last, repeat=1)]).samples == spending(run, rows).samples + last.samples_seen


def test_the_samples_that_weights_taken_over_have_seen_are_the_donors(tmp_path):
    run = make_run(tmp_path, trials=3, running=0, weights=False)
    rows = run.results.rows()
    last = next(row for row in reversed(rows) if row.trial == 1)
    taken = replace(last, trial=9, samples_seen=5000, cause="takes over #1 at 5,000 samples: nothing changed")
    trained = replace(taken, cause="", samples_seen=6000)
    assert spending(run, [*rows, taken, trained]).samples == spending(run, rows).samples + 1000


def test_a_row_that_comes_again_costs_nothing(tmp_path):
    run = make_run(tmp_path, trials=3, running=0, weights=False)
    rows = run.results.rows()
    assert spending(run, [*rows, *rows]) == spending(run, rows)


def test_hours_have_the_price_that_the_budget_names(tmp_path):
    space = {**SPACE, "budget": {**SPACE["budget"], "price_per_hour": 2.5}}
    run = make_run(tmp_path, trials=3, space=space, weights=False)
    spent = spending(run, run.results.rows())
    assert spent.cost == pytest.approx(2.5 * spent.hours)


@pytest.mark.parametrize(("seconds", "words"), [(0, "0s"), (59.9, "59s"), (200, "3m20s"), (7500, "2h05m")])
def test_durations_are_told_in_two_units_at_most(seconds, words):
    assert duration(seconds) == words


@pytest.fixture(scope="module")
def two_at_once(tmp_path_factory):
    """Two trials that trained beside each other for 100 seconds, one on 1,000 samples, one on 500."""
    run = make_run(tmp_path_factory.mktemp("runs"), trials=2, running=0, weights=False)
    row = run.results.rows()[0]
    meter = Meter()
    for trial, samples in [(0, 1000), (1, 500)]:
        meter.hear(replace(row, trial=trial, samples_seen=samples, trial_seconds=100.0, run_seconds=120.0))
    return meter


@pytest.mark.parametrize(
    ("trials", "seconds"),
    [
        ([], 0),
        ([0], 100),  # one trial has one worker, however many there are
        ([1], 300),
        ([0, 1], 300),
        ([0, 1, 2], 100 + 300),  # two workers; what never began trains at the mean pace, 267 seconds here
    ],
)
def test_what_is_left_takes_as_long_as_its_slowest_worker(two_at_once, trials, seconds):
    assert two_at_once.seconds_to_finish([(trial, 0) for trial in trials], 2000) == pytest.approx(seconds)


def test_without_training_there_is_no_pace():
    assert Meter().seconds_to_finish([(0, 0)], 2000) is None
