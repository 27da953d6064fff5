"""One HTML page of a run that opens anywhere, offline: everything it shows is inside it."""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from gantune.config import Scalar
from gantune.domains import Uniform
from gantune.driver.certificate import Rung
from gantune.driver.schedulers import Remembering, build_scheduler
from gantune.errors import CheckpointError, GantuneError, NoSurvivorError
from gantune.export import load_generator
from gantune.pictures import moments
from gantune.plugins import shown
from gantune.report import figures
from gantune.report.collapse_map import collapse_map, told
from gantune.report.drawn import few_of_a_moment, moment, samples_of, small, walk_of
from gantune.report.study import drawn, importances, outcome, study_of
from gantune.requests import Requests
from gantune.results import Row
from gantune.run import Run, TrialRecord, records, standings_of
from gantune.space import SearchSpace, load_space
from gantune.spending import duration, spending
from gantune.standings import Standing
from gantune.trial import PICTURE
from gantune.winner import differences

FILE = "report.html"
METRICS = ("recall", "precision", "coverage", "diversity", "memorisation")  # of the leaderboard, where measured
THUMBNAILS = 200  # in the leaderboard, of the best; a page is sent by mail
DEATHS_SHOWN = 24  # pictures of the moment, the latest of each cause first
RUNNERS_UP = 4  # beside the winner and the baseline, in the table of configurations
EVIDENCE = ("recall", "diversity", "pixel_diversity", "memorisation", "d_accuracy", "g_gradient")  # first of it all
TELLING = 6  # parameters in the map of collapse
MOMENTS = 24  # pictures in the winner's timeline


@dataclass
class _Contents:
    """What a page is made of, read once."""

    run: Run
    space: SearchSpace
    rows: Sequence[Row]
    trials: Sequence[TrialRecord]
    repeats: Sequence[TrialRecord]

    @cached_property
    def _best(self) -> TrialRecord | NoSurvivorError:
        try:
            return self.run.best(self.trials, self.standings)
        except NoSurvivorError as error:
            return error

    @property
    def winner(self) -> TrialRecord | None:
        """The best trial; None where none survived."""
        return self._best if isinstance(self._best, TrialRecord) else None

    @property
    def reasons(self) -> str:
        """Why there is no winner; nothing where there is one."""
        return str(self._best) if isinstance(self._best, NoSurvivorError) else ""

    @cached_property
    def baseline(self) -> TrialRecord | None:
        """The baseline's trial, where there is one."""
        return self.run.baseline(self.trials)

    @cached_property
    def standings(self) -> list[Standing]:
        """Of confirmed finalists."""
        return standings_of(self.repeats)

    @cached_property
    def outcomes(self) -> dict[int, str]:
        """What became of every trial."""
        return {trial.number: outcome(trial) for trial in self.trials}

    @cached_property
    def ranked(self) -> list[TrialRecord]:
        """All trials, the best first; then those that met no constraints, without a score, and dead."""
        return sorted(
            self.trials,
            key=lambda trial: (
                *(not trial.survived, trial.best_score is None, trial.lowest_score is None),
                *(trial.best_score or trial.lowest_score or 0.0, trial.number),
            ),
        )

    def moments(self, trial: TrialRecord) -> dict[int, Path]:
        """The pictures of a trial's reports, brought here."""
        folder = self.run.trial_folder(trial.number)
        self.run.files.bring_pictures(folder)
        return moments(folder)


def write_report(run: Run, path: Path, say: Callable[[str], None] = lambda text: None) -> None:
    """Write the page of a run as it stands. Raises GantuneError where the run or the path cannot be used."""
    text = page(run, say)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise GantuneError(f"{path}: cannot be written: {error.strerror or error}; use --out") from error


