"""Searches of one protocol side by side: what each found, what it cost, and where their spaces differ."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gantune.curve import Step, best_so_far
from gantune.errors import RunError
from gantune.objectives import BETTER
from gantune.records import standings_of, trials_and_repeats
from gantune.results import Row
from gantune.run import Run
from gantune.situation import Lead
from gantune.spending import Spending, spending
from gantune.standings import Standing

SECTIONS = ("data", "objective", "budget", "search", "collapse", "resources", "space", "rules", "baseline", "first")
NOTHING = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What a search had spent when its best first came to a score."""

    samples: int
    hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One search. `top` is the mean of its best scores, of as many trials as were asked for, or fewer.

    `confirmed`: how its winner stands under fresh seeds, None where nothing was confirmed. `collapsed` is a share of
    the trials that have ended. `reached`: what it took to come to the other searches' best scores, None for never.
    """

    run: str
    trials: int
    best: Lead | None
    top: float | None
    confirmed: Standing | None
    baseline: float | None
    collapsed: float | None
    spending: Spending
    reached: Mapping[str, Reached | None]
    curve: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Searches whose scores compare. `differences`: by path into the space, each run's value."""

    score_name: str
    sides: tuple[Side, ...]
    differences: Mapping[str, tuple[Any, ...]]


def compare(runs: Sequence[Run], top: int) -> Comparison:
    """Put runs side by side. Raises RunError where their scores were measured otherwise, with what differs."""
    manifests = [run.manifest() for run in runs]
    _check_protocol(runs, manifests)
    found = [run.rows() for run in runs]
    curves = [best_so_far(rows) for rows in found]
    lowest = [steps[-1].score if steps else None for steps in curves]
    shown = [run.shown for run in runs]
    sides = []
    for at, (run, rows) in enumerate(zip(runs, found, strict=True)):
        reached = {
            shown[other]: None if score is None else _reached(curves[at], score)
            for other, score in enumerate(lowest)
            if other != at
        }
        sides.append(_side(run, rows, curves[at], top, reached))
    spaces = [dict(_flat(_sections(manifest["space"]))) for manifest in manifests]
    paths = sorted({path for space in spaces for path in space})
    values = {path: tuple(space.get(path, NOTHING) for space in spaces) for path in paths}
    return Comparison(
        score_name=runs[0].score_name,
        sides=tuple(sides),
        differences={path: each for path, each in values.items() if any(value != each[0] for value in each)},
    )


def _check_protocol(runs: Sequence[Run], manifests: Sequence[Mapping[str, Any]]) -> None:
    told = []
    for run, manifest in zip(runs, manifests, strict=True):
        protocol, objective = manifest.get("protocol"), manifest["space"].get("objective", {})
        if protocol is None:
            raise RunError(
                f"{run.shown}: has not measured anything yet, so there is nothing to compare; "
                f"let it train, or leave it out"
            )
        told.append({**protocol, **{f"samples.{name}": count for name, count in objective.get("samples", {}).items()}})
    for run, other in zip(runs[1:], told[1:], strict=True):
        differ = [name for name in {**told[0], **other} if told[0].get(name) != other.get(name)]
        if differ:
            words = "; ".join(f"{name} is {told[0].get(name)} and {other.get(name)}" for name in differ)
            raise RunError(
                f"{runs[0].shown} and {run.shown} do not compare: {words}; search again with the same data, "
                "objective and features, or train one's configurations under the other's (gantune search --from)"
            )


def _side(
    run: Run, rows: Sequence[Row], curve: tuple[Step, ...], top: int, reached: Mapping[str, Reached | None]
) -> Side:
    trials, repeats = trials_and_repeats(rows)
    living = sorted((record.best_score or 0.0, record.number) for record in trials if record.survived)
    best = Lead(trial=living[0][1], repeat=0, score=living[0][0]) if living else None
    standings = standings_of(repeats)
    baseline = run.baseline(trials)
    ended = [record for record in trials if record.state in ("finished", "pruned", "collapsed")]
    count = min(top, len(living))
    return Side(
        run=run.shown,
        trials=len(trials),
        best=best,
        top=sum(score for score, _ in living[:count]) / count if count else None,
        confirmed=standings[0] if standings else None,
        baseline=baseline.best_score if baseline else None,
        collapsed=sum(record.state == "collapsed" for record in ended) / len(ended) if ended else None,
        spending=spending(run, rows),
        reached=reached,
        curve=curve,
    )


def _reached(curve: Sequence[Step], score: float) -> Reached | None:
    first = next((step for step in curve if step.score <= score), None)
    return None if first is None else Reached(samples=first.samples, hours=first.hours)


def _sections(space: Mapping[str, Any]) -> dict[str, Any]:
    return {name: space[name] for name in SECTIONS if space.get(name) is not None}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A document's values by their paths."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def page(comparison: Comparison) -> str:
    """An HTML page that opens offline: the best so far of each search against what it had spent."""
    from plotly import graph_objects, io, subplots

    figure = subplots.make_subplots(rows=1, cols=2, shared_yaxes=True)
    for side, colour in zip(comparison.sides, _colours(len(comparison.sides)), strict=True):
        ends = {"samples": side.spending.samples, "hours": side.spending.hours}
        for column, (axis, end) in enumerate(ends.items(), 1):
            x = [*(getattr(step, axis) for step in side.curve), end]
            y = [*(step.score for step in side.curve), *(step.score for step in side.curve[-1:])]
            line = graph_objects.Scatter(
                x=x, y=y, name=side.run, line={"shape": "hv", "color": colour}, showlegend=column == 1
            )
            figure.add_trace(line, row=1, col=column)
    better = f"best {comparison.score_name} so far, {BETTER['fid']} is better"
    figure.update_yaxes(title=better, type="log", col=1)
    figure.update_yaxes(type="log", col=2)
    figure.update_xaxes(title="samples, of all trials", col=1)
    figure.update_xaxes(title="hours", col=2)
    text: str = io.to_html(figure, include_plotlyjs=True, full_html=True)
    return text


def _colours(count: int) -> list[str]:
    return [f"hsl({round(360 * at / max(1, count) + 210) % 360}, 65%, 45%)" for at in range(count)]
