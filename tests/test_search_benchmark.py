"""Searches simulated over learning curves, on curves made by hand."""

import importlib
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path

import pytest

from gantune.config import TrialConfig
from gantune.driver.study import Proposal
from gantune.space import load_space

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
corpus = importlib.import_module("learning_curves")
simulation = importlib.import_module("simulation")
contestants = importlib.import_module("contestants")
bench = importlib.import_module("search")
sys.path.pop(0)

STEPS = 4
ALIVE = {"diversity": 0.9, "pixel_diversity": 0.9, "recall": 0.5, "d_accuracy": 0.7, "g_gradient": 1.0}
CONSTANT = {**ALIVE, "pixel_diversity": 0.0}
TINY = """
version: 1
space:
  architecture: {mlp: {hidden: [8, 16, 64], depth: int 1..3}}
  loss:
    choose:
      hinge: {}
      wgan_gp: {gp_weight: log 1..100}
  optimizer: adam
  lr_g: log 1e-4..1e-2
baseline: null
"""


def reports(scores, values=ALIVE):
    return [
        corpus.Report((i + 1) * 250, (i + 1) / STEPS, score is not None, math.nan if score is None else score, values)
        for i, score in enumerate(scores)
    ]


class Scripted(simulation.Contestant):
    """Proposes trial after trial, notes what it hears, and stops the trials it was told to stop at once."""

    def __init__(self, stops=(), disowned=()):
        self.proposed, self.heard, self.finished = 0, [], []
        self.stops, self.disowned = stops, disowned

    def propose(self):
        self.proposed += 1
        return Proposal(self.proposed - 1, None)

    def report(self, number, report, lowest):
        self.heard.append((number, lowest))
        return "stop" if number in self.stops else "continue"

    def ended(self, number, report, lowest):
        self.finished.append((number, lowest))

    def owns(self, number):
        return number not in self.disowned


class Curves:
    """Answers trials by their number, the last curve for all further ones."""

    def __init__(self, *curves):
        self.curves = curves

    def reports(self, proposal):
        return self.curves[min(proposal.number, len(self.curves) - 1)]


FALLING = reports([8, 6, 4, 2])


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("budget", [1.0, 2.25, 3.0])
def test_the_budget_is_spent_and_no_report_is_made_beyond_it(workers, budget):
    contestant = Scripted()
    search = simulation.simulate(contestant, Curves(FALLING), workers, budget)
    made = len(contestant.heard) + len(contestant.finished)
    assert search.spent == budget
    assert budget - workers / STEPS < made / STEPS <= budget


def test_reports_arrive_in_the_order_of_time():
    slow = [corpus.Report(1000, 1.0, True, 1.0, ALIVE)]
    contestant = Scripted()
    simulation.simulate(contestant, Curves(slow, FALLING), workers=2, budget=2.4)
    assert contestant.heard == [(1, 8), (1, 6), (1, 4)]
    assert contestant.finished == [(0, 1.0), (1, 2)]


def test_a_stopped_trial_frees_its_worker_at_once():
    contestant = Scripted(stops=(0, 1, 2))
    search = simulation.simulate(contestant, Curves(FALLING), workers=1, budget=1.0)
    assert [number for number, _ in contestant.heard] == [0, 1, 2, 3]
    assert search.trials == 4


def test_a_trial_is_worth_its_lowest_score_and_a_value_that_is_not_finite_nothing():
    contestant = Scripted()
    search = simulation.simulate(contestant, Curves(reports([5, 7, None, 3])), workers=1, budget=1.0)
    told = [lowest for _, lowest in [*contestant.heard, *contestant.finished]]
    assert told[:2] == [5, 5]
    assert math.isnan(told[2])
    assert told[3] == 3
    assert search.found == ((0.25, 5), (1.0, 3))


def test_a_disowned_winner_gives_way_to_the_next_best():
    contestant = Scripted()
    contestant.ended = lambda number, report, lowest: setattr(contestant, "disowned", (1,))
    search = simulation.simulate(contestant, Curves(reports([8, 7, 6, 5]), FALLING), workers=2, budget=2.0)
    assert search.best_after(1.9) == 4
    assert search.best_after(2.0) == 5


