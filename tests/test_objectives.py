"""Several objectives: their language, what is measured, what the study hears, who is stopped, and the front."""

import json
import math
import random
import subprocess
import sys
import time
from dataclasses import replace

import jsonschema
import optuna
import pytest
import torch
from click.testing import CliRunner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.utils import flatten_dict
from ruamel.yaml import YAML

from gantune.cli.main import cli
from gantune.config import Asha, Hyperband
from gantune.data.data_set import open_data
from gantune.domains import FixedDraw
from gantune.driver.auto import sampler_of
from gantune.driver.earlier import take_over
from gantune.driver.fronts import FrontHalving, epsilon_net
from gantune.driver.ledger import Ledger
from gantune.driver.schedulers import CONTINUE, STOP, Remembering, build_scheduler
from gantune.driver.study import Study
from gantune.errors import DataError, SpecError
from gantune.metrics import costs
from gantune.metrics.reference import METRICS, SCORES
from gantune.metrics.reference_file import check_reference, load_reference, prepare_reference
from gantune.objectives import BETTER, COSTS, fronts, point
from gantune.progress import Progress
from gantune.results import Row
from gantune.run import Run
from gantune.schema import schema
from gantune.sections import CONSTRAINT_METRICS, OBJECTIVES
from gantune.space import load_space, load_trial
from gantune.trial import train_trial
from gantune.writing import dump, trial_document

FLOOR = 500.0
BUDGET = 1200
SPACE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
objective: {metric: [fid, generator_parameters, recall], samples: {report: 256, final: 300}, reports: 3}
collapse: {enabled: false}
budget: {trials: 12, samples_per_trial: 300}
space:
  architecture: {mlp: {hidden: [8, 16, 32], depth: 1, z_dim: 4}}
  loss: [hinge, minimax]
  optimizer: {adam: {beta1: 0..0.9}}
  lr_g: log 1e-3..1e-2
  batch_size: 16
