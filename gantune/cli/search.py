"""gantune search"""

import sys
from pathlib import Path

import click

from gantune.cli import options


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
def command(
    space: Path, overrides: tuple[str, ...], runs: Path, name: str | None, address: str | None, sources: tuple[str, ...]
) -> None:
    """Search SPACE, a YAML file, for the best GAN.

    The same command again continues an unfinished run; Ctrl-C is safe.

    \b
    gantune search search_spaces/dcgan.yaml
    gantune search search_spaces/dcgan.yaml --set data.dataset=FILE.parquet --set data.size=28 --name mine
    gantune search search_spaces/dcgan.yaml --name wider --from runs/dcgan
    """
    from gantune.run import Run, standings_of
    from gantune.space import NAME, load_space

    if name is not None and not NAME.fullmatch(name):
        raise click.BadParameter("must be the name of a folder below --runs, without a slash", param_hint="--name")
    loaded = load_space(space, overrides)
    run = Run(runs / (name or loaded.name))
    earlier = [Run.open(source, runs) for source in sources]
    if any(other.folder.resolve() == run.folder.resolve() for other in earlier):
        raise click.BadParameter("is the run itself, which knows its own trials; use --name", param_hint="--from")
    from gantune.driver.screen import Screen
    from gantune.driver.search import search

    if not search(loaded, run, Screen(), address, earlier):
        sys.exit(130)
    trials = run.trials()
    winner = run.best(trials, standings_of(run.repeats()))
    click.echo(
        f"best: #{winner.number}, score {winner.best_score:.4g}. Look at it: gantune best {run.folder}", err=True
    )
