import json

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gantune.driver.earlier import take_over
from gantune.driver.ledger import Ledger
from gantune.driver.study import Study
from gantune.progress import Progress
from gantune.results import Row
from gantune.run import Run
from gantune.space import load_space

FLOOR = 500.0
SPACE = """
version: 1
data: {dataset: digits, size: 8}
objective: {constraints: [recall >= 0.2]}
budget: {trials: 3, samples_per_trial: 600}
space:
  architecture: {choose: {mlp: {hidden: [8, 16]}, dcgan: {width: int 4..8}}}
  loss: hinge
  optimizer: {adam: {beta1: 0.5}}
  lr_g: log 1e-4..1e-2
baseline: {architecture: {mlp: {hidden: 8}}, lr_g: 2e-4}
"""
WIDER = ["space.optimizer={adam: {beta1: 0..0.9}}", "space.loss=[hinge, minimax]"]


class Runs:
    def __init__(self, folder):
        self.folder = folder
        (folder / "space.yaml").write_text(SPACE)

    def begin(self, name, *overrides, reference="ab12"):
        """A run that has settled how it measures."""
        space, run = load_space(self.folder / "space.yaml", overrides), Run(self.folder / "runs" / name)
        run.folder.mkdir(parents=True, exist_ok=True)
        run.begin(space)
        run.settle("fid_classifier", reference)
        return run, space

    def searched(self, name, ends, *overrides):
        """A run with a trial for each given end: a state, and a score at 300 and at its last report."""
        run, space = self.begin(name, *overrides)
        study = Study(run.study_path, space, FLOOR)
        for state, first, last in ends:
            proposal = study.propose()
            for samples_seen, score in ((300, first), (600, last)):
                run.results.append(
                    Row(
                        trial=proposal.number,
                        state=state if samples_seen == 600 else "running",
                        samples_seen=samples_seen,
                        score=score,
                        best_score=score,
                        metrics={"recall": 0.5},
                        seed=0,
                        config=json.dumps(proposal.config.parameters()),
                        cause="",
                        verdict="healthy",
                        evidence={},
                        trial_seconds=1.0,
                        run_seconds=1.0,
                    )
                )
        return run


ENDS = [("finished", 9.0, 7.0), ("pruned", 12.0, 14.0), ("collapsed", 30.0, 40.0), ("failed", 1.0, 1.0)]


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


def trials(run):
    storage = JournalStorage(JournalFileBackend(str(run.study_path)))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).trials


def test_trials_are_known_with_their_scores_and_where_they_come_from(runs):
    earlier = runs.searched("old", ENDS)
    run, space = runs.begin("new")
    line = take_over(earlier, run, space, Study(run.study_path, space, FLOOR))
    assert line == f"{earlier.folder}: 3 trials taken over as known"
    baseline, finished, pruned, collapsed = trials(run)
    assert baseline.state == TrialState.WAITING
    assert (finished.state, finished.value) == (TrialState.COMPLETE, 7.0)
    assert finished.intermediate_values == {300: 9.0, 600: 7.0}
    assert finished.constraints == {"recall >= 0.2": -1.0, "collapsed": -1.0}
    assert (pruned.state, pruned.value) == (TrialState.PRUNED, 12.0)
    assert (collapsed.state, collapsed.value) == (TrialState.COMPLETE, 12.0)  # the worst that others have shown
    assert collapsed.constraints["collapsed"] == 1.0
    assert [trial.user_attrs["from"] for trial in (finished, pruned, collapsed)] == [
        f"{earlier.folder.resolve()} #{number}" for number in range(3)
    ]


def test_what_the_earlier_run_fixed_is_filled_in(runs):
    earlier = runs.searched("old", ENDS[:1])
    run, space = runs.begin("new", "baseline=null", *WIDER)
    take_over(earlier, run, space, Study(run.study_path, space, FLOOR))
    assert trials(run)[0].params == {
        "architecture": "mlp",
        "architecture.mlp.hidden": 8,
        "loss": "hinge",
        "optimizer.adam.beta1": 0.5,
        "lr_g": 2e-4,
    }


@pytest.mark.parametrize(
    ("overrides", "cause"),
    [
        (["space.lr_g=log 1e-3..1e-2"], "lr_g 1"),
        (["space.batch_size=[16, 32]"], "batch_size 1"),
        (["space.loss=minimax"], "loss 1"),
        (["space.architecture={dcgan: {width: [4, 8]}}"], "architecture 1"),
        (["space.optimizer_d=adam"], "optimizer_d 1"),
        (["space.architecture={mlp: {hidden: [16, 32]}}"], "architecture.mlp.hidden 1"),
        (["space.optimizer={adam: {beta1: 0.6..0.9}}"], "optimizer.adam.beta1 1"),
    ],
)
def test_a_trial_that_is_no_configuration_of_the_space_is_left_out_and_told(runs, overrides, cause):
    earlier = runs.searched("old", ENDS[:1])
    run, space = runs.begin("new", "baseline=null", *overrides)
    line = take_over(earlier, run, space, Study(run.study_path, space, FLOOR))
    assert line == f"{earlier.folder}: 0 trials taken over as known; 1 do not fit this space: {cause}"
    assert trials(run) == []


