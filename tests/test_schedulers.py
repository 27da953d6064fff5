import json
import math
import random

import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from gantune.config import Asha, Hyperband, Median
from gantune.driver.schedulers import Halving, Medians, Remembering, build_scheduler
from gantune.results import Row
from gantune.space import load_space

BUDGET = 1200
CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def asha(rows=(), kept=(), **settings):
    config = Asha(**{"spared": 0.0, **settings})
    return Remembering(Halving(config, BUDGET), config.spared, rows, kept)


def hyperband(rows=(), kept=(), **settings):
    config = Hyperband(**{"spared": 0.0, **settings})
    return Remembering(Halving(config, BUDGET), config.spared, rows, kept)


def median(rows=(), kept=(), **settings):
    config = Median(**{"spared": 0.0, **settings})
    return Remembering(Medians(config, BUDGET), config.spared, rows, kept)


EVERY = pytest.mark.parametrize("make", [asha, hyperband, median])


def row(trial, samples_seen, score, state="running"):
    return Row(
        trial=trial,
        state=state,
        samples_seen=samples_seen,
        score=score,
        best_score=score,
        metrics={},
        seed=0,
        config="{}",
        cause="",
        verdict="healthy",
        evidence={},
        trial_seconds=0.0,
        run_seconds=0.0,
    )


def hear(scheduler, trial, samples_seen, score):
    result = {"number": trial, "samples_seen": samples_seen, "score": score, "progress": json.dumps({})}
    return scheduler.on_trial_result(None, None, result)


class Search:
    """Trials that report in turns to a scheduler until it stops them; the rows that a driver would keep."""

    def __init__(self, scheduler, seed, collapses=0.0):
        self.scheduler = scheduler
        self.rows = []
        self.decisions = []
        self._rng = random.Random(seed)
        self._collapses = collapses
        self._quality = [self._rng.uniform(5, 50) for _ in range(16)]
        self.seen = dict.fromkeys(range(16), 0)

    def step(self):
        trial = self._rng.choice(list(self.seen))
        self.seen[trial] += 100
        score = self._quality[trial] * self._rng.uniform(0.8, 1.2) * math.exp(-self.seen[trial] / BUDGET)
        collapsed = self._rng.random() < self._collapses
        if collapsed or self.seen[trial] >= BUDGET:  # an ending of its own: Tune does not ask the scheduler
            state = "collapsed" if collapsed else "finished"
            self.seen_at_end = self.seen[trial]
            self._end(trial, row(trial, self.seen[trial], score, state))
            ended = {"number": trial, "samples_seen": self.seen_at_end, "score": score, "state": state}
            self.scheduler.on_trial_complete(None, None, ended)
            return
        decision = hear(self.scheduler, trial, self.seen[trial], score)
        self.decisions.append((trial, self.seen[trial], decision))
        if decision == STOP:
            self._end(trial, row(trial, self.seen[trial], score, "pruned"))
        else:
            self.rows.append(row(trial, self.seen[trial], score))

    def _end(self, trial, last):
        self.rows.append(last)
        del self.seen[trial]


@pytest.mark.parametrize("spared", [0.0, 0.3])
@pytest.mark.parametrize("collapses", [0.0, 0.1], ids=["healthy", "some collapse"])
@pytest.mark.parametrize("seed", range(4))
@EVERY
def test_one_filled_from_rows_decides_as_the_one_that_lived_through_them(make, seed, collapses, spared):
    for cut in range(0, 120, 10):
        uninterrupted, continued = (Search(make(spared=spared), seed, collapses) for _ in range(2))
        while uninterrupted.seen:
            uninterrupted.step()
        for _ in range(cut):
            if continued.seen:
                continued.step()
        continued.scheduler = make(continued.rows, spared=spared)
        while continued.seen:
            continued.step()
        assert continued.decisions == uninterrupted.decisions
    assert any(decision == STOP for *_, decision in uninterrupted.decisions)


