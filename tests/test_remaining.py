"""The time that a search still takes, guessed from its rows."""

import itertools
from dataclasses import replace

import pytest

from gantune.config import Asha, Hyperband, Median, NoScheduler, Scheduler
from gantune.plan import Pace, Paces, Work, makespan
from gantune.progress import Progress
from gantune.remaining import Begun, Rules
from gantune.reports import row_of
from gantune.situation import Outline, Tally

SAMPLES, REPORTS = 10_000, 10
RULES = Rules(scheduler=Asha(first_rung=0.1), samples=SAMPLES, reports=REPORTS, asked=24, baseline=True)


def open_at(*samples):
    return {number: Begun(seen, "open") for number, seen in enumerate(samples)}


def test_nothing_is_known_until_the_first_rung_is_full():
    assert RULES.remaining({}) is None
    assert RULES.remaining(open_at(5000, 900, 0)) is None  # the baseline does not count, it is never stopped
    assert RULES.remaining(open_at(5000, 1000, 900)) is None
    assert RULES.remaining(open_at(5000, 1000, 1000)) is not None


def test_of_a_search_without_early_stops_all_that_is_asked_for_is_left():
    rules = replace(RULES, scheduler=NoScheduler(), asked=4, baseline=False)
    left = rules.remaining(open_at(2500, 5000))
    assert (left.total, left.longest) == (7500 + 5000 + 2 * SAMPLES, SAMPLES)
    assert rules.remaining(open_at(0, 0)) is None  # there is no pace yet


def test_what_may_be_stopped_at_a_rung_counts_with_its_chance_to_go_on():
    ended = {0: Begun(SAMPLES, "ended"), 1: Begun(1000, "paused"), 2: Begun(1000, "paused")}
    rules = replace(RULES, asked=4)
    left = rules.remaining({**ended, 3: Begun(1000, "open")})  # to 2000, 4000, 8000 and the end, one in two each
    assert left.total == pytest.approx(1000 + 2000 / 2 + 4000 / 4 + 2000 / 8)
    assert left.longest == left.total


def test_where_many_collapse_those_to_come_are_expected_to():
    paused = {number: Begun(1000, "paused") for number in range(1, 5)}
    healthy = {0: Begun(SAMPLES, "ended"), **paused}
    dying = {**healthy, **{number: Begun(500, "collapsed") for number in range(5, 12)}}
    few = replace(RULES, asked=24).remaining(dying).total / 12
    many = replace(RULES, asked=24).remaining(healthy).total / 19
    assert few < 0.8 * many


def test_an_end_leaves_nothing():
    ended = {number: Begun(SAMPLES if number < 3 else 1000, "ended") for number in range(24)}
    assert RULES.remaining(ended).total == 0
    assert RULES.remaining({**ended, 23: Begun(1000, "paused")}).total == 0


@pytest.mark.parametrize("scheduler", [Asha(), Hyperband(), Median(), NoScheduler()])
def test_it_agrees_with_the_plan_of_a_search(scheduler: Scheduler):
    rules = replace(RULES, scheduler=scheduler)
    new = open_at(*[0] * 24)
    first = {number: Begun(int(rules._marks(number)[0]), "open") for number in (1, 2, 3)}  # or nothing is known
    left = rules.remaining(new | first).total / SAMPLES
    pace = Pace(sample=1.0, report=0.0, checkpoint=1)
    planned = makespan(scheduler, 24, SAMPLES, Paces(timed=(pace,)), Work(1, REPORTS)) / SAMPLES
    assert 0.5 < left / planned < 1.5


class Searching:
    """A simulated search on two workers, told as rows; a report takes ten seconds."""

    def __init__(self, rules, limits=()):
        self.rules = rules
        self.outline = Outline(
            name="a",
            score_name="fid",
            finalists=0,
            seeds=0,
            ended=False,
            rules=rules,
            limits=dict(limits),
            target=None,
            price=None,
            cpus=1,
            gpus=None,
        )
        self.tally = Tally()
        self.clock = 30.0  # of preparation

    def lines(self):
        """The time left, guessed at each report, beside the clock."""
        numbers, out, seen = itertools.count(), [], {}
        while True:
            while len(out) < 2 and (number := next(numbers)) < self.rules.asked:
                out.append(number)
            if not out:
                return
            self.clock += 5.0
            number = out.pop(0)
            seen[number] = seen.get(number, 0) + SAMPLES // REPORTS
            state = "finished" if seen[number] == SAMPLES else "running"
            early = not isinstance(self.rules.scheduler, NoScheduler)
            if early and number % 4 and seen[number] == 1000 * 2 ** (number % 3):
                state = "paused"
            self.tally.hear(row(number, seen[number], state, self.clock))
            out += [number] if state == "running" else []
            waiting = {(number, 0) for number in out}
            now = self.tally.situation(self.outline, clock=self.clock, out=waiting, confirming=False)
            yield self.clock, now.seconds_left


def row(number, samples_seen, state, clock):
    seconds = samples_seen / SAMPLES * 100
    progress = Progress(samples_seen=samples_seen, score=9.0, best_score=9.0, metrics={}, seconds=seconds)
    by = "scheduler" if state == "paused" else ""
    return row_of(progress, (number, 0), seed=0, parameters={}, run_seconds=clock, state=state, stopped_by=by)


@pytest.mark.parametrize("scheduler", [Asha(first_rung=0.1), NoScheduler()])
def test_it_neither_doubles_nor_halves_between_two_lines(scheduler):
    search = Searching(replace(RULES, scheduler=scheduler))
    lines = list(search.lines())
    known = [left for _, left in lines if left is not None]
    assert known
    assert all(left is None for _, left in lines[: len(lines) - len(known)])
    for before, after in itertools.pairwise(known):
        if before > 60:
            assert before / 2 < after < before * 2
    end = lines[-1][0]
    middle = [(clock, left) for clock, left in lines if 0.3 * end < clock < 0.8 * end]
    assert all(0.5 < left / (end - clock) < 2.0 for clock, left in middle)


@pytest.mark.parametrize(
    ("limits", "left"),
    [({"hours": 0.1}, 360), ({"samples": 20_000}, 100), ({"gpu_hours": 0.05}, 90), ({"cost": 0.2}, 360)],
)
def test_a_budget_may_end_it_before(limits, left):
    search = Searching(RULES)
    search.outline = replace(search.outline, limits=limits, price=2.0, gpus=1.0)
    lines = search.lines()
    clock, guess = next((clock, guess) for clock, guess in lines if guess is not None)
    spent = search.tally.situation(search.outline, clock=clock, out=(), confirming=False).limits[0].spent
    rest = 1 - spent / next(iter(limits.values()))
    assert guess == pytest.approx(left * rest, rel=0.2)
