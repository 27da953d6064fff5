"""What an earlier run is worth to this one: its trials where scores compare, else its best ones, to be tried first."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any

from gantune.config import Constraint, Scalar
from gantune.domains import Branch
from gantune.driver.auto import sampler_of
from gantune.driver.study import Known, Study
from gantune.objectives import TIMED
from gantune.records import trial_record
from gantune.results import RESTS, Row
from gantune.run import Run
from gantune.sections import CONSTRAINT_METRICS
from gantune.space import SearchSpace

BEST = 3  # configurations of a run whose scores do not compare
TAKEN = ("finished", "pruned", "collapsed", RESTS)
ABSENT = object()


class MisfitError(Exception):
    """A parameter whose value lies outside of a space."""


@dataclass(frozen=True, slots=True)
class _Fitting:
    """Draws the values of a trial, and notes those that are open. Raises MisfitError with the path of a wrong one."""

    values: dict[str, Any]
    open: dict[str, Scalar] = field(default_factory=dict)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """The trial's number."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise MisfitError(name)
        self.open[name] = float(value)
        return float(value)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """The trial's whole number."""
        value = self.suggest_float(name, low, high)
        if not value.is_integer():
            raise MisfitError(name)
        self.open[name] = int(value)
        return int(value)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The trial's choice."""
        value = self.values.get(name, ABSENT)
        if value not in choices:
            raise MisfitError(name)
        self.open[name] = value
        return value


def take_over(earlier: Run, run: Run, space: SearchSpace, study: Study) -> str:
    """Let a study know of an earlier run's trials; says what was taken over, in one line.

    Scores are told where they were measured alike. Where not, only their order carries over: the best few are tried
    first.
    """
    rows = sorted((row for row in earlier.rows() if not row.repeat), key=lambda row: row.trial)
    known, misfits = [], Counter[str]()
    for number, grouped in groupby(rows, key=lambda row: row.trial):
        reports = list(grouped)
        record = trial_record(reports)
        if record.state in TAKEN:
            try:
                parameters = fitting(space, dict(record.parameters))
            except MisfitError as error:
                misfits[str(error)] += 1
            else:
                origin = f"{_origin(earlier)} #{number}"
                state = "pruned" if record.state == RESTS else record.state
                known.append(_known(origin, state, parameters, reports, space.objective.constraints))
    left_out = ""
    if misfits:
        causes = ", ".join(f"{path} {count}" for path, count in misfits.most_common())
        left_out = f"; {misfits.total()} do not fit this space: {causes}"
    why = _incomparable(earlier, run, space)
    if why:
        best = sorted((one for one in known if one.state != "collapsed" and one.score is not None), key=_score)
        count = study.try_first(best[:BEST], f"{_origin(earlier)} #")
        return f"{earlier.shown}: its {count} best configurations are tried first, no more, for {why}{left_out}"
    count = study.learn(known)
    before = f", {len(known) - count} were known before" if count < len(known) else ""
    return f"{earlier.shown}: {count} trials taken over as known{before}{left_out}"


def _origin(earlier: Run) -> str:
    return str(earlier.place or earlier.folder.resolve())


def fitting(space: SearchSpace, values: dict[str, Any]) -> dict[str, Scalar]:
    """A trial's values of this space's open parameters. Raises MisfitError where its configuration is none of them."""
    for name, domain in space.parameters.items():
        if isinstance(domain, Branch) and values.get(name) not in domain.options:
            raise MisfitError(name)
    draw = _Fitting(values)
    drawn = space.draw(draw, seed=0).parameters()
    for path in [*drawn, *values]:
        if drawn.get(path, ABSENT) != values.get(path, ABSENT):
            raise MisfitError(path)
    return draw.open


def _known(
    origin: str, state: str, parameters: dict[str, Scalar], rows: Sequence[Row], constraints: Sequence[Constraint]
) -> Known:
    """A trial as it would be told here, under the constraints that hold here."""
    scored = [(row.samples_seen, row.score, row.metrics) for row in rows if row.score is not None]
    lowest = list(accumulate((score for _, score, _ in scored), min))
    met = [
        score
        for _, score, metrics in scored
        if all(item.metric in metrics and item.violation(metrics[item.metric]) <= 0 for item in constraints)
    ]
    last = rows[-1].metrics
    score = min(met) if met else lowest[-1] if lowest else None
    return Known(
        origin=origin,
        state=state,
        parameters=parameters,
        reports=dict(zip((samples for samples, _, _ in scored), lowest, strict=True)),
        score=score,
        metrics=next((metrics for _, value, metrics in scored if value == score), {}),
        violations={
            str(item): -1.0 if met else item.violation(last[item.metric]) for item in constraints if item.metric in last
        },
    )


def _score(known: Known) -> tuple[bool, float]:
    """Those that met the constraints first."""
    assert known.score is not None
    return any(value > 0 for value in known.violations.values()), known.score


def _incomparable(earlier: Run, run: Run, space: SearchSpace) -> str:
    """Why the scores of another run are not to be told to this one's study, or nothing."""
    theirs, ours = earlier.manifest(), run.manifest()
    if theirs.get("protocol", ABSENT) != ours.get("protocol"):
        return "its scores were measured against another reference"
    document = space.document()
    if {"pbt", "pb2"} & {*theirs["space"]["search"]["scheduler"]}:
        return "its trials' configurations changed while they trained"
    if theirs["space"]["objective"]["samples"] != document["objective"]["samples"]:
        return "its scores were measured from another count of samples"
    metric = theirs["space"]["objective"]["metric"]
    measured = {*([metric] if isinstance(metric, str) else metric), *CONSTRAINT_METRICS}
    for name in space.objective.others:
        if name == TIMED:
            return f"its {name} may be another machine's"
        if name not in measured:
            return f"it did not measure {name}"
    if theirs["space"]["budget"]["samples_per_trial"] != space.budget.samples_per_trial:
        return "its trials had another budget"
    return "a grid learns nothing from scores" if sampler_of(space) == "grid" else ""
