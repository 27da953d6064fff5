import json
import math
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.samplers._gp import sampler as gp_module
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gantune.compatibility import conflict
from gantune.config import SearchConfig
from gantune.driver import samplers as samplers_module
from gantune.driver import study as study_module
from gantune.driver.study import Study
from gantune.errors import RunError
from gantune.space import load_space

FLOOR = 500.0
ATTRIBUTES = {"cause": "because", "samples_seen": 300, "verdict": "healthy"}

SPACE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
budget: {trials: 3, samples_per_trial: 600}
space:
  architecture: {choose: {mlp: {hidden: [8, 16]}, dcgan: {width: int 4..8}}}
  loss: [minimax, hinge]
  optimizer: {adam: {beta1: 0..0.9}}
  lr_g: log 1e-4..1e-2
  batch_size: [16, 32]
baseline:
  architecture: {mlp: {hidden: 8}}
  loss: hinge
  optimizer: {adam: {beta1: 0.5}}
  lr_g: 2e-4
  batch_size: 32
"""
CONFLICTING = """
version: 1
data: {dataset: digits, size: 8}
space:
  architecture: {dcgan: {width: 4, norm_d: [batch, layer]}}
  loss: {wgan_gp: {gp_weight: log 1..20}}
  optimizer: adam
  lr_g: log 1e-4..1e-2
"""


@pytest.fixture
def load(tmp_path):
    def loaded(text=SPACE):
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return load_space(path)

    return loaded


@pytest.fixture
def space(load):
    return load()


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a-run").mkdir()
    return tmp_path / "a-run" / "study.journal"


def plain(path):
    """The study as optuna-dashboard opens it."""
    storage = JournalStorage(JournalFileBackend(str(path)))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def tell(study, number, state, score, violations=None):
    study.tell(number, state, score, attributes=ATTRIBUTES, violations=violations or {})


def states(path):
    return [trial.state for trial in plain(path).trials]


# Proposals


def test_the_baseline_is_the_first_proposal(path, space):
    proposal = Study(path, space, FLOOR).propose()
    assert proposal.number == 0
    parameters = proposal.config.parameters()
    assert parameters.items() >= space.baseline.items()
    assert parameters["architecture"] == "mlp"
    assert parameters["lr_g"] == 2e-4


def test_the_baseline_is_proposed_once_even_where_the_study_is_reopened_before(path, space):
    Study(path, space, FLOOR)
    assert Study(path, space, FLOOR).propose().config.lr_g == 2e-4
    assert Study(path, space, FLOOR).propose().config.lr_g != 2e-4
    assert len(plain(path).trials) == 2


FIRST = """first:
  - {architecture: {dcgan: {width: 5}}, loss: minimax, optimizer: {adam: {beta1: 0}}, lr_g: 3e-4, batch_size: 16}
  - {architecture: {mlp: {hidden: 16}}, loss: hinge, optimizer: {adam: {beta1: 0.9}}, lr_g: 4e-4, batch_size: 32}
