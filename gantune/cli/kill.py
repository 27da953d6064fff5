"""gantune kill"""

import click

from gantune.cli import options


@click.command("kill")
@click.argument("trial", type=click.IntRange(0))
@click.argument("run", required=False)
@options.runs
@click.option("--no-wait", is_flag=True, help="Wait until it is heard, not until the trial has ended.")
def command(trial: int, run: str | None, runs: options.Runs, no_wait: bool) -> None:
    """End TRIAL, such as 7, of the search that drives RUN, at its next report; it counts as pruned.

    A trial that waits to be continued ends at once. Where no search drives RUN, this is noted, and done when the run
    continues. RUN is a path or a name below --runs; without it, the run last used. Exit code 1: there is no such trial,
    or it has ended.

    \b
    gantune kill 7
    gantune kill 7 dcgan --no-wait
    """
    from gantune.cli.asking import ask_of_trial
    from gantune.run import Run

    ask_of_trial(Run.open(run, runs), "kill", trial, wait=not no_wait)