@pytest.mark.parametrize("seed", range(8))
@EVERY
def test_a_continued_trial_that_repeats_its_last_report_changes_nothing(make, seed):
    search = Search(make(), seed)
    for _ in range(30):
        search.step()
    repeated, plain = make(search.rows), make(search.rows)
    for trial in search.seen:
        known = [item for item in search.rows if item.trial == trial]
        if known:
            assert hear(repeated, trial, known[-1].samples_seen, known[-1].score) == CONTINUE
    for trial, seen in search.seen.items():
        assert hear(repeated, trial, seen + 400, 20.0) == hear(plain, trial, seen + 400, 20.0)


def test_the_worse_half_is_stopped_at_a_rung_and_nowhere_else():
    scheduler = asha(first_rung=0.25, reduction=2)
    assert [hear(scheduler, trial, 299, 100.0 + trial) for trial in range(4)] == [CONTINUE] * 4
    assert [hear(scheduler, trial, 300, score) for trial, score in enumerate([10.0, 30.0, 5.0, 40.0])] == [
        CONTINUE,
        STOP,
        CONTINUE,
        STOP,
    ]
    assert hear(scheduler, 0, 450, 99.0) == CONTINUE


def test_a_trial_is_judged_by_its_lowest_score_so_far():
    scheduler = asha(first_rung=0.5, reduction=2)
    hear(scheduler, 0, 600, 10.0)
    hear(scheduler, 1, 300, 4.0)
    assert hear(scheduler, 1, 600, 50.0) == CONTINUE
    assert hear(scheduler, 2, 600, 50.0) == STOP


def test_a_lowest_score_of_an_earlier_session_counts():
    scheduler = asha([row(0, 600, 10.0), row(1, 300, 4.0)], first_rung=0.5, reduction=2)
    assert hear(scheduler, 1, 600, 50.0) == CONTINUE


def test_a_trial_issued_again_keeps_its_place_at_the_rungs():
    rows = [row(0, 300, 10.0), row(1, 300, 8.0), row(2, 300, 6.0)]
    scheduler = asha(rows, first_rung=0.25, reduction=2)
    for samples_seen in (300, 350, 400):  # the last of the three would be stopped if it came anew
        assert hear(scheduler, 0, samples_seen, 100.0) == CONTINUE
    assert hear(scheduler, 3, 300, 9.0) == STOP


@pytest.mark.parametrize("seed", range(4))
@EVERY
def test_a_kept_trial_is_never_stopped_and_counts(make, seed):
    scheduler = make(kept=[0])
    rng = random.Random(seed)
    for samples_seen in range(300, BUDGET, 100):
        for trial in range(1, 8):
            hear(scheduler, trial, samples_seen, rng.uniform(1, 5))
        assert hear(scheduler, 0, samples_seen, 1000.0) == CONTINUE
    measured = asha(kept=[0], first_rung=0.25, reduction=2)
    hear(measured, 0, 300, 1.0)
    assert hear(measured, 1, 300, 2.0) == STOP


def test_a_share_of_the_doomed_is_let_run_to_its_end_and_counts_no_further():
    plain, sparing = asha(first_rung=0.25, reduction=2), asha(first_rung=0.25, reduction=2, spared=1.0)
    for scheduler in (plain, sparing):
        hear(scheduler, 0, 300, 10.0)
    assert hear(plain, 1, 300, 30.0) == STOP
    for samples_seen in (300, 600, 1100):
        assert hear(sparing, 1, samples_seen, 30.0) == CONTINUE
    assert hear(sparing, 2, 600, 40.0) == CONTINUE  # the doomed one was not noted at the second rung
    assert sparing.certificate.is_doomed(1)
    assert not sparing.certificate.is_doomed(0)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_the_share_that_is_spared_is_the_one_asked_for(share):
    scheduler = asha(first_rung=0.25, reduction=2, spared=share)
    hear(scheduler, 0, 300, 1.0)
    decisions = [hear(scheduler, trial, 300, 50.0 + trial) for trial in range(1, 400)]
    assert decisions.count(CONTINUE) == pytest.approx(share * len(decisions), abs=1)


def finished(scheduler, trial, score):
    scheduler.on_trial_complete(
        None, None, {"number": trial, "samples_seen": BUDGET, "score": score, "state": "finished"}
    )