"""


def proposed(study, count):
    return [study.propose().config.lr_g for _ in range(count)]


def test_first_configurations_are_proposed_after_the_baseline_in_their_order(path, load):
    space = load(SPACE + FIRST)
    study = Study(path, space, FLOOR)
    proposals = [study.propose() for _ in range(6)]
    assert [proposal.number for proposal in proposals] == list(range(6))
    for proposal, values in zip(proposals, space.given(), strict=False):
        assert proposal.config.parameters().items() >= values.items()
    assert not {proposal.config.lr_g for proposal in proposals[3:]} & {2e-4, 3e-4, 4e-4}


def test_first_configurations_without_a_baseline_begin_the_search(path, load):
    study = Study(path, load(SPACE[: SPACE.index("baseline:")] + FIRST), FLOOR)
    assert proposed(study, 2) == [3e-4, 4e-4]


@pytest.mark.parametrize("before", range(4))
def test_first_configurations_are_proposed_once_whenever_the_study_is_reopened(path, load, before):
    space = load(SPACE + FIRST)
    rates = proposed(Study(path, space, FLOOR), before)
    rates += proposed(Study(path, space, FLOOR), 5 - before)
    assert rates[:3] == [2e-4, 3e-4, 4e-4]
    assert not set(rates[3:]) & set(rates[:3])
    assert len(plain(path).trials) == 5


@pytest.mark.parametrize("written", range(3))
def test_first_configurations_are_complete_although_a_kill_came_between_them(path, load, monkeypatch, written):
    enqueue, left = optuna.Study.enqueue_trial, [written]

    def killed(*anything, **more):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return enqueue(*anything, **more)

    space = load(SPACE + FIRST)
    monkeypatch.setattr(optuna.Study, "enqueue_trial", killed)
    with pytest.raises(KeyboardInterrupt):
        Study(path, space, FLOOR)
    monkeypatch.undo()
    assert proposed(Study(path, space, FLOOR), 3) == [2e-4, 3e-4, 4e-4]


def test_proposals_count_up_and_lie_in_the_space(path, space):
    study = Study(path, space, FLOOR)
    assert study.proposed() == 0
    proposals = [study.propose() for _ in range(8)]
    assert [proposal.number for proposal in proposals] == list(range(8))
    for proposal in proposals:
        assert 1e-4 <= proposal.config.lr_g <= 1e-2
        assert proposal.config.batch_size in (16, 32)
        assert proposal.config.samples == 600
    assert study.proposed() == 8
    assert len({proposal.config.seed for proposal in proposals}) == 8


SAMPLERS = ["tpe", "gp", "cmaes", "nsgaii", "nsgaiii", "qmc", "random"]  # of spaces that are not finite
STARTUP = 10  # trials that tpe and gp draw at random


def learned(study, count):
    """Proposals told in turn how they ended, every way there is; every fourth is left open."""
    found = []
    for index in range(count):
        found.append(study.propose())
        number, score = found[-1].number, 1e4 * abs(found[-1].config.lr_g - 1e-3)
        if index % 4 == 3:
            continue
        study.report(number, 100, score)
        state = ["pruned", "finished", "collapsed"][index % 3]
        tell(study, number, state, score, {} if state == "collapsed" else {"recall >= 0.2": -1.0})
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_seed_proposes_the_same_in_every_new_run(tmp_path, space, sampler):
    def proposals(folder, seed):
        (tmp_path / folder).mkdir()
        searched = replace(space, search=SearchConfig(sampler=sampler, seed=seed))
        study = Study(tmp_path / folder / "study.journal", searched, FLOOR)
        return [
            proposal.config for proposal in learned(study, 14)
        ]  # the last is beyond the ten that are drawn at random

    first = proposals("a", 1)
    assert {config.architecture.name for config in first} == {"mlp", "dcgan"}
    assert proposals("b", 1) == first
    assert proposals("c", 2)[1:] != first[1:]


@pytest.mark.parametrize("sampler", ["gp", "cmaes", "nsgaii", "nsgaiii"])
def test_stopped_trials_are_learned_from_also_where_the_sampler_knows_completed_ones_only(path, space, sampler):
    study = Study(path, replace(space, search=SearchConfig(sampler=sampler)), FLOOR)
    for _ in range(STARTUP):
        number = study.propose().number
        study.report(number, 100, 9.0 + number)
        tell(study, number, "pruned", 9.0)
    study.propose()
    drawn = plain(path).trials[-1].system_attrs
    generation = drawn.get("NSGAIISampler:generation", drawn.get("NSGAIIISampler:generation", 0))
    assert generation or {"gp:relative_params:0", "cmawm:generation", "cma:generation"} & {*drawn}


def test_a_gaussian_process_takes_open_trials_into_account(path, space, monkeypatch):
    counts = []
    original = gp_module.acqf_module.qLogCEI

    def counted(*, normalized_params_of_running_trials, **more):
        counts.append(len(normalized_params_of_running_trials))
        return original(normalized_params_of_running_trials=normalized_params_of_running_trials, **more)

    monkeypatch.setattr(gp_module.acqf_module, "qLogCEI", counted)
    study = Study(path, replace(space, search=SearchConfig(sampler="gp")), FLOOR)
    for _ in range(STARTUP):
        number = study.propose().number
        study.report(number, 100, 9.0 + number)
        tell(study, number, "finished", 9.0 + number)
    first, second = study.propose(), study.propose()
    study.propose()
    assert counts == [1, 2]  # the first of the three has none beside it
    assert combinations(first.config) != combinations(second.config)


def test_an_evolution_learns_nothing_good_from_a_trial_that_missed_a_constraint(path, space):
    study = Study(path, replace(space, search=SearchConfig(sampler="cmaes")), FLOOR)
    for score, missed in [(5.0, -1.0), (9.0, -1.0), (1.0, 0.4)]:
        number = study.propose().number
        study.report(number, 100, score)
        tell(study, number, "finished", score, {"recall >= 0.2": missed})
    seen = samplers_module._Seen(plain(path), blind=True)._get_trials()
    assert [trial.value for trial in seen] == [5.0, 9.0, 9.0]
    assert [trial.value for trial in plain(path).trials] == [5.0, 9.0, 1.0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_later_session_does_not_repeat_the_draws_of_an_earlier_one(path, space, sampler):
    space = replace(space, baseline=None, search=SearchConfig(sampler=sampler))
    drawn = []
    for _ in range(4):
        drawn += learned(Study(path, space, FLOOR), 3)
    assert len({combinations(proposal.config) for proposal in drawn}) == 12


@pytest.mark.parametrize("sampler", [*SAMPLERS, "grid"])
def test_a_driver_that_is_killed_proposes_what_it_would_have_proposed(tmp_path, load, sampler):
    space = load(FINITE if sampler == "grid" else SPACE)
    space = replace(space, baseline=None, search=SearchConfig(sampler=sampler))

    def proposals(folder, sessions):
        (tmp_path / folder).mkdir()
        found = []
        for _ in range(sessions):
            study = Study(tmp_path / folder / "study.journal", space, FLOOR)
            for _ in range(12 // sessions):
                found.append(study.propose())
                study.report(found[-1].number, 100, 9.0 + len(found))
                tell(study, found[-1].number, ["pruned", "finished"][len(found) % 2], 9.0 + len(found))
        return found

    assert proposals("interrupted", 4) == proposals("whole", 1)


@pytest.mark.parametrize("sampler", ["cmaes", "gp", "tpe"])
def test_a_sampler_that_insists_on_what_cannot_be_trained_is_left_for_random_draws(path, load, sampler, monkeypatch):
    class Insisting(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            return distribution.choices[0] if name.endswith("norm_d") else distribution.high

    build = study_module.build_sampler
    monkeypatch.setattr(
        study_module, "build_sampler", lambda *given, stuck: build(*given, stuck=True) if stuck else Insisting()
    )
    space = replace(load(CONFLICTING), search=SearchConfig(sampler=sampler))
    assert Study(path, space, FLOOR).propose().config.architecture.option("norm_d") == "layer"


def test_a_quasi_random_sequence_goes_on_where_it_stood(tmp_path, space):
    space = replace(space, baseline=None, search=SearchConfig(sampler="qmc"))

    def rates(folder, sessions):
        (tmp_path / folder).mkdir()
        studies = [Study(tmp_path / folder / "study.journal", space, FLOOR) for _ in range(sessions)]
        return [study.propose().config.lr_g for study in studies for _ in range(8 // sessions)]

    assert rates("interrupted", 4) == rates("whole", 1)


def test_about_half_of_the_proposals_of_tpe_are_drawn_without_learning(tmp_path, space):
    """Two studies told opposite scores: what is learned differs, and what explores does not."""
    drawn = []
    for sign in (1, -1):
        folder = tmp_path / f"{sign}"
        folder.mkdir()
        study = Study(folder / "study.journal", replace(space, search=SearchConfig(sampler="tpe", seed=5)), FLOOR)
        drawn.append([study.propose().config for _ in range(STARTUP)])
        for number, config in enumerate(drawn[-1]):
            tell(study, number, "finished", 50 + sign * math.log(config.lr_g))
        drawn[-1] += [study.propose().config for _ in range(40)]
    same = [one == other for one, other in zip(*drawn, strict=True)]
    assert all(same[:STARTUP])
    assert 10 <= sum(same[STARTUP:]) <= 30


def test_open_proposals_are_issued_again_with_identical_configurations(path, space):
    study = Study(path, space, FLOOR)
    proposals = [study.propose() for _ in range(5)]
    tell(study, 1, "finished", 3.0)
    tell(study, 3, "failed", None)
    for _ in range(2):
        again = Study(path, space, FLOOR)
        assert again.open_proposals() == [proposals[0], proposals[2], proposals[4]]
        assert [number for number in range(6) if again.is_open(number)] == [0, 2, 4]
        assert again.proposed() == 5
    assert again.propose().number == 5


def test_a_run_whose_folder_was_renamed_keeps_its_study(path, space):
    study = Study(path, space, FLOOR)
    proposals = [study.propose() for _ in range(3)]
    tell(study, 0, "finished", 3.0)
    moved = path.parent.rename(path.parent.with_name("renamed")) / path.name
    again = Study(moved, space, FLOOR)
    assert again.open_proposals() == proposals[1:]
    assert again.propose().number == 3


def test_a_driver_killed_while_it_wrote_leaves_a_study_that_opens(path, space, monkeypatch):
    monkeypatch.chdir(path.parent)
    path = Path(path.name)  # as a relative path, a lock left behind once held up the next driver for ever
    first = Study(path, space, FLOOR).propose()
    with path.open("ab") as stream:
        stream.write(b'{"op_code":4,"worker')
    Path(f"{path}.lock").symlink_to(path)

    again = Study(path, space, FLOOR)
    assert [proposal.number for proposal in again.open_proposals()] == [first.number]
    assert again.propose().number == first.number + 1
    assert Study(path, space, FLOOR).proposed() == 2


def test_an_unreadable_journal_is_named(path, space):
    path.write_text("not a journal\nat all\n")
    with pytest.raises(RunError) as caught:
        Study(path, space, FLOOR)
    assert str(path) in str(caught.value)


# Conflicts


def test_parts_that_do_not_go_together_are_rejected_and_not_counted(path, load):
    study = Study(path, load(CONFLICTING), FLOOR)
    proposals = [study.propose() for _ in range(8)]
    assert all(conflict(proposal.config) is None for proposal in proposals)
    trials = plain(path).trials
    rejected = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert rejected
    assert len(trials) == 8 + len(rejected)
    assert study.proposed() == 8
    assert all("norm_d: batch" in trial.user_attrs["rejected"] for trial in rejected)
    assert Study(path, load(CONFLICTING), FLOOR).proposed() == 8


def test_draws_that_a_rule_forbids_are_rejected_with_its_reason_and_not_counted(path, load):
    space = load(SPACE + "rules:\n  - {forbid: {loss: minimax, batch_size: [16]}, why: it oscillates}\n")
    study = Study(path, space, FLOOR)
    proposals = [study.propose() for _ in range(12)]
    assert {(each.config.loss.name, each.config.batch_size) for each in proposals} == {
        ("minimax", 32),
        ("hinge", 16),
        ("hinge", 32),
    }
    rejected = [trial for trial in plain(path).trials if trial.state == TrialState.FAIL]
    assert rejected
    assert study.proposed() == 12
    assert all("loss: minimax and batch_size: 16: it oscillates" in trial.user_attrs["rejected"] for trial in rejected)


def test_rules_that_leave_nothing_say_so(path, load, monkeypatch):
    monkeypatch.setattr(study_module, "MOST_REJECTIONS", 5)
    text = SPACE[: SPACE.index("baseline:")] + "rules:\n  - {forbid: {lr_g: 1e-4..1e-2}, why: no rate is good}\n"
    with pytest.raises(RunError, match=r"5 draws in a row were invalid.*no rate is good"):
        Study(path, load(text), FLOOR).propose()


def test_a_space_without_a_valid_configuration_says_why(path, load, monkeypatch):
    monkeypatch.setattr(study_module, "MOST_REJECTIONS", 5)
    study = Study(path, load(CONFLICTING.replace("[batch, layer]", "batch")), FLOOR)
    with pytest.raises(RunError, match=r"5 draws in a row were invalid.*norm_d: batch"):
        study.propose()


def test_a_conflicting_draw_that_a_kill_left_open_is_rejected_later(path, load, monkeypatch):
    space = load(CONFLICTING.replace("[batch, layer]", "batch"))
    study = Study(path, space, FLOOR)

    def killed(*anything, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna.Trial, "set_user_attr", killed)
    with pytest.raises(KeyboardInterrupt):
        study.propose()
    monkeypatch.undo()
    again = Study(path, space, FLOOR)
    assert again.open_proposals() == []
    assert again.proposed() == 0


# Finite spaces

FINITE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
budget: {trials: 100, samples_per_trial: 600}
search: {sampler: grid}
space:
  architecture: {choose: {mlp: {hidden: [8, 16]}, dcgan: {width: 4, norm_d: [batch, layer]}}}
  loss: {choose: {hinge: {}, wgan_gp: {}}}
  optimizer: adam
  lr_g: [1e-3, 1e-4]
  batch_size: [16, 32]
baseline: {architecture: {mlp: {hidden: 8}}, loss: hinge, lr_g: 1e-3, batch_size: 32}
"""


