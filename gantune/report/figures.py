"""The report's own figures: what was found when, how trials learned, where they died, what rungs decided.

Each is a plotly figure without colours of a page's own; report.js lays the page's theme over it.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from gantune.curve import Step
from gantune.driver.certificate import Rung
from gantune.records import TrialRecord
from gantune.report.collapse_map import Death
from gantune.results import Row

COLOURS = {
    "finished": "#2f7ed8",
    "running": "#17a2b8",
    "paused": "#9aa5b1",
    "pruned": "#9aa5b1",
    "failed": "#5b616b",
    "mode_collapse": "#e4572e",
    "generator_stalled": "#f2a33a",
    "oscillation": "#b5651d",
    "discriminator_won": "#c2185b",
    "diverged": "#8e44ad",
    "memorised": "#6d8b3a",
}
OTHER, WINNER, BASELINE = "#7a6f9b", "#12a150", "#d99000"
FROM_BAD_TO_GOOD = ((0.0, WINNER), (0.5, "#2f7ed8"), (1.0, "#9aa5b1"))  # of scores, the lowest first
FROM_EARLY_TO_LATE = ((0.0, "#9aa5b1"), (1.0, "#2f7ed8"))
HEIGHT = 380
MANY = 100  # times, from which an axis names its decades only
SAMPLES_AXIS = {"tickformat": "~s"}
SYMBOLS = {"finished": "circle", "running": "circle-open", "paused": "circle-open", "pruned": "circle-open"}


def colour(outcome: str) -> str:
    """The colour of an outcome, one everywhere."""
    return COLOURS.get(outcome, OTHER)


def figure(**layout: object) -> go.Figure:
    """An empty figure of the report."""
    made = go.Figure()
    made.update_layout(
        template="none",
        height=HEIGHT,
        margin={"l": 58, "r": 16, "t": 12, "b": 48},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"namelength": -1},
        **layout,
    )
    return made


def ticks(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis over these values: labels at 1, 2 and 5 of each decade, or at decades where there are many."""
    low, high = min(values), max(values)
    steps = (1, 2, 5) if high / low < MANY else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    places = [step * 10.0**decade for decade in decades for step in steps]
    return {"type": "log", "tickvals": places, "ticktext": [f"{place:g}" for place in places]}


def _scores_up(made: go.Figure, scores: Sequence[float]) -> go.Figure:
    """Scores scatter by shares of themselves, so their axis is logarithmic wherever they are all above 0."""
    if scores and min(scores) > 0:
        made.update_yaxes(**ticks(scores))
    return made


def expected_best(scores: Sequence[float]) -> list[float]:
    """The lowest of n scores drawn at random from these, in the mean, for n = 1, 2, ... as many as there are.

    Dodge et al. 2019, Show Your Work, equation 1, with replacement.
    """
    ordered, count = sorted(scores), len(scores)
    return [
        sum(score * (((count - at) / count) ** n - ((count - at - 1) / count) ** n) for at, score in enumerate(ordered))
        for n in range(1, count + 1)
    ]


