import math

import pytest
from made_runs import SPACE, make_run

from gantune.report.study import SCORE, importances, outcome, study_of
from gantune.space import load_space


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"), trials=60, weights=False)


def test_a_study_holds_every_trial_that_has_a_score_at_its_lowest(run):
    study = study_of(load_space(SPACE), run.trials())
    told = {trial.user_attrs["number"]: trial for trial in study.trials}
    for trial in run.trials():
        assert told[trial.number].user_attrs[SCORE] == trial.lowest_score
        assert told[trial.number].value == pytest.approx(math.log(trial.lowest_score))
        assert told[trial.number].params["lr_g"] == trial.parameters["lr_g"]


def test_the_parameter_that_decides_is_the_most_important(run):
    space = load_space(SPACE)
    found = importances(space, study_of(space, run.trials()))
    assert next(iter(found[""])) == "lr_g"
    assert found[""]["lr_g"] > 0.7
    assert all(sum(group.values()) == pytest.approx(1) for group in found.values())


def test_parameters_of_a_branch_are_weighed_among_the_trials_that_took_it(run):
    space = load_space(SPACE)
    found = importances(space, study_of(space, run.trials()))
    assert set(found[""]) == {"architecture", "loss", "penalty", "optimizer", "lr_g", "batch_size"}
    assert set(found["architecture.dcgan"]) == {"architecture.dcgan.width", "architecture.dcgan.norm_d"}


def test_nothing_is_said_of_few_trials(tmp_path):
    few = make_run(tmp_path, trials=6, weights=False)
    space = load_space(SPACE)
    assert importances(space, study_of(space, few.trials())) == {}


def test_an_outcome_names_the_collapse(run):
    outcomes = {outcome(trial) for trial in run.trials()}
    assert {"finished", "pruned", "running", "mode_collapse", "discriminator_won", "diverged"} == outcomes