def combinations(config):
    return tuple(sorted((name, str(value)) for name, value in config.parameters().items()))


@pytest.mark.parametrize("sessions", [1, 5])
def test_a_grid_visits_every_valid_combination_once(path, load, sessions):
    space = load(FINITE)
    study, told = Study(path, space, FLOOR), []
    for index in range(1000):
        if sessions > 1 and index % 6 == 5:
            study = Study(path, space, FLOOR)
            for proposal in study.open_proposals():
                tell(study, proposal.number, "failed", None)
        proposal = study.propose()
        if proposal is None:
            break
        told.append(proposal.config)
        if index % 3:  # the others stay open
            tell(study, proposal.number, ["finished", "pruned"][index % 2], 1.0 + index)
    visited = [combinations(config) for config in told]
    assert len(visited) == len(set(visited)) == 32 - 4  # a penalty on the critic and batch normalization do not mix
    assert study.used_up()
    assert study.proposed() == 28
    assert Study(path, space, FLOOR).proposed() == 28


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_earlier_configuration_is_not_proposed_again(path, load, sampler):
    space = load(FINITE.replace("grid", sampler).replace("[1e-3, 1e-4]", "1e-3"))
    study = Study(path, space, FLOOR)
    found = learned(study, 8)
    assert len({combinations(proposal.config) for proposal in found}) == 8
    repeats = [trial for trial in plain(path).trials if trial.user_attrs.get("rejected", "").startswith("repeats")]
    assert all(trial.state == TrialState.FAIL for trial in repeats)  # a state that no sampler learns from
    assert study.proposed() == 8


