"""gantune search"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gantune.cli import options

if TYPE_CHECKING:
    from gantune.driver.preparation import Preparation
    from gantune.run import Run
    from gantune.space import SearchSpace


@click.command("search")
@click.argument("space", type=click.Path(path_type=Path))
@options.overrides
@options.runs
@click.option("--name", help="The run's name.  [default: the space's own name]")
@click.option("--address", help="A Ray cluster to join (`auto` on one of its machines).  [default: start Ray here]")
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="RUN",
    help="An earlier run to learn from; may be repeated.  [default: none]",
)
@click.option("--submit", is_flag=True, help="Hand the search to the cluster at --address, and follow it.")
@options.storage
@options.track
def command(
    space: Path,
    overrides: tuple[str, ...],
    runs: options.Runs,
    name: str | None,
    address: str | None,
    sources: tuple[str, ...],
    submit: bool,
    storage: str | None,
    track: tuple[str, ...],
) -> None:
    """Search SPACE, a YAML file, for the best GAN.

    The same command again continues an unfinished run; Ctrl-C is safe.

    With --submit a cluster's head searches, and goes on when this machine is off; the same command follows it again.
    --runs and --from are then as the head sees them, --address is that of Ray's jobs, by default
    http://127.0.0.1:8265, where `ray dashboard` brings them.

    \b
    gantune search search_spaces/dcgan.yaml
    gantune search search_spaces/dcgan.yaml --set data.dataset=FILE.parquet --set data.size=28 --name mine
    gantune search search_spaces/dcgan.yaml --name wider --from runs/dcgan
    gantune search search_spaces/dcgan.yaml --runs s3://bucket/runs
    gantune search search_spaces/dcgan.yaml --storage postgresql+psycopg://me@host/studies
    gantune search search_spaces/dcgan.yaml --track mlflow
    """
    from gantune.space import NAME, load_space

    if name is not None and not NAME.fullmatch(name):
        raise click.BadParameter("must be the name of a folder below --runs, without a slash", param_hint="--name")
    if submit:
        loaded = load_space(space, overrides)
        _submit(loaded, name or loaded.name, runs, sources, address, storage, track)
        return
    with prepared() as preparation:
        with preparation.loading():
            from gantune.run import Run

            loaded = load_space(space, overrides)  # which imports torch
            run, others = Run.at(runs, name or loaded.name), tuple(Run.open(source, runs) for source in sources)
            if any(other.folder.resolve() == run.folder.resolve() for other in others):
                why = "is the run itself, which knows its own trials; use --name"
                raise click.BadParameter(why, param_hint="--from")
            if storage is None:
                preparation.take(run)
                preparation.begin(loaded)
            from gantune.api import Task  # with Ray

        task = Task(space=loaded, run=run, earlier=others)
        done = task.carry_on(address=address, storage=storage, track=track, preparation=preparation)
    finish(run, done)


def _submit(
    space: "SearchSpace",
    name: str,
    runs: options.Runs,
    sources: tuple[str, ...],
    address: str | None,
    storage: str | None,
    track: tuple[str, ...],
) -> None:
    if storage is not None:
        why = "would show its password in the job; set GANTUNE_STORAGE where the head starts Ray"
        raise click.BadParameter(why, param_hint="--storage")
    if isinstance(runs, Path) and not runs.is_absolute():
        raise click.BadParameter(f"must be a path on the cluster, from its root, got `{runs}`", param_hint="--runs")
    from gantune.driver.submission import hand_over

    def say(text: str) -> None:
        click.echo(text, err=True)

    def write(text: str) -> None:
        click.echo(text, err=True, nl=False)

    if not hand_over(space, name, str(runs), sources, address, say, write, track):
        sys.exit(130)


def prepared() -> "Preparation":
    """Return the frame of a search, whose clock was started with the command."""
    from gantune.cli.main import CLOCK
    from gantune.driver.preparation import Preparation
    from gantune.driver.screen import Screen

    return Preparation(Screen(), CLOCK, own_process=True)


def finish(run: "Run", done: bool) -> None:
    """Name the winner of a search; one that a person stopped exits with 130."""
    if not done:
        sys.exit(130)
    winner = run.best()
    look = f"gantune best {shlex.quote(run.shown)}"
    if nothing := nothing_compared(run):
        click.echo(f"{nothing}; `gantune resume --set` gives more trials, hours or samples", err=True)
    click.echo(f"best: #{winner.number}, score {winner.best_score:.4g}. Look at it: {look}", err=True)


def nothing_compared(run: "Run") -> str:
    """Return what to say where no trial but the baseline was trained to its full budget; nothing where one was."""
    trials = run.trials()
    baseline = run.baseline(trials)
    if baseline is None or any(trial.number and trial.state == "finished" for trial in trials):
        return ""
    return f"no trial but the baseline (#{baseline.number}) was trained to its full budget, so nothing was compared"