def test_a_rung_that_does_not_tell_good_from_bad_is_skipped():
    """Early scores that are upside down: those that it would stop end best."""
    scheduler = asha(first_rung=0.25, reduction=2, spared=1.0)
    for trial in range(10):
        assert hear(scheduler, trial, 300, 10.0 + trial) == CONTINUE
    for trial in range(10):
        finished(scheduler, trial, 9.0 - trial / 2)
    (rung,) = scheduler.certificate.rungs()
    assert (rung.samples, rung.known) == (300, 10)
    assert rung.correlation == pytest.approx(-1)
    assert rung.doomed > 5
    assert not rung.separates
    assert "skipped" in str(rung)
    unsparing = asha(
        [row(t, 300, 10.0 + t) for t in range(10)] + [row(t, BUDGET, 9.0 - t / 2, "finished") for t in range(10)]
    )
    assert hear(unsparing, 11, 300, 1000.0) == CONTINUE


def test_a_rung_that_tells_them_apart_goes_on_deciding():
    scheduler = asha(first_rung=0.25, reduction=2, spared=0.5)
    for trial in range(40):
        hear(scheduler, trial, 300, 10.0 + trial)
    for trial in range(40):
        if trial == 0 or scheduler.certificate.is_doomed(trial):
            finished(scheduler, trial, 5.0 + trial / 2)
    (rung,) = scheduler.certificate.rungs()
    assert rung.correlation == pytest.approx(1)
    assert rung.separates
    assert f"of {rung.doomed} doomed ones" in str(rung)
    assert STOP in [hear(scheduler, trial, 300, 1000.0) for trial in range(50, 60)]


def test_a_collapse_counts_as_the_worst_end():
    scheduler = asha(first_rung=0.25, reduction=2, spared=1.0)
    for trial in range(6):
        hear(scheduler, trial, 300, 10.0 + trial)
    for trial in range(5):
        finished(scheduler, trial, 5.0 + trial)
    scheduler.on_trial_complete(None, None, {"number": 5, "samples_seen": 700, "score": 0.1, "state": "collapsed"})
    (rung,) = scheduler.certificate.rungs()
    assert rung.correlation == pytest.approx(1)


def test_a_report_without_a_score_decides_nothing():
    scheduler = asha([row(0, 300, None)], first_rung=0.25, reduction=2)
    assert hear(scheduler, 0, 300, None) == CONTINUE
    assert hear(scheduler, 1, 300, 5.0) == CONTINUE  # the first at this rung


def test_the_last_of_the_budget_is_not_a_rung_that_stops():
    scheduler = asha(first_rung=0.25, reduction=2)
    for trial in range(6):
        assert hear(scheduler, trial, 300, 20.0 - trial) == CONTINUE
    for trial in range(6):
        assert hear(scheduler, trial, 1100, 10.0 - trial) == CONTINUE


# Hyperband


def test_brackets_share_the_trials_so_that_each_gets_about_the_same_budget():
    config = Hyperband(first_rung=1 / 9, reduction=3, brackets=3)
    assert config.split(900) == [[100, 300], [300], []]
    dealt = [config.bracket(number, 900) for number in range(1000)]
    assert [dealt.count(bracket) for bracket in range(3)] == pytest.approx([545, 273, 182], abs=2)
    for start in (0, 100, 500):  # any run of numbers is split alike
        share = dealt[start : start + 55].count(0) / 55
        assert share == pytest.approx(dealt.count(0) / 1000, abs=0.04)
    assert set(dealt[:12]) == {0, 1, 2}


def test_no_bracket_is_dealt_that_has_the_rungs_of_another():
    config = Hyperband(first_rung=0.5, reduction=3, brackets=10)
    assert config.split(BUDGET) == [[600], []]
    assert {config.bracket(number, BUDGET) for number in range(100)} == {0, 1}
    assert {Hyperband(brackets=1).bracket(number, BUDGET) for number in range(100)} == {0}