def test_a_finite_space_is_used_up_by_any_sampler(path, load):
    space = load(FINITE.replace("grid", "random").replace("[1e-3, 1e-4]", "1e-3").replace("[16, 32]", "32"))
    study, found = Study(path, space, FLOOR), []
    while (proposal := study.propose()) is not None:
        found.append(combinations(proposal.config))
    assert len(set(found)) == 7
    assert study.used_up()
    assert Study(path, space, FLOOR).open_proposals()


def test_a_grid_without_a_valid_combination_says_why(path, load):
    space = load(
        CONFLICTING.replace("[batch, layer]", "batch").replace("log 1..20", "[1, 2]").replace("log 1e-4..1e-2", "1e-3")
    )
    with pytest.raises(RunError, match=r"all 2 configurations were invalid.*norm_d: batch"):
        Study(path, space, FLOOR).propose()


def test_a_sampler_that_insists_gets_its_repetition_under_another_seed(path, space, monkeypatch):
    class Insisting(optuna.samplers.BaseSampler):
        infer_relative_search_space = sample_relative = lambda self, *asked: {}

        def sample_independent(self, study, trial, name, distribution):
            return distribution.choices[0] if hasattr(distribution, "choices") else distribution.high

    monkeypatch.setattr(study_module, "build_sampler", lambda *given, **more: Insisting())
    study = Study(path, replace(space, baseline=None), FLOOR)
    first, second = study.propose(), study.propose()
    assert first.config == replace(second.config, seed=first.config.seed)
    assert first.config.seed != second.config.seed
    assert second.number == 1 + study_module.MOST_REPEATS
    assert Study(path, space, FLOOR).open_proposals() == [first, second]