def progress(
    steps: Sequence[Step], everything: int, trials: Sequence[TrialRecord], name: str, baseline: TrialRecord | None
) -> go.Figure:
    """The best so far against samples trained on by all trials, and what a random order would be expected to find.

    everything: samples that the whole run trained on.
    """
    made = figure(xaxis=SAMPLES_AXIS, xaxis_title="real samples trained on, all trials together", yaxis_title=name)
    if steps:
        told = [(step.samples, step.score, f"#{step.trial}, after {step.hours * 60:.1f} min") for step in steps]
        seen, scores, names = zip(*told, (everything, steps[-1].score, "the end"), strict=True)
        hover = "%{y:.4g}<br>%{text}<extra>best so far</extra>"
        line = {"color": WINNER, "width": 2.5, "shape": "hv"}
        made.add_scatter(
            x=seen, y=scores, text=names, mode="lines+markers", line=line, name="best so far", hovertemplate=hover
        )
    ends = [trial.best_score for trial in trials if trial.best_score is not None]
    if len(ends) > 2:
        each = sum(trial.samples_seen for trial in trials) / len(trials)  # of one trial, in the mean
        per_score = each * len(trials) / len(ends)
        made.add_scatter(
            x=[per_score * n for n in range(1, len(ends) + 1)],
            y=expected_best(ends),
            mode="lines",
            line={"color": COLOURS["finished"], "dash": "dot"},
            name="expected of a random order",
            hovertemplate="%{y:.4g}<extra>expected best</extra>",
        )
    if baseline is not None and baseline.best_score is not None:
        made.add_scatter(
            x=[0, everything],
            y=[baseline.best_score] * 2,
            mode="lines",
            line={"color": BASELINE, "dash": "dash"},
            name=f"baseline, {baseline.best_score:.4g}",
            hoverinfo="skip",
        )
    return _scores_up(made, [step.score for step in steps] + ends)


def curves(
    rows: Sequence[Row], outcomes: Mapping[int, str], winner: int | None, baseline: int | None, name: str
) -> go.Figure:
    """The score of every trial against the real samples that it had seen, by what became of it."""
    lines: dict[int, list[tuple[int, float]]] = {}
    for row in rows:
        if row.score is not None and not row.repeat:
            lines.setdefault(row.trial, []).append((row.samples_seen, row.score))
    made = figure(xaxis=SAMPLES_AXIS, xaxis_title="real samples seen", yaxis_title=name)
    groups: dict[str, list[int]] = {}
    for trial in sorted(lines):
        groups.setdefault(outcomes.get(trial, "running"), []).append(trial)
    for outcome, members in sorted(groups.items(), key=lambda group: group[0] == "finished"):
        points = list(itertools.chain.from_iterable([*lines[trial], (None, None)] for trial in members))
        names = list(itertools.chain.from_iterable([f"#{trial}"] * (len(lines[trial]) + 1) for trial in members))
        made.add_scatter(
            x=[seen for seen, _ in points],
            y=[score for _, score in points],
            text=names,
            mode="lines+markers",
            marker={"size": 3},
            line={"color": colour(outcome), "width": 1.2},
            opacity=0.75,
            name=f"{outcome.replace('_', ' ')} ({len(members)})",
            hovertemplate="%{text} %{y:.4g} at %{x:,}<extra></extra>",
        )
    for number, label, shade in ((baseline, "baseline", BASELINE), (winner, "winner", WINNER)):
        if number in lines:
            seen, scores = zip(*lines[number], strict=True)
            made.add_scatter(
                x=seen,
                y=scores,
                mode="lines+markers",
                line={"color": shade, "width": 3},
                name=f"{label} #{number}",
                hovertemplate=f"#{number} %{{y:.4g}} at %{{x:,}}<extra>{label}</extra>",
            )
    return _scores_up(made, [score for line in lines.values() for _, score in line])


def importance_bars(importances: Mapping[str, float]) -> go.Figure:
    """One group's importances, the greatest on top."""
    names, shares = [*importances][::-1], [*importances.values()][::-1]
    made = figure(xaxis_title="share of the scores' scatter", xaxis_tickformat=".0%", showlegend=False)
    made.add_bar(
        x=shares,
        y=names,
        orientation="h",
        marker_color=COLOURS["finished"],
        hovertemplate="%{y}: %{x:.0%}<extra></extra>",
    )
    made.update_layout(height=64 + 28 * len(names))
    made.update_yaxes(automargin=True)
    return made