def test_known_trials_are_no_trials_of_the_run(runs):
    earlier = runs.searched("old", ENDS)
    run, space = runs.begin("new")
    study = Study(run.study_path, space, FLOOR)
    take_over(earlier, run, space, study)
    ledger, numbers = Ledger(run, space, study), []
    while (proposal := ledger.next()) is not None:
        numbers.append(proposal.number)
        ended = Progress(samples_seen=600, score=99.0, best_score=99.0, metrics={"recall": 0.5}, state="finished")
        ledger.record(proposal.number, ended, stopped=True)
    assert len(numbers) == 3
    assert numbers[0] == 0  # the baseline, before those taken over
    assert not {1, 2, 3} & set(numbers)
    assert ledger.complete()
    assert ledger.best.score == 99.0
    assert run.best(run.trials()).number in numbers
    assert run.baseline(run.trials()).number == 0


def test_a_continued_run_takes_nothing_over_twice(runs):
    earlier = runs.searched("old", ENDS)
    run, space = runs.begin("new")
    take_over(earlier, run, space, Study(run.study_path, space, FLOOR))
    study = Study(run.study_path, space, FLOOR)
    line = take_over(earlier, run, space, study)
    assert line == f"{earlier.folder}: 0 trials taken over as known, 3 were known before"
    assert len(trials(run)) == 4
    assert study.propose().number == 0


def test_a_configuration_that_is_known_may_be_proposed(runs):
    """It cannot win but by being trained here."""
    finite = ["space.lr_g=2e-4", "space.architecture={mlp: {hidden: [8, 16]}}", "search.sampler=random"]
    earlier = runs.searched("old", [("finished", 5.0, 5.0)] * 2, *finite)
    run, space = runs.begin("new", *finite)
    study = Study(run.study_path, space, FLOOR)
    take_over(earlier, run, space, study)
    assert {study.propose().config.architecture.option("hidden") for _ in range(2)} == {8, 16}
    assert study.propose() is None


MANY = [
    ("finished", 50.0, 9.0),
    ("pruned", 3.0, 3.0),
    ("finished", 1.0, 7.0),
    ("collapsed", 0.1, 0.1),
    ("pruned", 8, 8),
]


@pytest.mark.parametrize(
    ("reference", "overrides", "why"),
    [
        ("cd34", [], "its scores were measured against another reference"),
        ("ab12", ["objective.samples.report=500"], "its scores were measured from another count of samples"),
        ("ab12", ["budget.samples_per_trial=1200"], "its trials had another budget"),
    ],
)
def test_of_scores_that_do_not_compare_only_the_order_carries_over(runs, reference, overrides, why):
    earlier = runs.searched("old", MANY)
    run, space = runs.begin("new", *overrides, reference=reference)
    for session in range(2):  # once only
        study = Study(run.study_path, space, FLOOR)
        line = take_over(earlier, run, space, study)
        assert (
            line
            == f"{earlier.folder}: its {0 if session else 3} best configurations are tried first, no more, for {why}"
        )
    assert all(trial.state == TrialState.WAITING for trial in trials(run))
    assert study.proposed() == 0
    rates = [study.propose().config.lr_g for _ in range(4)]
    old = {row.trial: json.loads(row.config)["lr_g"] for row in earlier.results.rows()}
    assert rates == [2e-4, old[2], old[1], old[4]]  # the baseline, then by their lowest scores
    assert study.proposed() == 4


def test_a_grid_is_not_told_of_what_it_would_take_for_visited(runs):
    grid = ["space.lr_g=[1e-3, 2e-4]", "space.architecture={mlp: {hidden: [8, 16]}}", "search.sampler=grid"]
    earlier = runs.searched("old", [("finished", 5.0, 5.0)] * 3, *grid)
    run, space = runs.begin("new", *grid)
    study = Study(run.study_path, space, FLOOR)
    assert "a grid learns nothing from scores" in take_over(earlier, run, space, study)
    found = []
    while (proposal := study.propose()) is not None:
        found.append(proposal.config.parameters())
    assert len(found) == 4


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsgaii"])
def test_the_first_proposal_is_drawn_from_what_is_known(runs, sampler):
    ends = [(["finished", "pruned"][number % 2], 20.0 + number, 10.0 + number) for number in range(12)]
    earlier = runs.searched("old", ends)
    run, space = runs.begin("new", "baseline=null", f"search.sampler={sampler}")
    study = Study(run.study_path, space, FLOOR)
    take_over(earlier, run, space, study)
    assert study.propose().number == 12
    drawn = trials(run)[-1].system_attrs
    learned = {"tpe:relative_params:0", "gp:relative_params:0", "cma:generation"} & {*drawn}
    assert learned or drawn["NSGAIISampler:generation"] == 1
