"""gantune promote"""

import click

from gantune.cli import options


@click.command("promote")
@click.argument("trial", type=click.IntRange(0))
@click.argument("run", required=False)
@options.runs
def command(trial: int, run: str | None, runs: options.Runs) -> None:
    """Give TRIAL, such as 7, of the search that drives RUN its whole budget: the scheduler stops it no more.

    A collapse still ends it. The run remembers it when it is continued; where no search drives RUN, this is noted, and
    done then. RUN is a path or a name below --runs; without it, the run last used. Exit code 1: there is no such trial,
    or it has ended.

    \b
    gantune promote 7
    gantune promote 7 dcgan
    """
    from gantune.cli.asking import ask_of_trial
    from gantune.run import Run

    ask_of_trial(Run.open(run, runs), "promote", trial, wait=True)
