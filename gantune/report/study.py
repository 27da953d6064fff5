"""A run's trials as an Optuna study in memory, made of its rows: for what Optuna says and draws of a study.

The run's own study may lie in a database, and counts a collapsed trial at a value that was told to its sampler.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import plot_contour, plot_parallel_coordinate, plot_slice
from plotly.colors import sample_colorscale

from gantune.domains import Branch, Choice, Domain, Uniform
from gantune.driver.earlier import MisfitError, fitting
from gantune.driver.samplers import distribution_of
from gantune.records import TrialRecord
from gantune.report.figures import FROM_BAD_TO_GOOD, FROM_EARLY_TO_LATE, ticks
from gantune.space import SearchSpace

FEWEST = 8  # trials with a score, below which nothing is said of importances
TREES_SEED = 0
SCORE, OUTCOME = "score", "outcome"  # attributes of a trial: as it was measured, and its state or verdict


def study_of(space: SearchSpace, trials: Sequence[TrialRecord]) -> optuna.Study:
    """A complete trial for each that has a score, at its lowest one, whether it met the constraints or not.

    Scores are on the logarithm where all are above 0, for they scatter by shares; the attribute `score` has them as
    measured. What a population's trial came to outside of the space is left out, too.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction=StudyDirection.MINIMIZE, study_name=space.name)
    scored = [(trial, trial.lowest_score) for trial in trials if trial.lowest_score is not None]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Optuna's pictures of a study: `contour` only where two parameters of every configuration are numbers."""

    parallel: go.Figure | None
    slices: Mapping[str, go.Figure]
    contour: go.Figure | None


def drawn(space: SearchSpace, study: optuna.Study, name: str, leading: Sequence[str]) -> Drawn:
    """Optuna's visualisations of a study; `leading`: parameters, the most important first.

    name: of the score, which is shown on the logarithm where the study has it so.
    """
    trials = study.get_trials(deepcopy=False)
    if len(trials) < 2:
        return Drawn(parallel=None, slices={}, contour=None)
    domains = space.searched()
    varying = [path for path in domains if len({trial.params[path] for trial in trials if path in trial.params}) > 1]
    every = [path for path in varying if all(path in trial.params for trial in trials)]
    numbers = [path for path in [*leading, *every] if path in every and isinstance(domains[path], Uniform)]
    pair = list(dict.fromkeys(numbers))[:2]
    scores = [float(trial.user_attrs[SCORE]) for trial in trials]
    order = sorted(varying, key=lambda path: leading.index(path) if path in leading else len(leading))
    told = f"log {name}" if min(scores) > 0 else name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parallel = plot_parallel_coordinate(study, params=every, target_name=told) if every else None
        contour = plot_contour(study, params=pair, target_name=name) if len(pair) == 2 else None
        return Drawn(
            parallel=parallel and _parallel(parallel),
            slices={path: _slice(study, path, domains[path], scores) for path in order},
            contour=contour and _contour(contour, [domains[path] for path in pair], scores),
        )


def _parallel(made: go.Figure) -> go.Figure:
    """In colours that show on light and dark: the first place of each line is its score, from 0, the lowest, to 1."""
    scale = [list(stop) for stop in FROM_BAD_TO_GOOD]
    for trace in made.data:
        if trace.mode == "lines":
            trace.line.color = sample_colorscale(scale, [trace.y[0]])[0]
            trace.opacity = 0.8
        elif trace.marker.showscale:
            trace.marker.update(colorscale=scale, reversescale=False)
    return _bare(made)


def _contour(made: go.Figure, domains: Sequence[Domain], scores: Sequence[float]) -> go.Figure:
    for domain, update in zip(domains, (made.update_xaxes, made.update_yaxes), strict=True):
        if isinstance(domain, Uniform) and domain.log:
            update(**ticks([domain.low, domain.high]))
    if (names := _named(scores)) is not None:
        made.update_traces(colorbar=names, selector={"type": "contour"})
    made.update_layout(height=460)
    return _bare(made)


def _named(scores: Sequence[float]) -> dict[str, Any] | None:
    """Labels for an axis on which logarithms of scores stand; None where they stand as they are."""
    if min(scores) <= 0:
        return None
    marks = [mark for mark in ticks(scores)["tickvals"] if min(scores) <= mark <= max(scores)]
    marks = [min(scores), *marks, max(scores)]
    return {"tickvals": [math.log(mark) for mark in marks], "ticktext": [f"{mark:.3g}" for mark in marks]}


def _slice(study: optuna.Study, path: str, domain: Domain, scores: Sequence[float]) -> go.Figure:
    made = plot_slice(study, params=[path], target=lambda trial: float(trial.user_attrs[SCORE]), target_name="")
    _bare(made).update_layout(width=None, height=230, margin={"l": 48, "r": 8, "t": 8, "b": 32})
    scale = [list(stop) for stop in FROM_EARLY_TO_LATE]
    made.update_traces(marker={"showscale": False, "colorscale": scale, "line": {"width": 0}, "size": 7})
    for trace in made.data:  # Optuna shows names in quotes
        trace.x = [place.strip("'") if isinstance(place, str) else place for place in trace.x]
    if isinstance(domain, Choice | Branch):
        values = domain.values if isinstance(domain, Choice) else tuple(domain.options)
        made.update_xaxes(type="category", categoryarray=[str(one) for one in values], categoryorder="array")
        for trace in made.data:
            trace.x = [str(place) for place in trace.x]
    made.update_xaxes(title=None)
    made.update_yaxes(title=None)
    if min(scores) > 0:
        room = 0.06 * math.log10(max(scores) / min(scores)) + 0.01
        ends = [math.log10(min(scores)) - room, math.log10(max(scores)) + room]  # one for all, so that they compare
        made.update_yaxes(**ticks(scores), range=ends)
    if isinstance(domain, Uniform) and domain.log:
        made.update_xaxes(**ticks([domain.low, domain.high]))
    return made


def _bare(made: go.Figure) -> go.Figure:
    """Without Optuna's title and colours, for the page has its own."""
    made.update_layout(title=None, template="none", margin={"l": 58, "r": 16, "t": 24, "b": 48})
    return made
