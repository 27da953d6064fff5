"""gantune report"""

from pathlib import Path

import click

from gantune.cli import options


@click.command("report")
@click.argument("run", required=False)
@options.runs
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page to write.  [default: report.html in the run's folder; of a run at a URI, its name and .html here]",
)
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
def command(run: str | None, runs: options.Runs, out: Path | None, show: bool) -> None:
    """Write one page of RUN that opens anywhere, offline: winner, leaderboard, progress, what matters, what died.

    RUN is a run's path or name; left out, the run last used. A search that still runs has a page, too: write it again
    for the latest.

    \b
    gantune report
    gantune report dcgan --out dcgan.html --open
    """
    from gantune.export.folder import REPORT
    from gantune.report.page import write_report
    from gantune.run import Run

    opened = Run.open(run, runs)
    path = out or (opened.folder / REPORT if opened.place is None else Path(f"{opened.name}.html"))
    write_report(opened, path, lambda text: click.echo(text, err=True))
    click.echo(f"{path}: {path.stat().st_size / 2**20:.1f} MB")
    if show:
        click.launch(str(path.resolve()))