def test_a_trial_is_halved_among_those_of_its_bracket_only():
    config = Hyperband(first_rung=0.25, reduction=2, brackets=3)
    scheduler = hyperband(first_rung=0.25, reduction=2, brackets=3)
    brackets = [[n for n in range(40) if config.bracket(n, BUDGET) == b] for b in range(3)]
    for samples_seen, bracket in ((300, 0), (600, 1)):
        for score, number in enumerate(brackets[bracket][:6], start=1):
            for others in brackets[:bracket] + brackets[bracket + 1 :]:
                late = others[score]
                if samples_seen < 600 or config.bracket(late, BUDGET) == 2:
                    assert hear(scheduler, late, samples_seen, 1000.0) == CONTINUE
            decision = hear(scheduler, number, samples_seen, 10.0 * score)
            assert decision == (CONTINUE if score == 1 else STOP)


def test_a_trial_keeps_its_bracket_when_a_search_is_continued():
    config = Hyperband(first_rung=0.25, reduction=2, brackets=3)
    late = next(number for number in range(40) if config.bracket(number, BUDGET) == 1)
    early = [number for number in range(40) if config.bracket(number, BUDGET) == 0]
    rows = [row(late, 300, 1.0), row(early[0], 300, 5.0)]
    scheduler = hyperband(rows, first_rung=0.25, reduction=2, brackets=3)
    assert hear(scheduler, early[1], 300, 4.0) == CONTINUE  # the late one's score does not count here
    assert hear(scheduler, early[2], 300, 6.0) == STOP


# The median rule


def test_a_trial_is_stopped_where_its_best_is_worse_than_the_median_of_the_others_means():
    scheduler = median(grace=0.25, min_trials=3)
    for trial, scores in enumerate([(10, 6), (20, 12), (30, 20)]):  # their means at 600 are 8, 16 and 25
        assert [hear(scheduler, trial, at, score) for at, score in zip((300, 600), scores, strict=True)] == [
            CONTINUE
        ] * 2
    assert hear(scheduler, 3, 300, 19.0) == CONTINUE  # of 10, 20 and 30 the median is 20
    assert hear(scheduler, 3, 600, 16.5) == STOP
    assert hear(scheduler, 4, 300, 15.5) == CONTINUE
    assert hear(scheduler, 4, 600, 90.0) == CONTINUE  # its best is 15.5


def test_nothing_is_decided_within_the_grace_or_against_too_few():
    scheduler = median(grace=0.5, min_trials=3)
    for trial in range(2):
        assert [hear(scheduler, trial, at, 1.0) for at in (300, 600)] == [CONTINUE] * 2
    assert [hear(scheduler, 2, at, 99.0) for at in (300, 600)] == [CONTINUE] * 2
    assert [hear(scheduler, 3, at, 100.0) for at in (300, 500)] == [CONTINUE] * 2
    assert hear(scheduler, 3, 600, 100.0) == STOP


def test_a_trial_that_has_ended_goes_on_counting():
    scheduler = median(grace=0.25, min_trials=3)
    for trial in range(3):
        hear(scheduler, trial, 300, 10.0)
        finished(scheduler, trial, 10.0)
    assert hear(scheduler, 3, 1190, 11.0) == STOP


def test_a_kept_trial_counts_towards_the_median():
    scheduler = median(kept=[0], grace=0.25, min_trials=1)
    assert hear(scheduler, 1, 300, 10.0) == CONTINUE
    assert hear(scheduler, 0, 300, 50.0) == CONTINUE
    assert hear(scheduler, 0, 600, 40.0) == CONTINUE
    assert hear(scheduler, 2, 600, 44.9) == CONTINUE  # of the two only the kept one has come this far; its mean is 45
    scheduler = median([row(0, 300, 1.0)], kept=[0], grace=0.25, min_trials=1)
    assert hear(scheduler, 1, 300, 2.0) == STOP