def test_a_search_is_over_when_a_trial_ends_with_what_is_enough():
    search = simulation.simulate(Scripted(), Curves(FALLING), workers=2, budget=10, enough=2)
    assert search.spent == search.reaches(2) == 2
    assert search.reaches(1) == math.inf


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "tiny.yaml"
    path.write_text(TINY)
    return load_space(path, ["budget.samples_per_trial=1000", f"objective.reports={STEPS}", "objective.constraints=[]"])


def recorded(space, scores, number, seed=0, values=ALIVE):
    """A run of the random configuration of this number."""
    config = config_of(space, number)
    parameters = json.dumps(config.parameters())
    return corpus.Curve("tiny", number, seed, parameters, tuple(reports(scores, values)))


def config_of(space, number) -> TrialConfig:
    return space.draw(contestants.RandomDraw(number), seed=0)


def test_the_nearest_configuration_of_a_recorded_one_is_itself(space):
    curves = [recorded(space, [9, 8, 7, 6], number, seed) for number in range(20) for seed in range(2)]
    table = simulation.Table(space, curves)
    for number in range(20):
        assert table.nearest(config_of(space, number)) == curves[2 * number : 2 * number + 2]


def test_a_trials_number_chooses_between_the_seeds(space):
    pair = [recorded(space, [9, 8, 7, 6], 0, seed) for seed in range(2)]
    table = simulation.Table(space, pair)
    answers = [table.reports(Proposal(number, config_of(space, 0))) for number in range(4)]
    assert answers == [pair[0].reports, pair[1].reports] * 2


def placed(**changes):
    """The place of a configuration among others that differ in one parameter."""
    fixed = {"loss": "hinge", "lr_g": 1e-3, "architecture.mlp.hidden": 16, "architecture.mlp.depth": 2}
    return json.dumps({"architecture": "mlp", **fixed, **changes})


@pytest.mark.parametrize(
    ("near", "far"),
    [
        ({"lr_g": 5e-4}, {"lr_g": 1e-4}),
        ({"lr_g": 2e-3}, {"lr_g": 4e-4}),  # on the scale of logs
        ({"architecture.mlp.depth": 3}, {"architecture.mlp.depth": 3, "lr_g": 5e-4}),
        ({"architecture.mlp.hidden": 64}, {"loss": "wgan_gp", "loss.wgan_gp.gp_weight": 1.0}),
    ],
)
def test_what_differs_less_is_nearer(space, near, far):
    curves = [corpus.Curve("tiny", i, 0, placed(**at), tuple(FALLING)) for i, at in enumerate([far, near])]
    values = {**json.loads(placed()), "optimizer": "adam"}
    config = space.draw(contestants.FixedDraw(values), seed=0)
    assert simulation.Table(space, curves).nearest(config) == [curves[1]]


def test_a_broken_run_reports_to_its_end(space):
    table = simulation.Table(space, [recorded(space, [9, None], 0), recorded(space, [9, 8, 7, 6], 1)])
    answer = table.reports(Proposal(0, config_of(space, 0)))
    assert [report.finite for report in answer] == [True, False, False, False]
    assert [report.share for report in answer] == [0.25, 0.5, 0.75, 1.0]


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir=bench.MEMORY if bench.MEMORY.is_dir() else None) as path:
        yield Path(path)


def setting(space, folder, seed=0, budget=6.0):
    return contestants.Setting(space=space, seed=seed, budget=budget, steps=STEPS, folder=folder)


def test_regret_of_random_search_on_two_curves_is_what_arithmetic_says(space, folder):
    """After n full runs it has missed the better of two equally likely curves with probability 1 / 2**n."""
    curves = []
    for number, (loss, score) in enumerate([("hinge", 10.0), ("wgan_gp", 30.0)]):
        own = {"loss": loss, "loss.wgan_gp.gp_weight": 10.0} if loss == "wgan_gp" else {"loss": loss}
        curves.append(corpus.Curve("tiny", number, 0, placed(**own), tuple(reports([score] * STEPS))))
    table = simulation.Table(space, curves)
    regrets = {runs: [] for runs in (1, 2, 3)}
    for seed in range(300):
        contestant = contestants.RandomSearch(setting(space, folder, seed))
        outcome = bench.Outcome(simulation.simulate(contestant, table, 1, 3.0), 3.0, table.best)
        for runs, found in regrets.items():
            found.append(outcome.regret((runs - 0.5) / 3))
    for runs, found in regrets.items():
        assert set(found) == {0.0, 2.0}
        assert statistics.fmean(found) == pytest.approx(2 / 2**runs, abs=0.2)


