"""gantune best"""

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gantune.cli import options
from gantune.cli.telling import as_dict, lines
from gantune.errors import NoSurvivorError
from gantune.run import Run
from gantune.winner import Winner, find_winner

if TYPE_CHECKING:
    from gantune.export import Exported


@click.command("best")
@click.argument("run", required=False)
@options.runs
@click.option("--metric", metavar="NAME", help="The best by another measured metric, as recall.  [default: the score]")
@click.option("--trial", type=click.IntRange(0), metavar="N", help="This trial instead.  [default: the best]")
@click.option("--top", type=click.IntRange(0), default=0, help="Also that many behind it, and how they differ.")
@click.option("--pareto", is_flag=True, help="Also those that no other beats in everything: score, costs, --metric.")
@click.option("--importances", is_flag=True, help="Also how much of the scores' scatter each parameter explains.")
@click.option(
    "--export",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the generator here, with programs, script, picture and model card.  [default: do not]",
)
@click.option(
    "--push",
    "targets",
    multiple=True,
    metavar="TARGET",
    help="Send it to hf:OWNER/NAME, mlflow[:EXPERIMENT] or wandb[:PROJECT]; may be repeated.  [default: nowhere]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    run: str | None,
    runs: options.Runs,
    metric: str | None,
    trial: int | None,
    top: int,
    pareto: bool,
    importances: bool,
    folder: Path | None,
    targets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the best trial of RUN: score, configuration, what differs from the baseline, cost, checkpoint.

    RUN is a run's path, name or URI; left out, the run last used. `--push hf:` makes a private repository where there
    is none. Exit code 3: no trial survived.

    \b
    gantune best
    gantune best dcgan --export winner
    gantune best dcgan --top 3 --importances
    gantune best dcgan --metric recall --export varied
    gantune best dcgan --push hf:me/digits
    """
    if metric is not None and trial is not None:
        raise click.UsageError("--metric and --trial both say which trial; leave one out")
    if targets:
        from gantune.export.push import check_target

        for target in targets:
            check_target(target)
    opened = Run.open(run, runs)
    try:
        winner = find_winner(opened, by=metric, number=trial)
    except NoSurvivorError as error:
        if as_json:
            click.echo(json.dumps({"run": opened.shown, "trial": None, "reasons": str(error)}, indent=1))
        raise
    weights = _importances(winner) if importances else None
    told = as_dict(winner, top, weights, pareto=pareto) if as_json else {}
    if not as_json:
        click.echo("\n".join(lines(winner, top, weights, pareto=pareto)))
    with ExitStack() as stack:
        files, pushed = [], []
        if folder is not None or targets:
            kept = folder or Path(stack.enter_context(tempfile.TemporaryDirectory())) / opened.name
            files = list(_export(winner, kept).files)
            if folder is not None and not as_json:
                click.echo(f"exported to {folder}: {', '.join(files)}")
        for target in targets:
            from gantune.export.push import push

            pushed.append(push(target, kept, winner))
            if not as_json:
                click.echo(f"pushed to {pushed[-1]}")
    if as_json:
        told |= {"export": str(folder) if folder else None, "files": files if folder else [], "pushed": pushed}
        click.echo(json.dumps(told, indent=1))


def _export(winner: Winner, folder: Path) -> "Exported":
    if sys.stderr.isatty():
        click.echo(f"exporting #{winner.trial.number} to {folder}", err=True)
    from gantune.report.page import export_with_report

    exported = export_with_report(winner, folder)
    for reason in exported.left_out.values():
        click.echo(reason, err=True)
    return exported


def _importances(winner: Winner) -> dict[str, dict[str, float]]:
    """Optuna and scikit-learn take seconds to import, so only where it is asked for."""
    from gantune.report.study import importances, study_of
    from gantune.space import load_space

    space = load_space(winner.manifest["space"])
    return importances(space, study_of(space, winner.trials))