# What is told


def asked(path, space, count=1):
    study = Study(path, replace(space, baseline=None), FLOOR)
    for _ in range(count):
        study.propose()
    return study


def test_a_finished_trial_is_told_its_score(path, space):
    study = asked(path, space)
    study.report(0, 100, 9.0)
    study.report(0, 200, 7.0)
    tell(study, 0, "finished", 7.0)
    trial = plain(path).trials[0]
    assert trial.state == TrialState.COMPLETE
    assert trial.value == 7.0
    assert trial.intermediate_values == {100: 9.0, 200: 7.0}
    assert trial.user_attrs == {"state": "finished", **ATTRIBUTES}
    assert not study.is_open(0)


def test_a_stopped_trial_is_told_pruned_with_its_step(path, space):
    study = asked(path, space)
    study.report(0, 100, 9.0)
    study.report(0, 200, 8.0)
    tell(study, 0, "pruned", 8.0)
    trial = plain(path).trials[0]
    assert trial.state == TrialState.PRUNED
    assert trial.last_step == 200
    assert trial.value == 8.0


def test_a_trial_stopped_before_its_first_report_is_not_told_a_score(path, space):
    study = asked(path, space, 2)
    study.report(0, 100, 9.0)
    tell(study, 1, "pruned", None)
    trial = plain(path).trials[1]
    assert trial.state in (TrialState.PRUNED, TrialState.FAIL)
    assert trial.values is None