@pytest.mark.parametrize(("samples", "first_rung"), [(1, 0.01), (1, 1.0), (2, 0.001), (10**12, 1e-6)])
def test_any_budget_and_first_rung_make_a_scheduler(samples, first_rung):
    rules = [
        Halving(Asha(first_rung=first_rung, reduction=1.5), samples),
        Halving(Hyperband(first_rung=first_rung, reduction=1.5, brackets=10), samples),
        Medians(Median(grace=first_rung), samples),
    ]
    for rule in rules:
        assert Remembering(rule, 0.0, []).decide(0, samples, 1.0) == CONTINUE


SPACE = """
version: 1
data: {dataset: digits, size: 8}
budget: {samples_per_trial: 1200}
space: {architecture: mlp, loss: hinge, optimizer: adam, lr_g: log 1e-4..1e-2}
"""


@pytest.fixture
def load(tmp_path):
    def loaded(text, *overrides):
        path = tmp_path / "space.yaml"
        path.write_text(text)
        return load_space(path, overrides)

    return loaded


def test_the_baseline_gets_its_whole_budget_and_trial_0_of_other_spaces_does_not(load):
    rows = [row(trial, 300, 1.0) for trial in range(2, 7)]
    strict = "search.scheduler={asha: {spared: 0}}"
    with_baseline = build_scheduler(load(SPACE + "baseline: {lr_g: 1e-3}\nfirst: [{lr_g: 1e-3}]\n", strict), rows)
    assert hear(with_baseline, 0, 300, 1000.0) == CONTINUE
    assert hear(with_baseline, 1, 300, 1000.0) == STOP
    without = build_scheduler(load(SPACE + "first: [{lr_g: 1e-3}]\n", strict), rows)
    assert hear(without, 0, 300, 1000.0) == STOP
    assert hear(build_scheduler(load(SPACE, strict), rows), 0, 300, 1000.0) == STOP


def test_every_scheduler_is_built_from_its_block_and_written_back(load):
    for name, text in {
        "hyperband": "{hyperband: {first_rung: 0.2, brackets: 2, spared: 0}}",
        "median": "{median: {grace: 0.5, min_trials: 4}}",
        "asha": "asha",
    }.items():
        space = load(SPACE, f"search.scheduler={text}")
        assert list(space.document()["search"]["scheduler"]) == [name]
        assert type(build_scheduler(space, [])) is Remembering
        written = json.dumps(space.document()["search"]["scheduler"])
        assert load(SPACE, f"search.scheduler={written}").search == space.search


def test_without_a_scheduler_nothing_is_stopped(load):
    scheduler = build_scheduler(load(SPACE, "search.scheduler=none"), [])
    assert type(scheduler) is FIFOScheduler
    assert hear(scheduler, 0, 300, 1000.0) == CONTINUE


def test_the_rungs_are_those_that_the_space_tells(load):
    space = load(SPACE, "search.scheduler={asha: {spared: 0}}")
    assert space.rungs() == [96, 192, 384, 768]
    for rung in space.rungs():
        scheduler = build_scheduler(space, [])
        assert hear(scheduler, 0, rung, 1.0) == CONTINUE
        assert hear(scheduler, 1, rung - 1, 50.0) == CONTINUE
        assert hear(scheduler, 1, rung, 50.0) == STOP


def test_no_more_are_spared_than_it_takes_to_know_what_a_rung_is_worth():
    scheduler = asha(first_rung=0.25, reduction=2, spared=1.0)
    for trial in range(8):
        assert hear(scheduler, trial, 300, 10.0 + trial) == CONTINUE
    for trial in range(8):
        finished(scheduler, trial, 5.0 + trial)
    decisions = [hear(scheduler, trial, 300, 100.0 + trial) for trial in range(10, 20)]
    assert decisions == [STOP] * 10


def test_survivors_alone_do_not_say_what_a_rung_is_worth():
    scheduler = asha(first_rung=0.25, reduction=2, spared=1.0)
    for trial in range(8):
        assert hear(scheduler, trial, 300, 10.0 - trial) == CONTINUE  # each the best so far
        finished(scheduler, trial, 9.0 - trial)
    assert [hear(scheduler, trial, 300, 100.0 + trial) for trial in range(10, 13)] == [CONTINUE, CONTINUE, STOP]
