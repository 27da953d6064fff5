"""The replay of recorded learning curves, on curves made by hand."""

import importlib
import math
import random
import sys
from pathlib import Path

import pytest

from gantune.config import Asha, ObjectiveConfig

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
curves_of = importlib.import_module("learning_curves")
replay = importlib.import_module("collapse")
sys.path.pop(0)

ALIVE = {"modes": 1.0, "diversity": 0.9, "pixel_diversity": 0.9, "recall": 0.5, "d_accuracy": 0.7, "g_gradient": 1.0}
DEAD = {**ALIVE, "modes": 0.1, "diversity": 0.1, "pixel_diversity": 0.1, "recall": 0.0}


def curve(scores, values=ALIVE, config=0, seed=0):
    """A run that reports evenly; a score of None is a value that is not finite."""
    count = 8
    reports = tuple(
        curves_of.Report(
            (i + 1) * 100, (i + 1) / count, score is not None, math.nan if score is None else score, values
        )
        for i, score in enumerate(scores)
    )
    return curves_of.Curve("family", config, seed, "{}", reports)


GOOD = curve([90, 60, 40, 30, 22, 20, 19, 18])
FLAT = curve([90, 89, 90, 91, 90, 90, 91, 90.5], DEAD)
SLOW = curve([900, 800, 700, 600, 500, 400, 300, 200], DEAD)
BROKEN = curve([90, 80, None])
FAMILY = [GOOD] * 8 + [FLAT, SLOW, BROKEN]


def played(policy, curves):
    return replay.play(policy, curves, [policy.detector(each) for each in curves])


def named(name):
    return next(policy for policy in replay.policies() if policy.name == name)


def test_a_run_ends_good_slow_or_dead_by_its_last_quarter():
    outcomes = curves_of.Outcomes(FAMILY)
    assert [outcomes.of(each) for each in (GOOD, FLAT, SLOW, BROKEN)] == ["good", "dead", "slow", "dead"]
    assert outcomes.of(curve([20, 19, 18, 18, 18, 18, 900, 901])) == "dead"  # far from good at the end
    assert outcomes.of(curve([20, 19, 18, 18, 18, 18, 30, 31])) == "good"


def test_without_any_rule_everything_is_spent_even_on_what_is_broken():
    ends = played(named("nothing"), FAMILY)
    assert [end.share for end in ends] == [1.0] * len(FAMILY)
    assert not any(end.cut for end in ends)


def test_a_value_that_is_not_finite_ends_a_run_where_it_appears():
    *_, broken = played(named("values not finite"), FAMILY)
    assert broken.cut
    assert broken.share == pytest.approx(3 / 8)


def test_the_monitor_stops_the_dead_and_leaves_the_good_and_the_slow():
    ends = played(named("ours"), FAMILY)
    assert [end.cut for end in ends] == [False] * 8 + [True, False, True]


def test_figures_are_what_they_say():
    outcomes = curves_of.Outcomes(FAMILY)
    policy = named("ours")
    family = replay.Played(FAMILY, [outcomes.of(each) for each in FAMILY], played(policy, FAMILY))
    found = replay.figures([family])
    assert found["precision"] == 1
    assert found["recall"] == 1
    assert found["top lost"] == 0
    assert found["regret"] == 0
    spent = [end.share for end in played(policy, FAMILY)]
    assert found["saved"] == pytest.approx(1 - sum(spent) / len(spent))


def test_stopping_the_best_too_early_shows_as_regret():
    policy = replay.Policy("first report", lambda curve: replay.Kill(0))
    family = replay.Played([GOOD] * 3, ["good"] * 3, played(policy, [GOOD] * 3))
    found = replay.figures([family])
    assert found["regret"] == pytest.approx(90 / 18 - 1)
    assert found["precision"] == 0
    assert found["top lost"] == 3
    assert replay.figures([family, family])["top lost"] == 6


def test_halving_stops_the_worse_and_keeps_the_best():
    curves = [curve([40 + i * 10 - j for j in range(8)], config=i) for i in range(6)]
    ends = played(replay.Policy("asha", replay.nan_only, lambda: replay.Asynchronous(Asha(spared=0.0))), curves)
    assert not ends[0].cut
    assert any(end.cut for end in ends)


def test_the_autogan_rule_stops_at_losses_that_stand_still():
    still = curve([50] * 8, {**ALIVE, "loss_d": 1.0, "loss_g": 0.5})
    assert replay.loss_variance(still) == replay.Kill(replay.AUTOGAN_WINDOW - 1)
    reports = tuple(
        curves_of.Report(report.samples_seen, report.share, True, 50.0, {**ALIVE, "loss_d": float(i), "loss_g": 0.5})
        for i, report in enumerate(still.reports)
    )
    assert replay.loss_variance(curves_of.Curve("family", 0, 0, "{}", reports)) is None


def test_both_seeds_of_a_configuration_lie_on_one_side_and_both_sides_are_filled():
    sides = [[curve([1], config=config, seed=seed).held_out for seed in range(2)] for config in range(64)]
    assert all(first == second for first, second in sides)
    assert 20 <= sum(first for first, _ in sides) <= 44


def test_the_published_curves_are_whole():
    curves = curves_of.load_curves()
    assert {each.family for each in curves} <= set(curves_of.FAMILIES)
    assert len({(each.family, each.config, each.seed) for each in curves}) == len(curves)
    for each in curves:
        assert each.reports[-1].share >= 1 or not each.reports[-1].finite
        assert len(each.reports) == ObjectiveConfig().reports or not each.reports[-1].finite
        shares = [report.share for report in each.reports]
        assert shares == sorted(shares)
        assert all(math.isfinite(report.score) for report in each.reports if report.finite)


def slump(each):
    """How far a run's score rises above its own best in the first third of its budget; 1 where it never does."""
    early = [report.score for report in each.reports if report.share <= 1 / 3]
    return max(score / min(early[: index + 1]) for index, score in enumerate(early))


@pytest.mark.parametrize("policy", ["ours", "ours + ASHA", "ours + ASHA, some spared"])
def test_a_search_keeps_a_best_run_that_slumped_early(policy):
    """Of the published curves: every one of the eight best of a family that lost 15% or more before it recovered."""
    slumped = []
    for family in curves_of.FAMILIES:
        runs = sorted((each for each in curves_of.load_curves() if each.family == family), key=lambda each: each.best)
        for best in runs[: curves_of.TOP]:
            if slump(best) >= 1.15:
                slumped.append((best, [each for each in runs if each.best >= best.best]))
    assert slumped
    for best, runs in slumped:
        for seed in range(5):
            random.Random(seed).shuffle(runs)
            assert not played(named(policy), runs)[runs.index(best)].cut
