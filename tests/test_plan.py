import itertools
import math
import random

import pytest

from gantune.config import Asha, Hyperband, Median, NoScheduler, Pbt
from gantune.plan import (
    FEWEST,
    LEAST_SHARE,
    LOOK_SHARE,
    MARGIN,
    MOST,
    START,
    USUAL,
    Clock,
    Pace,
    Paces,
    Preparation,
    Work,
    first_rung,
    fit_budget,
    make_plan,
    makespan,
    starting,
    stops_at,
)

ENOUGH = 384_000
WORK = Work(at_once=2, reports=12)


def paces(*samples, report=0.3, final=1.5):
    return Paces(timed=tuple(Pace(sample=each, report=report, final=final, checkpoint=1) for each in samples))


USUAL_PACES = paces(1 / 750, 1 / 2000, 1 / 900, 1 / 700)


def random_case(draw):
    many = [10 ** draw.uniform(-5, -2) for _ in range(draw.randrange(1, 9))]
    found = paces(*many, report=10 ** draw.uniform(-3, 0.5), final=10 ** draw.uniform(-2, 1))
    return found, draw.randrange(96_000, 1_600_000), Work(draw.randrange(1, 9), 12), 10 ** draw.uniform(0, 5)


# The clock


def test_a_clock_tells_what_is_spent_and_what_is_left():
    times = iter([100.0, 110.0, 150.0])
    clock = Clock(36.0, before=1.0, now=lambda: next(times))
    assert clock.spent == 11.0
    assert clock.left == -15.0
    assert Clock().left == math.inf


# Trials and samples


def test_a_budget_fits_its_time_or_says_that_it_does_not():
    draw = random.Random(0)
    for _ in range(60):
        found, enough, work, seconds = random_case(draw)
        budget = fit_budget(found, enough, work, seconds)
        assert FEWEST <= budget.trials <= MOST
        assert 0.85 * LOOK_SHARE * enough <= budget.samples <= enough
        assert budget.fits == (budget.seconds <= seconds)
        assert budget.seconds == MARGIN * makespan(budget.scheduler, budget.trials, budget.samples, found, work)
        if not budget.fits:
            assert (budget.trials, budget.samples) <= (FEWEST, LOOK_SHARE * enough)


def test_a_baseline_slower_than_all_others_gets_its_whole_budget():
    found = paces(1 / 100, 1 / 5000, 1 / 5000, 1 / 5000, 1 / 5000)
    for seconds in (240, 600, 1800):
        budget = fit_budget(found, ENOUGH, WORK, seconds)
        assert budget.fits
        assert MARGIN * found.timed[0].trial(budget.samples, WORK.reports) <= seconds


def test_less_time_gives_fewer_trials_that_stay_long_enough_and_at_last_shorter_ones():
    budgets = [fit_budget(USUAL_PACES, ENOUGH, WORK, seconds) for seconds in range(1500, 30, -30)]
    assert all(before.trials >= after.trials for before, after in itertools.pairwise(budgets))
    assert budgets[0].trials == USUAL
    least = 0.85 * LEAST_SHARE * ENOUGH
    assert all(budget.samples >= least for budget in budgets if budget.trials > FEWEST)
    assert {budget.trials for budget in budgets} > {FEWEST, USUAL}
    shortest = [budget.samples for budget in budgets if budget.trials == FEWEST]
    assert shortest == sorted(shortest, reverse=True)
    assert shortest[-1] < least


def test_more_time_gives_longer_trials_and_then_more():
    long = fit_budget(USUAL_PACES, ENOUGH, WORK, 2500)
    assert long.trials == USUAL
    assert LEAST_SHARE * ENOUGH < long.samples < 0.9 * ENOUGH
    most = fit_budget(USUAL_PACES, ENOUGH, WORK, 40_000)
    assert most.trials == MOST
    assert most.samples > 0.9 * ENOUGH