def test_a_failed_trial_is_told_as_failed(path, space):
    study = asked(path, space)
    study.report(0, 100, 9.0)
    tell(study, 0, "failed", 9.0)
    assert states(path) == [TrialState.FAIL]


def test_a_collapsed_trial_is_told_complete_with_the_worst_score_so_far(path, space):
    study = asked(path, space, 4)
    study.report(0, 100, 90.0)
    study.report(0, 200, 7.0)
    tell(study, 0, "finished", 7.0)
    study.report(1, 100, 30.0)
    tell(study, 1, "collapsed", 30.0)
    study.report(2, 100, 120.0)  # still open: what it has shown counts
    tell(study, 3, "collapsed", None)
    trials = plain(path).trials
    assert [trials[number].state for number in (1, 3)] == [TrialState.COMPLETE] * 2
    assert [trials[number].value for number in (1, 3)] == [90.0, 120.0]


def test_a_collapse_before_any_score_is_told_the_floor(path, space):
    study = asked(path, space, 2)
    tell(study, 0, "collapsed", None)
    tell(study, 1, "collapsed", None)
    assert [trial.value for trial in plain(path).trials] == [FLOOR, FLOOR]


def test_a_collapsed_trial_is_told_infeasible_and_others_are_not(path, space):
    study = asked(path, space, 3)
    for number, state in enumerate(["finished", "collapsed", "pruned"]):
        study.report(number, 100, 9.0)
        tell(study, number, state, 9.0)
    feasible = [all(value <= 0 for value in trial.constraints.values()) for trial in plain(path).trials]
    assert feasible == [True, False, True]


def test_a_missed_constraint_is_told_by_how_far(path, space):
    study = asked(path, space, 2)
    tell(study, 0, "finished", 9.0, {"recall >= 0.3": 0.1})
    tell(study, 1, "finished", 9.0, {"recall >= 0.3": -1.0})
    trials = plain(path).trials
    assert trials[0].constraints["recall >= 0.3"] == 0.1
    assert trials[1].constraints["recall >= 0.3"] == -1.0
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2


def test_telling_goes_on_where_a_kill_cut_it_short(path, space, monkeypatch):
    study = asked(path, space)
    study.report(0, 100, 9.0)

    def killed(*anything, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna.Study, "tell", killed)
    with pytest.raises(KeyboardInterrupt):
        tell(study, 0, "pruned", 9.0, {"recall >= 0.3": 0.1})
    monkeypatch.undo()
    again = Study(path, space, FLOOR)
    assert again.is_open(0)
    again.report(0, 100, 9.0)
    tell(again, 0, "pruned", 9.0, {"recall >= 0.3": 0.1})
    assert states(path) == [TrialState.PRUNED]


def test_a_report_that_is_repeated_changes_nothing(path, space):
    study = asked(path, space)
    study.report(0, 100, 9.0)
    study.report(0, 100, 3.0)
    assert plain(path).trials[0].intermediate_values == {100: 9.0}


def test_no_trial_is_left_running_once_all_are_told(path, space):
    study = asked(path, space, 6)
    study.report(2, 100, 5.0)
    for number, (state, score) in enumerate(
        [("finished", 4.0), ("collapsed", None), ("pruned", 5.0), ("failed", None), ("pruned", None)]
    ):
        tell(study, number, state, score)
    tell(Study(path, space, FLOOR), 5, "finished", 2.0)
    assert TrialState.RUNNING not in states(path)
    assert Study(path, space, FLOOR).open_proposals() == []


def test_plain_optuna_opens_the_journal_and_reads_full_paths(path, space):
    study = Study(path, space, FLOOR)
    first = study.propose()
    tell(study, 0, "finished", 4.0)
    study.propose()
    loaded = plain(path)
    assert loaded.best_trial.number == 0
    assert loaded.direction == optuna.study.StudyDirection.MINIMIZE
    parameters = first.config.parameters()
    assert loaded.trials[0].params == {name: parameters[name] for name in loaded.trials[0].params}
    assert set(loaded.trials[0].params) <= set(space.searched())
    assert loaded.trials[1].state == TrialState.RUNNING
    json.dumps(loaded.trials[0].user_attrs, allow_nan=False)
