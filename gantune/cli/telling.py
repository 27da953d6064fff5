"""What `gantune best` says of a winner: lines for people, values for programs."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gantune.config import Scalar
from gantune.records import TrialRecord
from gantune.winner import Winner, differences
from gantune.winner import pareto as pareto_of

DIFFERENCES = 4  # of a runner-up, told on one line
IMPORTANT = 8  # parameters of a group
Weights = Mapping[str, Mapping[str, float]]


def lines(winner: Winner, top: int, weights: Weights | None, *, pareto: bool) -> list[str]:
    """The answer for people."""
    run, trial, baseline = winner.run, winner.trial, winner.baseline
    states = [trial.state for trial in winner.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    found = [f"{run.shown}: {len(states)} trials ({counts})", _score_line(_title(winner), trial, winner)]
    if winner.by is not None:
        found.append(f"  {winner.by} {_show(trial.metrics[winner.by])} at its lowest score")
    found += _confirmed(winner)
    if pareto or run.others:
        found += _front(winner)
    if baseline is not None and baseline.number != trial.number:
        found.append(_score_line("baseline", baseline, winner))
        changes = differences(baseline.parameters, trial.parameters)
        found.append(f"changed from the baseline: {len(changes)} parameters")
        found += [f"  {name}: {_show(before)} -> {_show(after)}" for name, (before, after) in changes.items()]
    elif baseline is not None:
        plain = winner.by is None and not winner.chosen
        found.append("the baseline itself is the best so far" if plain else "it is the baseline")
    found += _behind(winner, top)
    if weights is not None:
        found += _important(weights)
    found.append("configuration:")
    found += [f"  {name}: {_show(value)}" for name, value in trial.parameters.items()]
    gone = f" ({winner.let_go})" * bool(winner.let_go)
    found += [f"cost: {winner.cost}", f"checkpoint: {run.files.where(winner.checkpoint)}{gone}"]
    if not gone:
        found.append(f"reproduce: {winner.replay or 'not by itself: it took over the weights of another trial'}")
    return found


def as_dict(winner: Winner, top: int, weights: Weights | None, *, pareto: bool) -> dict[str, Any]:
    """The answer for programs."""
    run, trial, baseline = winner.run, winner.trial, winner.baseline
    changed = differences(baseline.parameters, trial.parameters) if baseline else {}
    names, front = pareto_of(winner) if pareto or run.others else ([], [])
    return {
        "run": run.shown,
        "trial": trial.number,
        "state": trial.state,
        "score": trial.best_score,
        "metric": run.score_name,
        "by": winner.by or run.score_name,
        "samples_seen": trial.best_samples_seen,
        "metrics": dict(trial.metrics),
        "seed": trial.seed,
        "config": dict(trial.parameters),
        "baseline_score": baseline.best_score if baseline else None,
        "front": [
            {"trial": one.number, "objectives": dict(zip([run.score_name, *names], _values(one, names), strict=True))}
            for one in front
        ],
        "confirmed": [asdict(standing) for standing in winner.standings],
        "changed": {name: list(values) for name, values in changed.items()},
        "top": [
            {
                "trial": one.number,
                "state": one.state,
                "score": one.best_score,
                "samples_seen": one.best_samples_seen,
                "metrics": dict(one.metrics),
                "config": dict(one.parameters),
                "changed": {name: list(both) for name, both in differences(trial.parameters, one.parameters).items()},
            }
            for one in _runners_up(winner, top)
        ],
        "importances": None if weights is None else {place: dict(found) for place, found in weights.items()},
        "cost": asdict(winner.cost),
        "checkpoint": run.files.where(winner.checkpoint),
        "let_go": winner.let_go or None,
        "reproduce": winner.replay,
    }


def _title(winner: Winner) -> str:
    if winner.chosen:
        return "chosen"
    return "best" if winner.by is None else f"best by {winner.by}"


def _runners_up(winner: Winner, top: int) -> list[TrialRecord]:
    return [trial for trial in winner.ranked if trial.number != winner.trial.number][:top]


def _behind(winner: Winner, top: int) -> list[str]:
    """Who comes behind the winner, a line each."""
    if not top:
        return []
    others = _runners_up(winner, top)
    found = [f"behind it: {len(others)} trials" if others else "behind it: no other trial survived"]
    for trial in others:
        changes = differences(winner.trial.parameters, trial.parameters)
        told = [f"{name}: {_show(before)} -> {_show(after)}" for name, (before, after) in changes.items()]
        more = f" and {len(told) - DIFFERENCES} more" if len(told) > DIFFERENCES else ""
        differs = f"differs by {', '.join(told[:DIFFERENCES])}{more}" if told else "of the same values"
        by = "" if winner.by is None else f", {winner.by} {_show(trial.metrics[winner.by])}"
        found.append(
            f"  #{trial.number} {_show(trial.best_score)}{by} at {trial.best_samples_seen:,} samples, {trial.state}; "
            f"{differs}"
        )
    return found


def _important(weights: Weights) -> list[str]:
    if not weights:
        return ["importances: too few trials with a score to tell"]
    found = ["importances: the share of the scores' scatter that each parameter explains"]
    for place, shares in weights.items():
        inside = f"  within {place}:" if place else "  everywhere:"
        told = [f"{name.removeprefix(f'{place}.')} {share:.2f}" for name, share in list(shares.items())[:IMPORTANT]]
        found.append(f"{inside} {', '.join(told)}")
    return found


def _confirmed(winner: Winner) -> list[str]:
    standings = winner.standings
    if not standings:
        return []
    tied = [f"#{standing.number}" for standing in standings if standing.tied]
    found = ["finalists under fresh seeds, from the final count of samples:"]
    for standing in standings:
        runs = len(standing.scores) + standing.collapsed
        fate = f", {standing.collapsed} of them without a score" if standing.collapsed else ""
        found.append(
            f"  #{standing.number}: {standing.mean:.4g} +- {standing.deviation:.2g} over {runs} runs{fate}; "
            f"probability of being the best {standing.probability:.2f}"
        )
    return [*found, f"  a tie: seeds alone may part {' and '.join(tied)}"] if len(tied) > 1 else found


def _front(winner: Winner) -> list[str]:
    """The trials that no other beats, with what they come to in every objective."""
    names, front = pareto_of(winner)
    table = [["trial", winner.run.score_name, *names]]
    for trial in front:
        table.append([f"#{trial.number}", *(_show(value) for value in _values(trial, names))])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    shown = ["  " + "  ".join(map(str.rjust, row, widths)) for row in table]
    return [f"front: {len(front)} trials that no other beats in everything", *shown]


def _values(trial: TrialRecord, names: list[str]) -> list[float | None]:
    return [trial.best_score, *(trial.metrics.get(name) for name in names)]


def _score_line(label: str, trial: TrialRecord, winner: Winner) -> str:
    if trial.best_score is None:
        reason = trial.cause or "no report met the constraints"
        return f"{label}: #{trial.number} has no score ({trial.state}: {reason})"
    shown = {name: trial.metrics[name] for name in ("recall", "coverage", "diversity") if name in trial.metrics}
    final = trial.final_score
    extra = f", {final:.4g} from the final count of samples" if final is not None else ""
    metrics = ", ".join(f"{name} {value:.2f}" for name, value in shown.items())
    at = f"at {trial.best_samples_seen:,} samples ({metrics})"
    return f"{label}: #{trial.number} {winner.run.score_name} {trial.best_score:.4g}{extra} {at}"


def _show(value: Scalar) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