"""


@pytest.fixture
def load(tmp_path):
    def loaded(*overrides):
        path = tmp_path / "tiny.yaml"
        path.write_text(SPACE)
        return load_space(path, overrides)

    return loaded


@pytest.fixture
def run(tmp_path, load):
    found = Run(tmp_path / "runs" / "tiny")
    found.folder.mkdir(parents=True)
    found.begin(load())
    found.settle("fid_classifier", "ab12")
    return found


def stored(run):
    """The study as optuna-dashboard opens it."""
    storage = JournalStorage(JournalFileBackend(str(run.study_path)))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def progress(score, parameters=None, recall=None, *, samples_seen=300, best_score=None, state="finished"):
    given = {"generator_parameters": parameters, "recall": recall}
    metrics = {name: value for name, value in given.items() if value is not None}
    best_score = score if best_score is None else best_score
    return Progress(samples_seen=samples_seen, score=score, best_score=best_score, metrics=metrics, state=state)


# The language


def test_every_metric_has_one_direction_and_every_objective_is_a_metric():
    assert [*BETTER] == [*METRICS]
    assert {*OBJECTIVES} == {*SCORES, *COSTS, *CONSTRAINT_METRICS} <= {*BETTER}


def test_a_list_of_objectives_has_the_score_first_and_is_written_back(load, tmp_path):
    space = load()
    assert (space.objective.metric, space.objective.others) == ("fid", ("generator_parameters", "recall"))
    assert space.document()["objective"]["metric"] == ["fid", "generator_parameters", "recall"]
    config = space.draw(optuna.trial.FixedTrial({"loss": "hinge", **INNER}), seed=3)
    (tmp_path / "config.yaml").write_text(dump(trial_document(config)))
    assert load_trial(tmp_path / "config.yaml") == config


INNER = {"architecture.mlp.hidden": 8, "optimizer.adam.beta1": 0.5, "lr_g": 2e-3}


@pytest.mark.parametrize("metric", ["kid", "[kid]"])
def test_one_objective_is_written_as_a_name(load, metric):
    space = load(f"objective.metric={metric}")
    assert (space.objective.metric, space.objective.others) == ("kid", ())
    assert space.document()["objective"]["metric"] == "kid"


@pytest.mark.parametrize(
    ("override", "column", "complaints"),
    [
        ("objective.metric=[recall, fid]", 19, ["the first is the score, one of fid, fid_inf, kid, got `recall`"]),
        ("objective.metric=[fid, recal]", 24, ["got `recal`", "did you mean `recall`?"]),
        ("objective.metric=[fid, inception_score]", 24, ["got `inception_score`", "known: fid, "]),
        ("objective.metric=[fid, fid]", 24, ["has `fid` twice", "name it once"]),
        ("objective.metric=[fid, [kid]]", 24, ["expected a metric that reports measure"]),
        ("objective.metric=[]", 18, ["got an empty list"]),
        ("objective.others=[recall]", 1, ["unknown setting `others`"]),
        ("search.sampler=cmaes", 16, ["cmaes knows one objective, and there are 3", "use tpe, gp"]),
        ("search.scheduler=median", 18, ["the median rule compares one score", "use asha, hyperband or none"]),
        ("search.scheduler={median: {grace: 0.5}}", 18, ["the median rule compares one score"]),
    ],
)
def test_what_cannot_be_aimed_at_is_told_with_its_place(load, override, column, complaints):
    with pytest.raises(SpecError) as caught:
        load(override)
    assert f"--set {override.partition('=')[0]}:1:{column}  " in str(caught.value)
    for complaint in complaints:
        assert complaint in str(caught.value)
    assert "1 error." in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "sampler"),
    [
        ([], "gp"),
        (["budget.trials=1000"], "tpe"),
        (["objective.metric=[fid, recall, density, coverage]"], "tpe"),
        (["space.loss=hinge", "space.architecture=mlp", "budget.trials=1000"], "tpe"),
        (["space.loss=hinge", "space.architecture=mlp", "budget.trials=1000", "objective.metric=fid"], "cmaes"),
    ],
)
def test_auto_picks_a_sampler_that_knows_several_objectives(load, overrides, sampler):
    assert sampler_of(load("search.sampler=auto", *overrides)) == sampler


def test_check_tells_the_objectives_and_their_directions(load, tmp_path):
    load()
    found = CliRunner().invoke(cli, ["check", str(tmp_path / "tiny.yaml")])
    assert "objectives: fid (lower is better), generator_parameters (lower is better), recall (higher" in found.output
    assert "samples, by the front" in found.output


@pytest.mark.parametrize(
    ("metric", "sound"),
    [
        ("kid", True),
        ("[kid]", True),
        ("[fid, seconds_per_image, recall]", True),
        ("recall", False),
        ("[recall, fid]", False),
        ("[fid, fid]", False),
        ("[fid, inception_score]", False),
        ("[]", False),
    ],
)
def test_editors_accept_what_the_reader_accepts(load, metric, sound):
    tree = YAML(typ="safe", pure=True).load(SPACE)
    tree["objective"]["metric"] = YAML(typ="safe", pure=True).load(metric)
    assert jsonschema.Draft202012Validator(json.loads(json.dumps(schema()))).is_valid(tree) == sound
    try:
        assert load(f"objective.metric={metric}").objective.metric in metric
    except SpecError:
        assert not sound
    else:
        assert sound


# Fronts


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_each_front_is_beaten_by_the_one_before_and_by_none_of_its_own(seed, objectives):
    rng = random.Random(seed)
    points = [tuple(float(rng.randrange(8)) for _ in range(objectives)) for _ in range(40)]

    def beats(one, other):
        return one != other and all(a <= b for a, b in zip(points[one], points[other], strict=True))

    def beaten(at, front):
        return any(beats(other, at) and points[other] != points[at] for other in front)

    found = fronts(points)
    assert sorted(at for front in found for at in front) == list(range(40))
    for number, front in enumerate(found):
        assert not any(beaten(at, front) for at in front)
        assert number == 0 or all(beaten(at, found[number - 1]) for at in front)


def test_what_is_better_high_is_turned_and_what_was_not_measured_is_worst():
    assert point(3.0, ["recall", "generator_parameters"], {"recall": 0.5}) == (3.0, -0.5, math.inf)
    assert point(3.0, ["recall"], {}) == (3.0, math.inf)


def test_a_net_begins_with_the_lowest_score_and_takes_the_farthest_next():
    points = [(5.0, 5.0), (9.0, 1.0), (1.0, 9.0), (5.1, 4.9), (1.1, math.inf)]
    assert epsilon_net(points[:4])[:3] == [2, 1, 0]
    assert sorted(epsilon_net(points)) == [0, 1, 2, 3, 4]
    assert epsilon_net([(1.0, 1.0)] * 3) == [0, 1, 2]


# Early stops


def asha(rows=(), kept=(), **settings):
    config = Asha(**{"spared": 0.0, "first_rung": 0.25, "reduction": 3, **settings})
    return Remembering(FrontHalving(config, BUDGET, ["recall"]), config.spared, rows, kept)


def hyperband(rows=(), kept=(), **settings):
    config = Hyperband(**{"spared": 0.0, "first_rung": 0.25, "reduction": 3, **settings})
    return Remembering(FrontHalving(config, BUDGET, ["recall"]), config.spared, rows, kept)


def row(trial, samples_seen, score, recall, state="running"):
    return Row(
        trial=trial,
        state=state,
        samples_seen=samples_seen,
        score=score,
        best_score=score,
        metrics={"recall": recall},
        seed=0,
        config="{}",
        cause="",
        verdict="healthy",
        evidence={},
        trial_seconds=0.0,
        run_seconds=float(samples_seen),
    )


def hear(scheduler, trial, samples_seen, score, recall):
    result = {"number": trial, "samples_seen": samples_seen, "score": score, "metrics": (("recall", recall),)}
    return scheduler.on_trial_result(None, None, flatten_dict(result))  # as Tune passes it on


@pytest.mark.parametrize("seed", range(5))
def test_a_trial_of_the_front_goes_on_whatever_its_other_objective(seed):
    rng, scheduler, seen = random.Random(seed), asha(), []
    decisions = []
    for trial in range(60):
        seen.append((rng.uniform(5, 50), rng.uniform(0, 1)))
        decisions.append(hear(scheduler, trial, 300, *seen[-1]))
        front = fronts([point(score, ["recall"], {"recall": recall}) for score, recall in seen])
        if trial in front[0]:
            assert decisions[-1] == CONTINUE
        if trial in front[-1] and len(front) > 1 and len(front[-1]) < 2 * len(seen) / 3:
            assert decisions[-1] == STOP
    assert 5 < decisions.count(CONTINUE) < 40


def test_a_trial_that_is_beaten_in_everything_is_stopped_and_one_better_in_the_other_is_not():
    scheduler = asha()
    assert hear(scheduler, 0, 299, 40.0, 0.1) == CONTINUE  # before the rung
    assert hear(scheduler, 1, 300, 10.0, 0.5) == CONTINUE
    assert hear(scheduler, 2, 300, 11.0, 0.4) == STOP
    assert hear(scheduler, 3, 300, 90.0, 0.6) == CONTINUE
    assert hear(scheduler, 4, 300, 91.0, 0.5) == STOP
    assert hear(scheduler, 1, 450, 99.0, 0.0) == CONTINUE  # between rungs


def test_where_the_other_objective_is_the_same_for_all_the_score_decides():
    scheduler = asha(reduction=2)
    scores = [10.0, 30.0, 5.0, 40.0, 9.0, 20.0]
    decisions = [hear(scheduler, trial, 300, score, 0.5) for trial, score in enumerate(scores)]
    assert decisions == [CONTINUE, STOP, CONTINUE, STOP, CONTINUE, STOP]


def test_a_trial_is_judged_at_the_moment_of_its_lowest_score():
    for best_recall, decision in ((0.9, CONTINUE), (0.1, STOP)):
        scheduler = asha()
        hear(scheduler, 0, 300, 5.0, 0.5)
        hear(scheduler, 1, 100, 10.0, best_recall)
        assert hear(scheduler, 1, 300, 20.0, 1.0 - best_recall) == decision


def test_the_baseline_counts_and_is_never_stopped():
    scheduler = asha(kept=[1])
    hear(scheduler, 0, 300, 5.0, 0.5)
    assert hear(scheduler, 1, 300, 9.0, 0.4) == CONTINUE
    assert hear(scheduler, 2, 300, 9.5, 0.3) == STOP


@pytest.mark.parametrize("spared", [0.0, 0.3])
@pytest.mark.parametrize("make", [asha, hyperband])
def test_one_filled_from_rows_decides_as_the_one_that_lived_through_them(make, spared):
    rng = random.Random(7)
    whole, rows, seen, decisions = make(spared=spared), [], dict.fromkeys(range(16), 0), []
    while seen:
        trial = rng.choice(list(seen))
        seen[trial] += 100
        score, recall = rng.uniform(5, 50), rng.random()
        again = make(rows, spared=spared)
        decision = hear(whole, trial, seen[trial], score, recall)
        assert hear(again, trial, seen[trial], score, recall) == decision
        decisions.append(decision)
        rows.append(row(trial, seen[trial], score, recall, "pruned" if decision == STOP else "running"))
        if decision == STOP or seen[trial] == BUDGET - 100:
            del seen[trial]
    assert STOP in decisions


def test_a_search_of_several_objectives_judges_by_the_front(load):
    rows = [row(0, 100, 10.0, 0.5)]
    for metric, decision in (("[fid, recall]", CONTINUE), ("fid", STOP)):
        scheduler = build_scheduler(load(f"objective.metric={metric}", "search.scheduler={asha: {spared: 0}}"), rows)
        assert hear(scheduler, 1, 100, 20.0, 0.6) == decision


# The study


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsgaii", "nsgaiii", "random", "qmc", "grid"])
def test_a_study_of_three_objectives_proposes_and_goes_on_after_reopening(run, load, sampler):
    finite = ["space.lr_g=[1e-3, 2e-3, 4e-3]", "space.optimizer=adam"] if sampler == "grid" else []
    space = load(f"search.sampler={sampler}", "budget.trials=18", *finite)
    states = ["finished", "pruned", "collapsed", "failed", "finished", "finished"]
    numbers = []
    for session in range(3):
        ledger = Ledger(run, space, Study(run.study_path, space, FLOOR))
        for count in range(6):
            number = ledger.next().number
            numbers.append(number)
            score = 10.0 + number % 5
            if states[count] == "failed":
                ledger.fail(number, "its worker died")
                continue
            state = "running" if states[count] == "pruned" else states[count]
            ledger.record(number, progress(score, 100.0 + count, 0.1 * session, state=state), stopped=True)
        ledger.settle()  # or the next session would try what failed again
    assert len(set(numbers)) == 18
    assert Ledger(run, space, Study(run.study_path, space, FLOOR)).complete()
    study = stored(run)
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE", "MAXIMIZE"]
    assert all(len(trial.values) == 3 for trial in study.trials if trial.state == TrialState.COMPLETE)


def test_a_stopped_trial_is_complete_with_what_it_came_to(run, load):
    ledger = Ledger(run, load(), Study(run.study_path, load(), FLOOR))
    number = ledger.next().number
    ledger.record(number, progress(30.0, 50.0, 0.4, samples_seen=100, state="running"), stopped=False)
    again = Ledger(run, load(), Study(run.study_path, load(), FLOOR))
    assert again.next().number == number
    last = progress(40.0, 50.0, 0.9, samples_seen=200, best_score=30.0, state="running")
    again.record(number, last, stopped=True)
    (trial,) = stored(run).trials
    assert trial.state == TrialState.COMPLETE
    assert trial.values == [30.0, 50.0, 0.4]  # of the best checkpoint's moment, and not the last
    assert trial.user_attrs["state"] == "pruned"
    assert trial.constraints["collapsed"] < 0


def test_a_collapsed_trial_is_told_the_worst_of_every_objective_and_as_infeasible(run, load):
    ledger = Ledger(run, load(), Study(run.study_path, load(), FLOOR))
    ledger.record(ledger.next().number, progress(None, 70.0, state="collapsed"), stopped=True)
    ledger.record(ledger.next().number, progress(30.0, 50.0, 0.4), stopped=True)
    ledger.record(ledger.next().number, progress(20.0, 90.0, 0.6), stopped=True)
    ledger.record(ledger.next().number, progress(60.0, 40.0, 0.5, state="collapsed"), stopped=True)
    trials = stored(run).trials
    assert trials[0].values == [FLOOR, 70.0, 0.0]
    assert trials[3].values == [FLOOR, 90.0, 0.0]
    assert [trial.number for trial in stored(run).best_trials] == [1, 2]


def test_a_trial_that_was_ended_before_its_first_report_has_no_values(run, load):
    ledger = Ledger(run, load(), Study(run.study_path, load(), FLOOR))
    ledger.withdraw(ledger.next().number, "stopped by a person")
    (trial,) = stored(run).trials
    assert (trial.state, trial.values) == (TrialState.PRUNED, None)
    study = Study(run.study_path, load("search.sampler=tpe"), FLOOR)
    assert [study.propose().number for _ in range(3)] == [1, 2, 3]


def test_one_objective_is_told_as_ever(run, load):
    space = load("objective.metric=fid")
    study = Study(run.folder / "other.journal", space, FLOOR)
    number = study.propose().number
    study.report(number, 100, 30.0)
    study.tell(number, "pruned", 30.0, attributes={}, violations={}, metrics={"recall": 0.3})
    storage = JournalStorage(JournalFileBackend(str(run.folder / "other.journal")))
    (trial,) = optuna.load_study(study_name=None, storage=storage).trials
    assert (trial.state, trial.values, trial.intermediate_values) == (TrialState.PRUNED, [30.0], {100: 30.0})


# Earlier runs


def earlier(tmp_path, load, metric):
    space, found = load(f"objective.metric={metric}"), Run(tmp_path / "runs" / "earlier")
    found.folder.mkdir(parents=True)
    found.begin(space)
    found.settle("fid_classifier", "ab12")
    ledger = Ledger(found, space, Study(found.study_path, space, FLOOR))
    for state, *values in [("finished", 20.0, 60.0, 0.4), ("running", 30.0, 50.0, 0.3), ("collapsed", 40.0, 80.0, 0.1)]:
        ledger.record(ledger.next().number, progress(*values, state=state), stopped=True)
    return found


def test_an_earlier_run_of_the_same_objectives_is_known_with_all_values(tmp_path, load, run):
    study = Study(run.study_path, load(), FLOOR)
    told = take_over(earlier(tmp_path, load, "[fid, recall, generator_parameters]"), run, load(), study)
    assert "3 trials taken over" in told
    values = [trial.values for trial in stored(run).trials]
    assert values == [[20.0, 60.0, 0.4], [30.0, 50.0, 0.3], [30.0, 80.0, 0.1]]
    assert {trial.state for trial in stored(run).trials} == {TrialState.COMPLETE}
    assert study.propose().number == 3


@pytest.mark.parametrize(
    ("theirs", "ours", "why"),
    [
        ("fid", "[fid, recall, generator_parameters]", "it did not measure generator_parameters"),
        ("[fid, seconds_per_image]", "[fid, seconds_per_image]", "its seconds_per_image may be another machine's"),
    ],
)
def test_what_was_not_measured_alike_is_only_tried_first(tmp_path, load, run, theirs, ours, why):
    space = load(f"objective.metric={ours}")
    study = Study(run.study_path, space, FLOOR)
    told = take_over(earlier(tmp_path, load, theirs), run, space, study)
    assert f"its 2 best configurations are tried first, no more, for {why}" in told


# What is measured


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objectives")
    (folder / "tiny.yaml").write_text(SPACE)
    images = open_data(load_space(folder / "tiny.yaml").data)
    return images, load_reference(prepare_reference(images))


def trained(load, digits, folder, metric):
    config = load(f"objective.metric={metric}").draw(optuna.trial.FixedTrial({"loss": "hinge", **INNER}), seed=3)
    return list(train_trial(config, *digits, folder, torch.device("cpu")))


def test_every_report_measures_the_further_objectives_and_trains_the_same(load, digits, tmp_path):
    plain = trained(load, digits, tmp_path / "plain", "fid")
    several = trained(load, digits, tmp_path / "several", "[fid, kid, seconds_per_image, generator_parameters]")
    assert [report.score for report in several] == [report.score for report in plain]
    for report in several:
        assert report.metrics["kid"] == report.metrics["kid_classifier"]
        assert 0 < report.metrics["seconds_per_image"] < 1
        assert report.metrics["generator_parameters"] == 4 * 8 + 8 + 8 * 64 + 64  # two layers with biases
    assert not {"kid", *COSTS} & {*plain[-1].metrics}


def test_a_cost_is_known_of_a_dead_trial_too(load, digits, tmp_path):
    config = load("objective.metric=[fid, generator_parameters]").draw(FixedDraw({"loss": "hinge", **INNER}), seed=3)
    dead = replace(config, lr_g=1e30)
    (*_, last) = train_trial(dead, *digits, tmp_path / "dead", torch.device("cpu"))
    assert (last.state, last.score) == ("collapsed", None)
    assert last.metrics["generator_parameters"] == 616


def test_time_is_that_of_one_image_of_a_warm_generator():
    taken = iter([0.3] * costs.WARM_UP + [0.0128] * (costs.TIMED - 1) + [0.3])

    def generate(latents, labels):
        assert (latents.shape, labels.shape) == ((64, 4), (64,))
        time.sleep(next(taken))

    found = costs.seconds_per_image(generate, 4, torch.device("cpu"), labelled=True)
    assert 0.0002 <= found < 0.002


def test_a_biased_distance_is_refused_wherever_it_stands(load, digits):
    images, reference = digits
    few = load("objective.metric=[kid, fid]", "objective.samples.report=64")
    with pytest.raises(DataError, match=r"objective.samples.report: fid from 64 samples"):
        check_reference(images, few.objective, reference)
    check_reference(images, load("objective.metric=[kid, recall]", "objective.samples.report=64").objective, reference)


# The front of a run


def record(run, number, state, *values, samples_seen=300):
    score, parameters, recall = values
    metrics = {"generator_parameters": parameters, "recall": recall}
    run.results.append(
        Row(**{**_plain(row(number, samples_seen, score, recall, state)), "metrics": metrics, "verdict": "healthy"})
    )


def _plain(one):
    return {name: getattr(one, name) for name in Row.__slots__}


def test_the_front_is_of_survivors_that_no_other_beats(run):
    record(run, 0, "finished", 10.0, 100.0, 0.5)
    record(run, 1, "pruned", 30.0, 50.0, 0.3)
    record(run, 2, "finished", 11.0, 100.0, 0.5)  # beaten by the first
    record(run, 3, "collapsed", 1.0, 10.0, 0.9)
    record(run, 4, "finished", 12.0, 100.0, 0.6)
    assert [trial.number for trial in run.front(run.trials())] == [0, 4, 1]
    assert run.best(run.trials()).number == 0

    found = CliRunner().invoke(cli, ["best", str(run.folder)]).output
    assert "front: 3 trials that no other beats in everything" in found
    assert [line.split() for line in found.splitlines() if line.lstrip().startswith("#")] == [
        ["#0", "10", "100", "0.5"],
        ["#4", "12", "100", "0.6"],
        ["#1", "30", "50", "0.3"],
    ]
    told = json.loads(CliRunner().invoke(cli, ["best", str(run.folder), "--json"]).output)
    assert [one["trial"] for one in told["front"]] == [0, 4, 1]
    assert told["front"][0]["objectives"] == {"fid_classifier": 10.0, "generator_parameters": 100.0, "recall": 0.5}


def test_of_one_objective_the_front_is_the_lowest_score_and_is_not_shown(tmp_path, load):
    run = Run(tmp_path / "runs" / "one")
    run.folder.mkdir(parents=True)
    run.begin(load("objective.metric=fid"))
    record(run, 0, "finished", 10.0, 100.0, 0.5)
    record(run, 1, "finished", 12.0, 10.0, 0.9)
    assert [trial.number for trial in run.front(run.trials())] == [0]
    assert "front" not in CliRunner().invoke(cli, ["best", str(run.folder)]).output


def test_a_search_of_two_objectives_finds_a_front_and_its_trials_train_again(tmp_path):
    (tmp_path / "tiny.yaml").write_text(SPACE)
    settings = [
        *("objective.metric=[fid, seconds_per_image]", "budget.trials=4", "budget.samples_per_trial=600"),
        "search.scheduler={asha: {first_rung: 0.3, reduction: 2, spared: 0}}",
    ]

    def gantune(*arguments):
        command = [sys.executable, "-m", "gantune", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    done = gantune("search", "tiny.yaml", *(word for setting in settings for word in ("--set", setting)))
    assert "also seconds_per_image, lower is better" in done.stderr
    assert "4/4" in done.stderr
    run = Run(tmp_path / "runs" / "tiny")
    trials = run.trials()
    told = {trial.number: trial.values for trial in stored(run).trials}
    assert told == {trial.number: [trial.best_score, trial.metrics["seconds_per_image"]] for trial in trials}
    best = json.loads(gantune("best", "--json").stdout)
    assert best["score"] == min(trial.best_score for trial in trials)
    assert best["trial"] == best["front"][0]["trial"]
    again = gantune("replay", "0", "--device", "cpu").stdout
    assert "#0 is the same" in again
    assert "seconds_per_image is left out" in again
