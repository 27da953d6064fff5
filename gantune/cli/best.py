"""gantune best"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gantune.cli import options
from gantune.config import Scalar
from gantune.errors import NoSurvivorError
from gantune.run import Run, TrialRecord, standings_of
from gantune.standings import Standing


@click.command("best")
@click.argument("run", required=False)
@options.runs
@click.option("--export", "folder", type=click.Path(path_type=Path, file_okay=False), help="Write the generator here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run: str | None, runs: options.Runs, folder: Path | None, as_json: bool) -> None:
    """Show the best trial of RUN: score, configuration, what differs from the baseline, checkpoint.

    RUN is a run's path or name; left out, the run last used. Exit code 3: no trial survived.

    \b
    gantune best
    gantune best dcgan --export winner
    """
    opened = Run.open(run, runs)
    trials, repeats = opened.trials(), opened.repeats()
    standings = standings_of(repeats)
    try:
        winner = opened.best(trials, standings)
    except NoSurvivorError as error:
        if as_json:
            click.echo(json.dumps({"run": opened.shown, "trial": None, "reasons": str(error)}, indent=1))
        raise
    baseline = opened.baseline(trials)
    checkpoint = opened.checkpoint(winner, repeats)
    if folder is not None:
        from gantune.export import export

        export(opened.weights(checkpoint), folder)
    if as_json:
        click.echo(json.dumps(_as_dict(opened, trials, winner, baseline, standings, checkpoint, folder), indent=1))
        return
    click.echo("\n".join(_lines(opened, trials, winner, baseline, standings, checkpoint)))
    if folder is not None:
        click.echo(f"exported to {folder}: generator.safetensors, config.yaml, samples.png")


def _lines(
    run: Run,
    trials: list[TrialRecord],
    winner: TrialRecord,
    baseline: TrialRecord | None,
    standings: list[Standing],
    checkpoint: Path,
) -> list[str]:
    states = [trial.state for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    lines = [f"{run.shown}: {len(trials)} trials ({counts})", _score_line("best", winner, run.score_name)]
    lines += _confirmed(standings)
    lines += _front(run, trials)
    if baseline is not None and baseline.number != winner.number:
        lines.append(_score_line("baseline", baseline, run.score_name))
        changes = differences(baseline.parameters, winner.parameters)
        lines.append(f"changed from the baseline: {len(changes)} parameters")
        lines += [f"  {name}: {_show(before)} -> {_show(after)}" for name, (before, after) in changes.items()]
    elif baseline is not None:
        lines.append("the baseline itself is the best so far")
    lines.append("configuration:")
    lines += [f"  {name}: {_show(value)}" for name, value in winner.parameters.items()]
    gone = run.let_go(checkpoint)
    lines.append(f"checkpoint: {run.files.where(checkpoint)}{f' ({gone})' * bool(gone)}")
    return lines


def _confirmed(standings: list[Standing]) -> list[str]:
    if not standings:
        return []
    tied = [f"#{standing.number}" for standing in standings if standing.tied]
    lines = ["finalists under fresh seeds, from the final count of samples:"]
    for standing in standings:
        runs = len(standing.scores) + standing.collapsed
        fate = f", {standing.collapsed} of them without a score" if standing.collapsed else ""
        lines.append(
            f"  #{standing.number}: {standing.mean:.4g} +- {standing.deviation:.2g} over {runs} runs{fate}; "
            f"probability of being the best {standing.probability:.2f}"
        )
    return [*lines, f"  a tie: seeds alone may part {' and '.join(tied)}"] if len(tied) > 1 else lines


def _front(run: Run, trials: list[TrialRecord]) -> list[str]:
    """The trials that no other beats, with what they come to in every objective."""
    others = run.others
    if not others:
        return []
    table = [["trial", run.score_name, *others]]
    for trial in run.front(trials):
        table.append([f"#{trial.number}", *(_show(value) for value in _values(trial, others))])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  " + "  ".join(map(str.rjust, row, widths)) for row in table]
    return [f"front: {len(table) - 1} trials that no other beats in everything", *lines]


def _values(trial: TrialRecord, others: list[str]) -> list[float | None]:
    return [trial.best_score, *(trial.metrics.get(name) for name in others)]


def _score_line(label: str, trial: TrialRecord, name: str) -> str:
    if trial.best_score is None:
        reason = trial.cause or "no report met the constraints"
        return f"{label}: #{trial.number} has no score ({trial.state}: {reason})"
    shown = {name: trial.metrics[name] for name in ("recall", "coverage", "diversity") if name in trial.metrics}
    final = trial.final_score
    extra = f", {final:.4g} from the final count of samples" if final is not None else ""
    metrics = ", ".join(f"{name} {value:.2f}" for name, value in shown.items())
    at = f"at {trial.best_samples_seen:,} samples ({metrics})"
    return f"{label}: #{trial.number} {name} {trial.best_score:.4g}{extra} {at}"


def differences(before: Mapping[str, Scalar], after: Mapping[str, Scalar]) -> dict[str, tuple[Scalar, Scalar]]:
    """Parameters that both configurations have and that differ, with both values.

    Where another branch was taken, its name tells; the options of one branch have no counterpart in another.
    """
    return {name: (before[name], after[name]) for name in before if name in after and before[name] != after[name]}


def _show(value: Scalar) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _as_dict(
    run: Run,
    trials: list[TrialRecord],
    winner: TrialRecord,
    baseline: TrialRecord | None,
    standings: list[Standing],
    checkpoint: Path,
    folder: Path | None,
) -> dict[str, Any]:
    changed = differences(baseline.parameters, winner.parameters) if baseline else {}
    names = [run.score_name, *run.others]
    front = [
        {"trial": trial.number, "objectives": dict(zip(names, _values(trial, run.others), strict=True))}
        for trial in (run.front(trials) if run.others else [])
    ]
    return {
        "run": run.shown,
        "trial": winner.number,
        "state": winner.state,
        "score": winner.best_score,
        "metric": run.score_name,
        "samples_seen": winner.best_samples_seen,
        "metrics": dict(winner.metrics),
        "seed": winner.seed,
        "config": dict(winner.parameters),
        "baseline_score": baseline.best_score if baseline else None,
        "front": front,
        "confirmed": [asdict(standing) for standing in standings],
        "changed": {name: list(values) for name, values in changed.items()},
        "checkpoint": run.files.where(checkpoint),
        "export": str(folder) if folder else None,
    }