def test_the_top_of_random_runs_goes_on_to_the_end(space, folder):
    """Four first looks of a quarter of a run, then the two lowest of them, which do not begin anew."""
    contestant = contestants.TopOfRandom(setting(space, folder, budget=2.0))
    curves = Curves(*(reports([first, 5, 5, last]) for first, last in ((9, 0), (8, 0), (3, 2), (6, 1))))
    search = simulation.simulate(contestant, curves, workers=2, budget=2.5)
    assert search.trials == 4
    assert search.found == ((0.5, 9), (0.5, 8), (1.0, 3), (2.5, 2), (2.5, 1))


@pytest.mark.parametrize("name", contestants.CONTESTANTS)
@pytest.mark.parametrize("workers", [1, 3])
def test_every_contestant_finds_something_and_the_same_for_a_seed(space, folder, name, workers):
    good = [recorded(space, [90 - number, 50, 40, 30 + number], number) for number in range(6)]
    bad = [recorded(space, [90, None], 6), recorded(space, [95, 94, 93, 93], 7, values=CONSTANT)]
    table = simulation.Table(space, [*good, *bad])
    searches = []
    for attempt in ("first", "again"):
        (folder / attempt).mkdir()
        contestant = contestants.CONTESTANTS[name](setting(space, folder / attempt))
        searches.append(simulation.simulate(contestant, table, workers, 6.0))
    assert searches[0] == searches[1]
    assert searches[0].spent == 6
    assert searches[0].trials >= 6
    assert 30 <= searches[0].best_after(6.0) <= 50


def test_a_run_that_collapses_is_stopped_and_never_ours(space, folder):
    table = simulation.Table(space, [recorded(space, [5, 4, 3, 2], 0, values=CONSTANT)])
    search = simulation.simulate(contestants.Ours(setting(space, folder)), table, 1, 2.0)
    assert search.trials == 2 * STEPS + 1
    assert search.best_after(2.0) == math.inf


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_tune_lets_a_broken_run_go_on_to_its_end(space, folder):
    table = simulation.Table(space, [recorded(space, [5, None], 0), recorded(space, [5, 4, 3, 2], 0, seed=1)])
    shipped = contestants.CONTESTANTS[contestants.SHIPPED](setting(space, folder))
    search = simulation.simulate(shipped, table, workers=1, budget=2.0)
    assert search.found == ((0.25, 5), (1.5, 4), (1.75, 3), (2.0, 2))


def outcome(*found):
    return bench.Outcome(simulation.Search(found=found, spent=10, trials=1), 10, 2.0)


def test_compute_is_compared_where_the_median_regret_is_first_the_shipped_ones_last():
    shipped = [outcome((1.0, 8.0), (8.0, 4.0)), outcome((1.0, 8.0), (8.0, 4.0)), outcome((1.0, 8.0))]
    assert bench.share_of_shipped(shipped, shipped) == 1
    assert bench.share_of_shipped([outcome((2.0, 3.0))], shipped) == pytest.approx(0.25)
    assert bench.share_of_shipped([outcome((2.0, 5.0))], shipped) == math.inf


def test_a_table_tells_regret_over_compute_and_who_got_near(capsys):
    shipped = [outcome((1.0, 8.0), (8.0, 4.0))] * 3
    bench.tell("tiny", {contestants.SHIPPED: shipped, "other": [outcome((2.0, 3.0), (5.0, 2.0))] * 3})
    *_, first, second = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in second.strip("|").split("|")]
    assert cells == [
        "other",
        "0.50 (0.50..0.50)",
        "0.00 (0.00..0.00)",
        "0.00 (0.00..0.00)",
        "0.50",
        "100%",
        "1",
        "0.25",
    ]
    assert [cell.strip() for cell in first.strip("|").split("|")][4:6] == ["-", "0%"]


def test_many_workers_get_fewer_seeds_but_some():
    assert [bench.seeds_for(workers, 30) for workers in (4, 64, 256, 4096)] == [30, 30, 7, 5]
    assert bench.seeds_for(256, 2) == 2
