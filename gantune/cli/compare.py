"""gantune compare"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gantune.cli import options

if TYPE_CHECKING:
    from gantune.comparison import Comparison, Side

MOST_DIFFERENCES = 40
WIDEST = 30  # characters of a value


@click.command("compare")
@click.argument("found", metavar="RUN RUN...", nargs=-1, required=True)
@options.runs
@click.option("--top", type=click.IntRange(1, 1000), default=3, help="How many best trials the mean is over.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the curves to this HTML page.  [default: do not]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(found: tuple[str, ...], runs: options.Runs, top: int, plot: Path | None, as_json: bool) -> None:
    """Put two or more searches side by side: best scores, what it took to reach each other's, cost, what differs.

    Their scores must have been measured alike, with one reference; else it is an error that says what differs.

    \b
    gantune compare dcgan wider
    gantune compare dcgan wider --top 5 --plot curves.html
    """
    from gantune.comparison import compare, page
    from gantune.errors import GantuneError
    from gantune.run import Run

    if len(found) < 2:
        raise click.UsageError("name two runs or more; `gantune ls` lists them")
    opened = [Run.open(name, runs) for name in found]
    if len({run.shown for run in opened}) < len(opened):
        raise click.UsageError("one run is named twice; a search is compared with another one")
    comparison = compare(opened, top)
    if as_json:
        click.echo(json.dumps(asdict(comparison), indent=1))
    else:
        click.echo("\n".join(_lines(comparison, top)))
    if plot is not None:
        try:
            plot.parent.mkdir(parents=True, exist_ok=True)
            plot.write_text(page(comparison), encoding="utf-8")
        except OSError as error:
            raise GantuneError(f"{plot}: cannot be written: {error.strerror or error}") from error
        click.echo(f"curves are in {plot}", err=True)


def _lines(comparison: "Comparison", top: int) -> list[str]:
    sides = comparison.sides
    table = [["", *(side.run for side in sides)]]
    for title, cell in _rows(comparison.score_name, top):
        if any(told := [cell(side) for side in sides]):
            table.append([title, *(each or "-" for each in told)])
    for other in sides:
        if other.best is not None:
            title = f"to reach {other.best.score:.4g}, the best of {other.run}"
            table.append([title, *("-" if side is other else _reached(side, other) for side in sides)])
    lines = _aligned(table)
    if comparison.differences:
        shown = list(comparison.differences.items())[:MOST_DIFFERENCES]
        lines += ["", "what differs in their spaces:"]
        lines += [f"  {line}" for line in _aligned([[path, *map(_short, values)] for path, values in shown])]
        if len(comparison.differences) > len(shown):
            lines.append(f"  and {len(comparison.differences) - len(shown)} more; --json has them all")
    else:
        lines += ["", "their spaces are the same"]
    return lines


def _rows(name: str, top: int) -> "list[tuple[str, Callable[[Side], str]]]":
    def best(side: "Side") -> str:
        return "" if side.best is None else f"{side.best.score:.4g} (#{side.best.trial})"

    def confirmed(side: "Side") -> str:
        found = side.confirmed
        return "" if found is None else f"{found.mean:.4g} +- {found.deviation:.2g} (#{found.number})"

    return [
        (f"best {name}", best),
        (f"mean of the best {top}", lambda side: _number(side.top)),
        ("confirmed under fresh seeds", confirmed),
        ("baseline", lambda side: _number(side.baseline)),
        ("trials", lambda side: str(side.trials)),
        ("collapsed", lambda side: "" if side.collapsed is None else f"{side.collapsed:.0%}"),
        ("hours", lambda side: f"{side.spending.hours:.2f}"),
        ("GPU hours", lambda side: _number(side.spending.gpu_hours)),
        ("samples", lambda side: f"{side.spending.samples:,}"),
        ("cost", lambda side: "" if side.spending.cost is None else f"{side.spending.cost:.2f}"),
    ]


def _reached(side: "Side", other: "Side") -> str:
    found = side.reached[other.run]
    return "never" if found is None else f"{found.samples:,} samples, {found.hours:.2f} h"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
