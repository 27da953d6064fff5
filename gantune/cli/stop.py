"""gantune stop"""

import shlex
import time

import click

from gantune.cli import options

SECONDS_BETWEEN_LOOKS = 0.3
SECONDS_BETWEEN_WORDS = 10.0


@click.command("stop")
@click.argument("run", required=False)
@options.runs
@click.option("--no-wait", is_flag=True, help="Ask, and do not wait until it has stopped.")
def command(run: str | None, runs: options.Runs, no_wait: bool) -> None:
    """Ask the search that drives RUN to stop, as Ctrl-C does, from another terminal or machine; wait until it has.

    What is running continues from its last report with `gantune resume`. RUN is a path or a name below --runs; without
    it, the run last used. Exit code 1: no search drives it.

    \b
    gantune stop
    gantune stop dcgan --no-wait
    """
    from gantune.errors import RunError
    from gantune.requests import Requests
    from gantune.run import Run

    opened = Run.open(run, runs)
    if not opened.driven():
        raise RunError(f"{opened.shown}: no search drives this run, so there is nothing to stop")
    requests = Requests(opened)
    request = requests.ask("stop")
    click.echo(f"asked the search of {opened.shown} to stop", err=True)
    if no_wait:
        return
    started = told = time.monotonic()
    while opened.driven():
        time.sleep(SECONDS_BETWEEN_LOOKS)
        if time.monotonic() - told > SECONDS_BETWEEN_WORDS:
            told = time.monotonic()
            what = "it is stopping" if requests.answer(request) else "it has not answered yet"
            click.echo(f"{what}, after {told - started:.0f}s; Ctrl-C ends the waiting, not the request", err=True)
    heard = requests.answer(request)
    requests.forget(request)
    if heard is None:
        click.echo(f"{opened.shown}: the search ended before it heard of it", err=True)
    else:
        click.echo(f"{opened.shown}: stopped; continue it with: gantune resume {shlex.quote(opened.shown)}", err=True)