def page(run: Run, say: Callable[[str], None] = lambda text: None) -> str:
    """The page as text."""
    manifest = run.manifest()
    run.files.refresh()
    rows = run.results.rows()
    space = load_space(run.folder / "space.yaml")
    found = records(rows)
    trials, repeats = [one for one in found if not one.repeat], [one for one in found if one.repeat]
    contents = _Contents(run, space, rows, trials, repeats)
    drawings: dict[str, str] = {}

    def draw(name: str, figure: go.Figure | None) -> str:
        if figure is not None:
            drawings[name] = figure.to_json()
        return name if figure is not None else ""

    say("drawing the winner's samples")
    values = {
        **_head(contents, manifest),
        **_winner(contents),
        "leaderboard": _leaderboard(contents),
        "progress": draw("progress", _progress(contents)),
        "curves": draw(
            "curves",
            figures.curves(
                rows,
                contents.outcomes,
                contents.winner.number if contents.winner else None,
                contents.baseline.number if contents.baseline else None,
                run.score_name,
            ),
        ),
        "front": draw("front", _front(contents)),
    }
    say("weighing the parameters")
    values |= _parameters(contents, draw)
    values |= _collapse(contents, draw)
    values |= _rungs(contents, draw)
    values |= {"configurations": _configurations(contents), "failed": _failed(contents)}
    values |= {"drawings": {name: _inside_script(text) for name, text in drawings.items()}}
    loader = Environment(
        loader=PackageLoader("gantune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = resources.files("gantune.report") / "templates"
    return loader.get_template("report.html").render(
        values,
        plotly=get_plotlyjs(),
        style=(own / "report.css").read_text(encoding="utf-8"),
        script=(own / "report.js").read_text(encoding="utf-8"),
    )


def _inside_script(text: str) -> str:
    """JSON that cannot end the element it stands in."""
    return text.replace("<", "\\u003c")


def _head(contents: _Contents, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Names, counts, cost, protocol, versions, and how to have it again."""
    run, space = contents.run, contents.space
    counts = Counter(trial.state for trial in contents.trials)
    causes = Counter(trial.verdict for trial in contents.trials if trial.state == "collapsed")
    spent = spending(run, contents.rows)
    sessions = manifest["sessions"]
    space_file = "space.yaml" if run.place is not None else shlex.quote(str(run.folder / "space.yaml"))
    again = [f"gantune search {space_file} --name {shlex.quote(run.name)}-again"]
    if contents.winner is not None:
        again.append(f"gantune replay {contents.winner.number} {shlex.quote(run.shown)} --out winner-again")
    return {
        "name": run.name,
        "shown": run.shown,
        "score_name": run.score_name,
        "searching": run.driven(),
        "asked": space.budget.trials,
        "trials": len(contents.trials),
        "counts": dict(sorted(counts.items())),
        "causes": dict(causes.most_common()),
        "spent": spent,
        "hours": duration(spent.hours * 3600),
        "training": duration(spent.trial_hours * 3600),
        "protocol": _protocol(contents, manifest),
        "sessions": sessions,
        "packages": {"gantune": sessions[-1]["gantune"], **sessions[-1]["packages"]},
        "again": again,
        "space_text": (run.folder / "space.yaml").read_text(encoding="utf-8"),
    }


def _protocol(contents: _Contents, manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    objective, space = contents.space.objective, contents.space
    constraints = ", ".join(map(str, objective.constraints)) or "none"
    return [
        ("score", f"{contents.run.score_name}, lower is better"),
        ("data", f"{space.data.dataset}, {space.data.size} pixels"),
        ("samples", f"{objective.samples.report:,} a report, {objective.samples.final:,} at a trial's end"),
        ("weights", "averaged (EMA), fixed latents; a tenth of the data held out"),
        ("constraints", constraints),
        ("budget of a trial", f"{space.budget.samples_per_trial:,} real samples, {objective.reports} reports"),
        ("reference", str(manifest.get("protocol", {}).get("reference", "not made yet"))),
        ("seed", str(space.search.seed)),
    ]


def _winner(contents: _Contents) -> dict[str, Any]:
    winner, baseline, run = contents.winner, contents.baseline, contents.run
    if winner is None:
        return {"winner": None, "reasons": contents.reasons, "standings": []}
    checkpoint = run.checkpoint(winner, contents.repeats)
    picture, walk, gone = "", None, run.let_go(checkpoint)
    found = contents.moments(winner)
    if not gone:
        try:
            generator = load_generator(run.weights(checkpoint))
            picture, walk = samples_of(generator), walk_of(generator)
        except CheckpointError as error:
            gone = str(error)
    nearest = max((seen for seen in found if seen <= winner.best_samples_seen), default=None)
    if not picture and nearest is not None:
        picture = moment(found[nearest])
    return {
        "reasons": "",
        "winner": {
            "number": winner.number,
            "score": winner.best_score,
            "final": winner.final_score,
            "seen": winner.best_samples_seen,
            "state": winner.state,
            "metrics": {name: winner.metrics[name] for name in METRICS if name in winner.metrics},
            "picture": picture,
            "walk": walk,
            "gone": gone,
            "baseline": baseline.best_score if baseline is not None and baseline.number != winner.number else None,
            "changed": [
                (path, value(before), value(after))
                for path, (before, after) in differences(
                    baseline.parameters if baseline else {}, winner.parameters
                ).items()
            ],
            "is_baseline": baseline is not None and baseline.number == winner.number,
            "timeline": _timeline(contents, winner, found),
        },
        "standings": contents.standings,
    }


def _timeline(contents: _Contents, winner: TrialRecord, found: Mapping[int, Path]) -> list[dict[str, Any]]:
    """The pictures of the winner's reports in order, evenly thinned out, the best one always among them."""
    scores = {row.samples_seen: row.score for row in contents.rows if row.trial == winner.number and not row.repeat}
    seen = [at for at in sorted(found) if at in scores]
    if len(seen) > MOMENTS:
        step = (len(seen) - 1) / (MOMENTS - 1)
        kept = {seen[round(index * step)] for index in range(MOMENTS)} | {winner.best_samples_seen}
        seen = [at for at in seen if at in kept]
    return [
        {"seen": at, "score": scores[at], "picture": moment(found[at]), "best": at == winner.best_samples_seen}
        for at in seen
    ]


def _leaderboard(contents: _Contents) -> dict[str, Any]:
    """Every trial with a thumbnail of its best moment."""
    searched = [*contents.space.searched()]
    paths = [path for path in searched if len({trial.parameters.get(path) for trial in contents.trials}) > 1]
    names = [name for name in METRICS if any(name in trial.metrics for trial in contents.trials)]
    lines = []
    for place, trial in enumerate(contents.ranked):
        picture = ""
        if place < THUMBNAILS:
            found = contents.moments(trial)
            at = trial.best_samples_seen if trial.best_samples_seen in found else max(found, default=None)
            picture = "" if at is None else few_of_a_moment(found[at])
        lines.append(
            {
                "number": trial.number,
                "picture": picture,
                "outcome": contents.outcomes[trial.number],
                "cause": trial.cause,
                "score": trial.lowest_score if trial.best_score is None else trial.best_score,
                "met": trial.best_score is not None,
                "final": trial.final_score,
                "metrics": [trial.metrics.get(name) for name in names],
                "others": [trial.metrics.get(name) for name in contents.run.others],
                "seen": trial.samples_seen,
                "seconds": trial.seconds,
                "parameters": [trial.parameters.get(path) for path in paths],
                "baseline": contents.baseline is not None and trial.number == contents.baseline.number,
                "colour": figures.colour(contents.outcomes[trial.number]),
            }
        )
    return {"metrics": names, "others": contents.run.others, "paths": paths, "lines": lines}


def _progress(contents: _Contents) -> go.Figure | None:
    if all(trial.best_score is None for trial in contents.trials):
        return None
    return figures.progress(contents.rows, contents.trials, contents.run.score_name, contents.baseline)


def _front(contents: _Contents) -> go.Figure | None:
    others = contents.run.others
    if not others:
        return None
    best = contents.run.front(contents.trials)
    numbers = {trial.number for trial in best}
    alive = [trial for trial in contents.trials if trial.survived and others[0] in trial.metrics]

    def points(members: Sequence[TrialRecord]) -> list[tuple[int, float, float]]:
        return [(trial.number, trial.best_score or 0.0, trial.metrics[others[0]]) for trial in members]

    inside, outside = ([trial for trial in alive if (trial.number in numbers) == here] for here in (True, False))
    return figures.front(points(inside), points(outside), (contents.run.score_name, others[0]))


def _parameters(contents: _Contents, draw: Callable[[str, go.Figure | None], str]) -> dict[str, Any]:
    """What matters, as Optuna weighs and draws it."""
    study = study_of(contents.space, contents.trials)
    found = importances(contents.space, study)
    leading = [*found.get("", {})]
    optunas = drawn(contents.space, study, contents.run.score_name, leading)
    return {
        "importances": [
            (place, draw(f"importance-{at}", figures.importance_bars(group)))
            for at, (place, group) in enumerate(found.items())
        ],
        "parallel": draw("parallel", optunas.parallel),
        "slices": [(path, draw(f"slice-{at}", made)) for at, (path, made) in enumerate(optunas.slices.items())],
        "contour": draw("contour", optunas.contour),
    }


def _collapse(contents: _Contents, draw: Callable[[str, go.Figure | None], str]) -> dict[str, Any]:
    domains = contents.space.searched()
    found = told(contents.trials, contents.outcomes)
    dead = [trial for trial in contents.trials if trial.state == "collapsed"]
    known = collapse_map(domains, found) if dead else []
    telling = [one for one in known if one.information > 0][:TELLING] or known[:1]
    numbers = [one.path for one in known if isinstance(domains[one.path], Uniform)]
    pair = [path for path in numbers if all(path in one.parameters for one in found)][:2]
    scatter = None
    if len(pair) == 2:
        one, other = (domains[path] for path in pair)
        assert isinstance(one, Uniform)
        assert isinstance(other, Uniform)
        scatter = figures.map_of(found, pair[0], pair[1], (one.log, other.log))
    return {
        "dead": len(dead),
        "telling": [
            (
                str(one),
                one.path,
                draw(f"deaths-{at}", figures.deaths([(r.value, r.trials, r.dead) for r in one.regions])),
            )
            for at, one in enumerate(telling)
        ],
        "map": draw("map", scatter),
        "deaths": [_death(contents, trial) for trial in _spread(dead)],
        "colours": {cause: figures.colour(cause) for cause in sorted({trial.verdict for trial in dead})},
    }


def _spread(dead: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Some of every cause, the latest deaths first."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in sorted(dead, key=lambda trial: -trial.samples_seen):
        groups.setdefault(trial.verdict, []).append(trial)
    each = max(1, DEATHS_SHOWN // max(1, len(groups)))
    return [trial for group in groups.values() for trial in group[:each]]


def _death(contents: _Contents, trial: TrialRecord) -> dict[str, Any]:
    folder = contents.run.trial_folder(trial.number)
    contents.run.files.bring_pictures(folder)
    last = next(row for row in reversed(contents.rows) if row.trial == trial.number and not row.repeat)
    picture = folder / PICTURE
    return {
        "number": trial.number,
        "verdict": trial.verdict,
        "cause": trial.cause,
        "seen": trial.samples_seen,
        "evidence": [(name.replace("_", " "), last.evidence[name]) for name in EVIDENCE if name in last.evidence],
        "signals": [(name.replace("_", " "), given) for name, given in last.evidence.items() if name not in EVIDENCE],
        "picture": small(picture, 256) if picture.exists() else "",
        "colour": figures.colour(trial.verdict),
    }


def _rungs(contents: _Contents, draw: Callable[[str, go.Figure | None], str]) -> dict[str, Any]:
    rows = [row for row in contents.rows if not row.repeat]
    scheduler = build_scheduler(contents.space, rows, Requests(contents.run).promoted())
    found: list[Rung] = scheduler.certificate.rungs() if isinstance(scheduler, Remembering) else []
    reports: dict[int, set[int]] = {}
    for row in rows:
        reports.setdefault(row.trial, set()).add(row.samples_seen)
    after = {rung.samples: [sum(at >= rung.samples for at in seen) for seen in reports.values()] for rung in found}
    reached = {samples: sum(count > 0 for count in counts) for samples, counts in after.items()}
    beyond = {samples: sum(count > 1 for count in counts) for samples, counts in after.items()}
    scheduling = contents.space.document()["search"]["scheduler"]
    return {
        "scheduler": scheduling if isinstance(scheduling, str) else next(iter(scheduling)),
        "rungs": [(rung, reached[rung.samples], beyond[rung.samples]) for rung in found],
        "rung_bars": draw("rungs", figures.rung_bars(found, reached, beyond) if found else None),
    }


def _configurations(contents: _Contents) -> dict[str, Any]:
    """Baseline, winner and runners-up side by side; a row a parameter, those that are the same everywhere last."""
    first = [contents.baseline] if contents.baseline is not None else []
    alive = [trial for trial in contents.ranked if trial.survived]
    winner = [contents.winner] if contents.winner is not None else []
    others = [trial for trial in alive if trial not in (*winner, *first)]
    columns = list({trial.number: trial for trial in [*first, *winner, *others[:RUNNERS_UP]]}.values())
    paths = list(dict.fromkeys(path for trial in columns for path in trial.parameters))
    lines = []
    for path in paths:
        values = [value(trial.parameters.get(path), missing=path not in trial.parameters) for trial in columns]
        lines.append({"path": path, "values": values, "same": len(set(values)) == 1, "first": values[0]})
    lines.sort(key=lambda line: bool(line["same"]))
    return {
        "columns": [
            {
                "number": trial.number,
                "score": trial.best_score,
                "role": "baseline" if trial in first else "winner" if trial in winner else "",
            }
            for trial in columns
        ],
        "lines": lines,
    }


def value(given: Scalar, *, missing: bool = False) -> str:
    """A parameter's value for people."""
    if missing:
        return ""
    return f"{given:.4g}" if isinstance(given, float) else shown(given)


def _failed(contents: _Contents) -> list[tuple[int, str]]:
    return [(trial.number, trial.cause) for trial in contents.trials if trial.state == "failed"]