def test_few_trials_are_compared_late():
    assert [first_rung(trials) for trials in (4, 6, 12, 24, 64)] == [0.5, 0.25, 0.125, 0.08, 0.08]
    assert fit_budget(USUAL_PACES, ENOUGH, WORK, 100).scheduler.rungs(1000) == [500]


def test_more_workers_never_train_less():
    found = [fit_budget(USUAL_PACES, ENOUGH, Work(workers, 12), 3600) for workers in (1, 2, 4, 8, 64)]
    spent = [each.trials * each.samples for each in found]
    assert spent == sorted(spent)


# Preparation, and what would be a real chance


def test_preparation_is_a_part_of_the_hours():
    quick = make_plan(USUAL_PACES, ENOUGH, WORK, Preparation(), 0.1)
    slow = make_plan(USUAL_PACES, ENOUGH, WORK, Preparation(data=30, features=100), 0.1)
    for plan in (quick, slow):
        assert plan.budget.fits
        assert plan.preparation.total + plan.budget.seconds <= 360
    assert slow.preparation.total == quick.preparation.total + 130
    assert slow.budget.trials * slow.budget.samples < quick.budget.trials * quick.budget.samples


def test_slow_imports_mean_a_slow_start_up_to_a_limit():
    assert starting(0.5) == starting(2.0) < starting(4.0) < starting(5.0) == starting(60.0)


def test_the_hours_of_a_real_chance_give_one():
    draw = random.Random(1)
    for _ in range(20):
        found, enough, work, seconds = random_case(draw)
        preparation = Preparation(features=draw.uniform(0, 300))
        plan = make_plan(found, enough, work, preparation, seconds / 3600)
        again = make_plan(found, enough, work, preparation, plan.chance_hours)
        assert again.budget.trials >= USUAL
        assert again.budget.samples >= 0.85 * LEAST_SHARE * enough
        assert again.chance_hours == plan.chance_hours


def test_no_time_at_all_is_planned_as_a_look_that_does_not_fit():
    plan = make_plan(USUAL_PACES, ENOUGH, WORK, Preparation(features=45), 0.01)
    assert not plan.budget.fits
    assert plan.budget.trials == FEWEST
    assert plan.budget.seconds > 0
    assert plan.chance_hours > 0.1


# How long a search takes


def test_without_early_stops_all_trials_are_trained_to_the_end():
    found, whole = paces(0.001), 100.0 + 12 * 0.3 + 1.5 + START
    for scheduler in (NoScheduler(), Pbt()):
        assert makespan(scheduler, 5, 100_000, found, WORK) == pytest.approx(3 * whole)
    assert makespan(NoScheduler(), 0, 100_000, found, WORK) == 0


@pytest.mark.parametrize("scheduler", [Asha(), Hyperband(), Median()])
def test_early_stops_shorten_a_search_but_not_its_baseline(scheduler):
    found = paces(0.001)
    whole, (one, every) = (
        found.timed[0].trial(50_000, 12),
        (makespan(NoScheduler(), trials, 50_000, found, WORK) for trials in (1, 24)),
    )
    stopped = makespan(scheduler, 24, 50_000, found, WORK)
    assert whole < one <= stopped < 0.9 * every


def test_trials_are_stopped_at_the_reports_that_reach_a_rung():
    assert stops_at(Asha(first_rung=0.08), 0, 12) == (1 / 12, 2 / 12, 4 / 12, 8 / 12)
    assert stops_at(Asha(first_rung=0.5), 0, 12) == (0.5,)
    assert stops_at(Asha(first_rung=0.08), 0, 2) == (0.5,)
    assert stops_at(Median(grace=0.25), 0, 12) == (0.25,)
    assert {stops_at(Hyperband(first_rung=0.1), number, 10) for number in range(9)} == {
        (0.1, 0.3, 0.9),
        (0.3, 0.9),
        (0.9,),
    }
    assert stops_at(NoScheduler(), 0, 12) == stops_at(Pbt(), 0, 12) == ()
