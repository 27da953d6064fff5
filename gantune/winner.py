"""Which trial of a run is handed over, and all that its run tells of it; who comes behind it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantune.config import Scalar
from gantune.errors import SpecError
from gantune.objectives import BETTER, COSTS, fronts
from gantune.records import TrialRecord, label_of, standings_of, trials_and_repeats
from gantune.results import Row
from gantune.run import Run
from gantune.spending import Spending, spending
from gantune.standings import Standing

SCORE = "score"


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """A trial of a run, with what is to be said of it. `trials` are all of the search, `repeats` the finalists' runs.

    `by` is the metric that it is the best by, and None where it is so by the score; `chosen` is whether it was named
    by its number instead. `checkpoint` is where its weights lie, of all its runs the best; `let_go` tells how to have
    them back where they are gone, and is empty where they are there. `replay` is the command that trains them again
    and compares every number, None where they were taken over from another trial.
    """

    run: Run
    manifest: Mapping[str, Any]
    trials: tuple[TrialRecord, ...]
    repeats: tuple[TrialRecord, ...]
    standings: tuple[Standing, ...]
    trial: TrialRecord
    baseline: TrialRecord | None
    cost: Spending
    checkpoint: Path
    let_go: str
    replay: str | None
    by: str | None = None
    chosen: bool = False

    @property
    def label(self) -> str:
        """The number of the run that its weights come from."""
        return label_of(self.checkpoint)

    @property
    def source(self) -> TrialRecord:
        """The run that its weights come from: the trial itself, or one of its repeats."""
        repeat = int(self.label.partition(".")[2] or 0)
        return next(
            (run for run in self.repeats if (run.number, run.repeat) == (self.trial.number, repeat)), self.trial
        )

    @property
    def ranked(self) -> list[TrialRecord]:
        """All that survived, the best first: confirmed finalists as they stand, then by score; or by the metric."""
        alive = [trial for trial in self.trials if trial.survived]
        if self.by is not None:
            values = {trial.number: _low(self.by, trial) for trial in alive}
            told = [trial for trial in alive if values[trial.number] is not None]
            return sorted(told, key=lambda trial: (values[trial.number] or 0.0, trial.best_score, trial.number))
        places = {standing.number: place for place, standing in enumerate(self.standings)}
        return sorted(alive, key=lambda trial: (places.get(trial.number, len(places)), trial.best_score, trial.number))


def find_winner(
    run: Run, *, by: str | None = None, number: int | None = None, rows: Sequence[Row] | None = None
) -> Winner:
    """A run's best trial; by another metric, or the trial of a number, where one is given.

    rows: those of the run, where they have been read.
    Raises NoSurvivorError where there is none, SpecError for a metric that no survivor has, RunError for a run that
    cannot be read.
    """
    rows = run.rows() if rows is None else rows
    trials, repeats = trials_and_repeats(rows)
    standings = standings_of(repeats)
    best = run.best(trials, standings) if number is None else run.scored(number, trials)
    name = None if by is None or by == SCORE else metric_named(by, [trial for trial in trials if trial.survived], run)
    if name is not None and number is None:
        told = [trial for trial in trials if trial.survived and name in trial.metrics]
        best = min(told, key=lambda trial: (_low(name, trial) or 0.0, trial.best_score, trial.number))
    checkpoint = run.checkpoint(best, repeats if name is None else ())  # the run in which the metric was measured
    return Winner(
        run=run,
        manifest=run.manifest(),
        trials=tuple(trials),
        repeats=tuple(repeats),
        standings=tuple(standings),
        trial=best,
        baseline=run.baseline(trials),
        cost=spending(run, rows),
        checkpoint=checkpoint,
        let_go=run.let_go(checkpoint),
        replay=run.replay(checkpoint, rows),
        by=name,
        chosen=number is not None,
    )


def metric_named(name: str, trials: Sequence[TrialRecord], run: Run) -> str:
    """A metric's full name among those measured: `kid` is `kid_classifier` in the sight of that classifier.

    Raises SpecError where no trial has it.
    """
    known = measured(trials)
    metric = run.manifest()["space"]["objective"]["metric"]
    label = run.score_name.removeprefix(f"{metric if isinstance(metric, str) else metric[0]}_")
    for full in (name, f"{name}_{label}"):
        if full in known:
            return full
    raise SpecError(f"{run.shown}: no trial has `{name}`; measured are {', '.join([SCORE, *known])}")


def measured(trials: Sequence[TrialRecord]) -> list[str]:
    """The metrics of trials of which it is known which way is better, in the order in which they are told."""
    names = dict.fromkeys(name for trial in trials for name in trial.metrics)
    return [name for name in names if better(name) is not None]


def better(name: str) -> str | None:
    """Which way a metric is better, by its full name; None for what only tells how training goes."""
    plain = name.removeprefix("final_")
    if plain == SCORE:
        return "lower"
    if plain in BETTER:
        return BETTER[plain]
    distances = [metric for metric in ("fid_inf", "fid", "kid") if plain.startswith(f"{metric}_")]
    return "lower" if distances else None


def pareto(winner: Winner) -> tuple[list[str], list[TrialRecord]]:
    """What the score is weighed against, and the survivors that no other beats, the lowest score first.

    That is the run's further objectives; without any, what trials have of a generator's costs; and the metric that was
    asked for. Raises SpecError where there is nothing.
    """
    run, alive = winner.run, [trial for trial in winner.trials if trial.survived]
    names = list(run.others) or [name for name in COSTS if any(name in trial.metrics for trial in alive)]
    names += [winner.by] if winner.by is not None and winner.by not in names else []
    if not names:
        raise SpecError(
            f"{run.shown}: has nothing to weigh the score against; name one of what was measured by --metric "
            f"({', '.join(measured(alive))}), or search with objective.metric: [fid, seconds_per_image]"
        )
    points = [
        (trial.best_score or 0.0, *(math.inf if (low := _low(name, trial)) is None else low for name in names))
        for trial in alive
    ]
    front = fronts(points)[0] if points else []
    return names, sorted((alive[at] for at in front), key=lambda trial: (trial.best_score or 0.0, trial.number))


def differences(before: Mapping[str, Scalar], after: Mapping[str, Scalar]) -> dict[str, tuple[Scalar, Scalar]]:
    """Parameters that both configurations have and that differ, with both values.

    Where another branch was taken, its name tells; the options of one branch have no counterpart in another.
    """
    return {name: (before[name], after[name]) for name in before if name in after and before[name] != after[name]}


def _low(name: str, trial: TrialRecord) -> float | None:
    """A metric as a number that is to be low; None where it was not measured."""
    value = trial.metrics.get(name)
    return value if value is None or better(name) == "lower" else -value
