"""gantune status"""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from gantune.cli import options

if TYPE_CHECKING:
    from gantune.following import View
    from gantune.run import Run

SECONDS_BETWEEN_LOOKS = 1.0
PLAIN_WIDTH = 120
MOST_FAILURES = 5


@click.command("status")
@click.argument("run", required=False)
@options.runs
@click.option("--watch", is_flag=True, help="Follow the search until it ends, or until Ctrl-C.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object; with --watch one a line, for each change."
)
def command(run: str | None, runs: options.Runs, watch: bool, as_json: bool) -> None:
    """Show how a search stands, wherever it runs: progress, trials that train, what collapsed or failed, best so far.

    It reads the run's directory, or its URI, and asks nothing of the search. RUN is a path or a name below --runs;
    without it, the run last used.

    \b
    gantune status
    gantune status dcgan --watch
    gantune status s3://bucket/runs/dcgan --json
    """
    from gantune.following import Follower
    from gantune.run import Run

    opened = Run.open(run, runs)
    follower = Follower(opened)
    views = iter([follower.look()]) if not watch else _views(follower.look)
    try:
        if as_json:
            _print_json(opened, views, lines=watch)
        elif watch and sys.stdout.isatty():
            _redraw(opened, views)
        elif watch:
            _follow(opened, views)
        else:
            _print(opened, next(views))
    except KeyboardInterrupt:
        return


def _views(look: "Any") -> "Iterator[View]":
    """One a second, until nobody drives the run."""
    while True:
        view = look()
        yield view
        if not view.driven:
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _print(run: "Run", view: "View") -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(_picture(view))
    _print_rest(run, view)


def _redraw(run: "Run", views: "Iterator[View]") -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    if console.is_dumb_terminal:
        _follow(run, views)
        return
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        for view in views:
            live.update(_picture(view, _who(run, view)), refresh=True)
        live.update(_picture(view), refresh=True)
    _print_rest(run, view)


def _follow(run: "Run", views: "Iterator[View]") -> None:
    """A line whenever something has changed."""
    from gantune.screen import overview, preparing

    before = None
    for view in views:
        stage = view.stage
        seen = (view.state, view.situation.done, view.situation.best, len(view.situation.running))
        now = (*seen, stage and (stage.name, stage.share))
        if now != before:
            click.echo(preparing(stage) if stage else overview(view.situation))
        before = now
    _print_rest(run, view)


def _print_json(run: "Run", views: "Iterator[View]", *, lines: bool) -> None:
    before = None
    for view in views:
        stage = None if view.stage is None else asdict(view.stage)
        values = {"run": run.shown, "next": _next(run, view), "stage": stage, **asdict(view)}
        now = {
            **values,
            "stage": view.stage and (view.stage.name, view.stage.share),
            "drivers": len(view.drivers),
            "situation": {**values["situation"], "seconds": 0, "seconds_left": 0, "spending": 0, "limits": 0},
        }
        if str(now) != before:
            click.echo(json.dumps(values) if lines else json.dumps(values, indent=1))
        before = str(now)


def _picture(view: "View", note: str = "") -> "Any":
    from gantune.screen import Picture, preparing

    notes = [*([preparing(view.stage)] if view.stage else []), *([note] if note else [])]
    return Picture(view.situation, "\n".join(notes))


def _print_rest(run: "Run", view: "View") -> None:
    """Lines that are not cut, for commands stand in them."""
    for line in [_who(run, view), *_below(run, view)]:
        click.echo(line)


def _who(run: "Run", view: "View") -> str:
    """Who drives the run, or what to do where nobody does."""
    if view.driven:
        who = "; ".join(map(str, view.drivers))
        return f"{run.shown}: driven by {who}"
    said = {
        "finished": "has come to its end",
        "stopped": "nobody drives it",
        "silent": "no trial has reported, and nobody drives it",
    }[view.state]
    return f"{run.shown}: {said}; {_next(run, view)}"


def _next(run: "Run", view: "View") -> str:
    """The command that comes next."""
    where = shlex.quote(run.shown)
    if view.driven:
        return f"gantune stop {where}"
    return f"gantune best {where}" if view.state == "finished" else f"continue with: gantune resume {where}"


def _below(run: "Run", view: "View") -> list[str]:
    """What it cost, and what could not be trained."""
    from gantune.following import last_words
    from gantune.screen import unfinished
    from gantune.situation import label

    failures = view.situation.failures
    lines = [f"so far: {view.situation.spending}"] if view.situation.spending.trials else []
    if view.state != "searching" and (text := unfinished(view.situation, run.shown)):
        lines.append(text)
    for failure in failures[-MOST_FAILURES:]:
        cause = failure.cause.partition("\n")[0]
        lines.append(f"{label(failure.trial, failure.repeat)} failed at {failure.samples_seen:,} samples: {cause}")
    if len(failures) > MOST_FAILURES:
        lines.append(f"and {len(failures) - MOST_FAILURES} before")
    if any("ray.log" in failure.cause for failure in failures) and (words := last_words(run)):
        lines += ["the last lines of ray.log about it:", *(f"  {line}" for line in words)]
    return lines
