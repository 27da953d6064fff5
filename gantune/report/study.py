"""A run's trials as an Optuna study in memory, made of its rows: for what Optuna says and draws of a study.

The run's own study may lie in a database, and counts a collapsed trial at a value that was told to its sampler.
"""

import math
import warnings
from collections.abc import Sequence

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from gantune.domains import Branch, Domain
from gantune.driver.earlier import MisfitError, fitting
from gantune.driver.samplers import distribution_of
from gantune.run import TrialRecord
from gantune.space import SearchSpace

FEWEST = 8  # trials with a score, below which nothing is said of importances
TREES_SEED = 0
SCORE, OUTCOME = "score", "outcome"  # attributes of a trial: as it was measured, and its state or verdict


def study_of(space: SearchSpace, trials: Sequence[TrialRecord]) -> optuna.Study:
    """A complete trial for each that has a score, at its lowest one; what collapsed before it had any is left out.

    Scores are on the logarithm where all are above 0, for they scatter by shares; the attribute `score` has them as
    measured. What a population's trial came to outside of the space is left out, too.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction=StudyDirection.MINIMIZE, study_name=space.name)
    scored = [(trial, trial.best_score) for trial in trials if trial.best_score is not None]
    logarithmic = all(score > 0 for _, score in scored)
    domains = space.searched()
    for trial, score in scored:
        try:
            parameters = fitting(space, dict(trial.parameters))
        except MisfitError:
            continue
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE,
                value=math.log(score) if logarithmic else score,
                params=parameters,
                distributions={name: distribution_of(domains[name]) for name in parameters},
                user_attrs={"number": trial.number, SCORE: score, OUTCOME: outcome(trial)},
            )
        )
    return study


def outcome(trial: TrialRecord) -> str:
    """What became of a trial: its state, or of what it collapsed."""
    return trial.verdict if trial.state == "collapsed" else trial.state


def importances(space: SearchSpace, study: optuna.Study) -> dict[str, dict[str, float]]:
    """How much of the scores' scatter each parameter explains, the most important first. Hutter et al. 2014, fANOVA.

    Under "" stand the parameters that every configuration has; under a branch's path those that exist inside it only,
    among the trials that took it. Each adds up to 1. Left out is what fewer than eight trials tell of.
    """
    found = {}
    for place, names in _groups(space).items():
        told = [trial for trial in study.get_trials(deepcopy=False) if all(name in trial.params for name in names)]
        varying = [name for name in names if len({trial.params[name] for trial in told}) > 1]
        if len(told) >= FEWEST and len({trial.value for trial in told}) > 1 and varying:
            found[place] = _explained(told, varying)
    return found


def _explained(trials: Sequence[FrozenTrial], names: list[str]) -> dict[str, float]:
    part = optuna.create_study()
    for trial in trials:
        part.add_trial(trial)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an interface that may change
        evaluator = FanovaImportanceEvaluator(seed=TREES_SEED)
        return dict(get_param_importances(part, evaluator=evaluator, params=names))


def _groups(space: SearchSpace) -> dict[str, list[str]]:
    """Open parameters that exist together, by the branch inside which they do."""
    groups: dict[str, list[str]] = {}

    def add(place: str, path: str, domain: Domain) -> None:
        if isinstance(domain, Branch):
            if len(domain.options) > 1:
                groups.setdefault(place, []).append(path)
            for option, inside in domain.options.items():
                inner = f"{path}.{option}" if len(domain.options) > 1 else place
                for name, below in inside.items():
                    add(inner, f"{path}.{option}.{name}", below)
        elif path in searched:
            groups.setdefault(place, []).append(path)

    searched = space.searched()
    for name, domain in space.parameters.items():
        add("", name, domain)
    return groups
