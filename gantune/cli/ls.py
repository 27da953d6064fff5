"""gantune ls"""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gantune.cli import options

if TYPE_CHECKING:
    from gantune.listing import Entry

TITLES = ("run", "state", "trials", "best", "age", "hours", "MB")


@click.command("ls")
@options.runs
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def command(runs: options.Runs, as_json: bool) -> None:
    """List the runs in --runs: state, trials done of those asked for, best score, age, hours, size.

    A run is `searching here` or `searching elsewhere`, `preparing` where no trial trains yet, `finished`, `stopped`
    (the same command continues it), has `never reported`, or is `unreadable`, with why.

    \b
    gantune ls
    gantune ls --runs s3://bucket/runs
    """
    from gantune.listing import entries

    found = list(entries(runs))
    if as_json:
        click.echo(json.dumps([{**asdict(entry), "state": entry.shown_state} for entry in found], indent=1))
        return
    if not found:
        click.echo(f"there are no runs in {runs}; start one with: gantune search SPACE.yaml --runs {runs}", err=True)
        return
    table = [TITLES, *(_cells(entry) for entry in found)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        aligned = [
            cell.ljust(width) if at < 4 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(aligned).rstrip())
    for entry in found:
        if entry.why:
            click.echo(f"{entry.name}: {entry.why}")


def _cells(entry: "Entry") -> tuple[str, ...]:
    from gantune.listing import age
    from gantune.situation import label

    size = f"{entry.bytes / 1e6:,.1f}"
    if entry.state == "unreadable":
        return entry.name, entry.shown_state, "", "", "", "", size
    best = entry.best
    score = "-" if best is None else f"{entry.score_name} {best.score:.4g} ({label(best.trial, best.repeat)})"
    began = "-" if entry.began is None else age(entry.began)
    return entry.name, entry.shown_state, f"{entry.done}/{entry.asked}", score, began, f"{entry.hours or 0:.2f}", size
