"""The parts of the report's page: what each shows of a run, as the values that its template lays out."""

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from gantune.config import Scalar
from gantune.curve import best_so_far
from gantune.domains import Uniform
from gantune.driver.certificate import Rung
from gantune.driver.schedulers import Remembering, build_scheduler
from gantune.errors import CheckpointError
from gantune.export import load_generator
from gantune.plugins import shown
from gantune.records import TrialRecord
from gantune.report import figures
from gantune.report.collapse_map import collapse_map, told
from gantune.report.contents import Contents
from gantune.report.drawn import few_of_a_moment, moment, samples_of, small, walk_of
from gantune.report.study import drawn, importances, study_of
from gantune.requests import Requests
from gantune.spending import duration
from gantune.trial import PICTURE
from gantune.winner import differences
from gantune.writing import dump

METRICS = ("recall", "precision", "coverage", "diversity", "memorisation")  # of the leaderboard, where measured
THUMBNAILS = 200  # in the leaderboard, of the best; a page is sent by mail
DEATHS_SHOWN = 24  # pictures of the moment, the latest of each cause first
RUNNERS_UP = 4  # beside the winner and the baseline, in the table of configurations
EVIDENCE = ("recall", "diversity", "pixel_diversity", "memorisation", "d_accuracy", "g_gradient")  # first of it all
TELLING = 6  # parameters in the map of collapse
MOMENTS = 24  # pictures in the winner's timeline
Draw = Callable[[str, go.Figure | None], str]  # notes a figure under a name, which it gives back; "" for none


def head(contents: Contents) -> dict[str, Any]:
    """Names, counts, cost, protocol, versions, and how to have it again."""
    run, space = contents.run, contents.space
    counts = Counter(trial.state for trial in contents.trials)
    causes = Counter(trial.verdict for trial in contents.trials if trial.state == "collapsed")
    spent, sessions = contents.spent, contents.manifest["sessions"]
    space_file = "space.yaml" if run.place is not None else shlex.quote(str(run.folder / "space.yaml"))
    again = [f"gantune search {space_file} --name {shlex.quote(run.name)}-again"]
    if contents.winner is not None and contents.winner.replay is not None:
        again.append(contents.winner.replay)
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
        "protocol": _protocol(contents),
        "sessions": sessions,
        "packages": {"gantune": sessions[-1]["gantune"], **sessions[-1]["packages"]},
        "again": again,
        "space_text": dump(contents.manifest["space"]),
    }


def _protocol(contents: Contents) -> list[tuple[str, str]]:
    objective, space = contents.space.objective, contents.space
    constraints = ", ".join(map(str, objective.constraints)) or "none"
    return [
        ("score", f"{contents.run.score_name}, lower is better"),
        ("data", f"{space.data.dataset}, {space.data.size} pixels"),
        ("samples", f"{objective.samples.report:,} a report, {objective.samples.final:,} at a trial's end"),
        ("weights", "averaged (EMA), fixed latents; a tenth of the data held out"),
        ("constraints", constraints),
        ("budget of a trial", f"{space.budget.samples_per_trial:,} real samples, {objective.reports} reports"),
        ("reference", str(contents.manifest.get("protocol", {}).get("reference", "not made yet"))),
        ("seed", str(space.search.seed)),
    ]


def winner(contents: Contents) -> dict[str, Any]:
    """Its pictures, scores and timeline, and what differs from the baseline; or why there is none."""
    found, baseline, run = contents.winner, contents.baseline, contents.run
    if found is None:
        return {"winner": None, "reasons": contents.reasons, "standings": []}
    best = found.trial
    picture, walk, gone = "", None, found.let_go
    seen = contents.moments(best)
    if not gone:
        try:
            generator = load_generator(run.weights(found.checkpoint))
            picture, walk = samples_of(generator), walk_of(generator)
        except CheckpointError as error:
            gone = str(error)
    nearest = max((at for at in seen if at <= best.best_samples_seen), default=None)
    if not picture and nearest is not None:
        picture = moment(seen[nearest])
    return {
        "reasons": "",
        "winner": {
            "number": best.number,
            "score": best.best_score,
            "final": best.final_score,
            "seen": best.best_samples_seen,
            "state": best.state,
            "metrics": {name: best.metrics[name] for name in METRICS if name in best.metrics},
            "picture": picture,
            "walk": walk,
            "gone": gone,
            "baseline": baseline.best_score if baseline is not None and baseline.number != best.number else None,
            "changed": [
                (path, value(before), value(after))
                for path, (before, after) in differences(
                    baseline.parameters if baseline else {}, best.parameters
                ).items()
            ],
            "is_baseline": baseline is not None and baseline.number == best.number,
            "timeline": _timeline(contents, best, seen),
        },
        "standings": contents.standings,
    }


def _timeline(contents: Contents, trial: TrialRecord, found: Mapping[int, Path]) -> list[dict[str, Any]]:
    """The pictures of the winner's reports in order, evenly thinned out, the best one always among them."""
    scores = {row.samples_seen: row.score for row in contents.rows if row.trial == trial.number and not row.repeat}
    seen = [at for at in sorted(found) if at in scores]
    if len(seen) > MOMENTS:
        step = (len(seen) - 1) / (MOMENTS - 1)
        kept = {seen[round(index * step)] for index in range(MOMENTS)} | {trial.best_samples_seen}
        seen = [at for at in seen if at in kept]
    told = [
        {"seen": at, "score": scores[at], "picture": moment(found[at]), "best": at == trial.best_samples_seen}
        for at in seen
    ]
    return [one for one in told if one["picture"]]


def leaderboard(contents: Contents) -> dict[str, Any]:
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


def progress(contents: Contents) -> go.Figure | None:
    """The best so far against what it took."""
    steps = best_so_far(contents.rows)
    if not steps:
        return None
    return figures.progress(steps, contents.spent.samples, contents.trials, contents.run.score_name, contents.baseline)


def curves(contents: Contents) -> go.Figure:
    """The learning curves of all trials."""
    return figures.curves(
        contents.rows,
        contents.outcomes,
        contents.winner.trial.number if contents.winner else None,
        contents.baseline.number if contents.baseline else None,
        contents.run.score_name,
    )


def front(contents: Contents) -> go.Figure | None:
    """The front of a search with several objectives: the score against the first of the others."""
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


def parameters(contents: Contents, draw: Draw) -> dict[str, Any]:
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


def collapse(contents: Contents, draw: Draw) -> dict[str, Any]:
    """Where in the space runs die, and of what, with pictures of the moment."""
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


def _death(contents: Contents, trial: TrialRecord) -> dict[str, Any]:
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


def rungs(contents: Contents, draw: Draw) -> dict[str, Any]:
    """What the scheduler decided at its rungs, and how sure that is."""
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


def configurations(contents: Contents) -> dict[str, Any]:
    """Baseline, winner and runners-up side by side; a row a parameter, those that are the same everywhere last."""
    first = [contents.baseline] if contents.baseline is not None else []
    alive = [trial for trial in contents.ranked if trial.survived]
    winner = [contents.winner.trial] if contents.winner is not None else []
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


def failed(contents: Contents) -> list[tuple[int, str]]:
    """The trials that could not be trained, and why."""
    return [(trial.number, trial.cause) for trial in contents.trials if trial.state == "failed"]