def deaths(places: Sequence[tuple[str, int, Mapping[str, int]]]) -> go.Figure:
    """Which share of the trials died of what, by the value of one parameter: its value, trials, and deaths by cause."""
    made = figure(yaxis_tickformat=".0%", barmode="stack", yaxis_rangemode="tozero", yaxis_range=[0, 1])
    values = [_broken(value) for value, _, _ in places]
    for cause in sorted({cause for _, _, dead in places for cause in dead}):
        counts = [dead.get(cause, 0) for _, _, dead in places]
        made.add_bar(
            x=values,
            y=[dead / trials if trials else 0 for dead, (_, trials, _) in zip(counts, places, strict=True)],
            customdata=[[dead, trials] for dead, (_, trials, _) in zip(counts, places, strict=True)],
            name=cause.replace("_", " "),
            marker_color=colour(cause),
            hovertemplate="%{customdata[0]} of %{customdata[1]} trials<extra>%{fullData.name}</extra>",
        )
    made.update_layout(height=230, showlegend=False, margin={"l": 44, "r": 8, "t": 8, "b": 40})
    made.update_xaxes(type="category", tickangle=0, tickfont={"size": 10})
    return made


def _broken(value: str) -> str:
    """A long value in two lines."""
    return value.replace("..", " to<br>") if ".." in value else value.replace("_", "_<br>", 1)


def map_of(deaths_and_others: Sequence[Death], across: str, up: str, logarithmic: tuple[bool, bool]) -> go.Figure:
    """Every trial at its values of two parameters, coloured by what became of it."""
    made = figure(xaxis_title=across, yaxis_title=up)
    for outcome in sorted({one.outcome for one in deaths_and_others}):
        members = [one for one in deaths_and_others if one.outcome == outcome]
        made.add_scatter(
            x=[one.parameters[across] for one in members],
            y=[one.parameters[up] for one in members],
            text=[f"#{one.number}" for one in members],
            mode="markers",
            name=f"{outcome.replace('_', ' ')} ({len(members)})",
            marker={"color": colour(outcome), "size": 9, "symbol": SYMBOLS.get(outcome, "x"), "line": {"width": 1.5}},
            hovertemplate=f"%{{text}} {across} %{{x:.4g}}, {up} %{{y:.4g}}<extra>{outcome.replace('_', ' ')}</extra>",
        )
    for path, wanted, update in ((across, logarithmic[0], made.update_xaxes), (up, logarithmic[1], made.update_yaxes)):
        if wanted:
            update(**ticks([float(one.parameters[path] or 0) for one in deaths_and_others]))
    return made


def rung_bars(rungs: Sequence[Rung], reached: Mapping[int, int], beyond: Mapping[int, int]) -> go.Figure:
    """How many trials came to each rung, and how many of them went on."""
    made = figure(xaxis_title="real samples seen", yaxis_title="trials", barmode="overlay")
    names = [f"{rung.samples:,}" for rung in rungs]
    came, went = [reached[rung.samples] for rung in rungs], [beyond[rung.samples] for rung in rungs]
    made.add_bar(x=names, y=came, name="came to the rung", marker_color=COLOURS["paused"])
    made.add_bar(x=names, y=went, name="went on", marker_color=COLOURS["finished"], width=0.5)
    made.update_layout(height=260)
    made.update_xaxes(type="category")
    return made


def front(
    points: Sequence[tuple[int, float, float]], beaten: Sequence[tuple[int, float, float]], names: tuple[str, str]
) -> go.Figure:
    """Trials by two objectives: those that no other beats, joined, and the others."""
    made = figure(xaxis_title=names[1], yaxis_title=names[0])
    for label, members, shade, mode in (
        ("others", beaten, COLOURS["pruned"], "markers"),
        ("beaten by none", sorted(points, key=lambda one: one[2]), WINNER, "lines+markers"),
    ):
        made.add_scatter(
            x=[across for _, _, across in members],
            y=[score for _, score, _ in members],
            text=[f"#{number}" for number, _, _ in members],
            mode=mode,
            name=label,
            marker={"color": shade, "size": 8},
            line={"color": shade, "dash": "dot"},
            hovertemplate="%{text} %{y:.4g}, %{x:.4g}<extra></extra>",
        )
    return made
