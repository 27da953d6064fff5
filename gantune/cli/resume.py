"""gantune resume"""

import click

from gantune.cli import options


@click.command("resume")
@click.argument("run", required=False)
@options.overrides
@options.runs
@click.option("--address", help="A Ray cluster to join (`auto` on one of its machines).  [default: start Ray here]")
@options.storage
@options.track
def command(
    run: str | None,
    overrides: tuple[str, ...],
    runs: options.Runs,
    address: str | None,
    storage: str | None,
    track: tuple[str, ...],
) -> None:
    """Carry on RUN from its own directory; no space file is needed.

    --set takes what may differ from before: budget, but for samples_per_trial, search.retries, resources,
    confirm, keep. RUN is a path or a name below --runs; without it, the run last used.

    \b
    gantune resume
    gantune resume dcgan --set budget.trials=100
    """
    from gantune.cli.search import finish, prepared
    from gantune.run import Run

    with prepared() as preparation:
        opened = Run.open(run, runs)
        with preparation.loading():
            if storage is None:
                preparation.take(opened)  # before torch and Ray are imported, which takes seconds
            from gantune.api import prepare_again

            task = prepare_again(opened, overrides)
        done = task.carry_on(address=address, storage=storage, track=track, preparation=preparation)
    finish(opened, done)
