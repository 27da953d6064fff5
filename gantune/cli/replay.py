"""gantune replay"""

import json
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gantune.cli import options

if TYPE_CHECKING:
    from gantune.replay import Replayed


@click.command("replay")
@click.argument("trial", metavar="TRIAL")
@click.argument("run", required=False)
@options.runs
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Keep its weights here.  [default: do not]"
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, at the end.")
def command(trial: str, run: str | None, runs: options.Runs, out: Path | None, device: str, as_json: bool) -> None:
    """Train TRIAL, such as 7, of RUN again from its record, and say whether the numbers are the same.

    7.1 is a finalist's first run under a fresh seed. RUN is a path or a name below --runs; without it, the run last
    used. Exit code 1: they differ, as on another kind of machine, or with other versions.

    \b
    gantune replay 7
    gantune replay 7.1 dcgan --out again
    """
    from gantune.objectives import TIMED
    from gantune.run import Run

    number, _, repeat = trial.partition(".")
    if not (number.isdecimal() and (repeat or "0").isdecimal()):
        raise click.BadParameter("must be a trial's number, such as 7 or 7.1", param_hint="TRIAL")
    opened = Run.open(run, runs)
    from gantune.replay import replay
    from gantune.trainer import choose_device

    chosen, reports = choose_device(device), []
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if (folder / "latest.safetensors").exists():
            raise click.BadParameter(f"{folder} holds a trial already; name another folder", param_hint="--out")
        for report in replay(opened, int(number), int(repeat or 0), folder, chosen):
            reports.append(report)
            if not as_json:
                click.echo(_line(report, opened.score_name))
    differing = sum(len(report.differences) for report in reports)
    numbers = sum(report.numbers for report in reports)
    if as_json:
        told = {"numbers": numbers, "differing": differing, "reports": [asdict(report) for report in reports]}
        click.echo(json.dumps({"run": opened.shown, "trial": trial, **told}, indent=1))
        sys.exit(differing > 0)
    if out is not None and (out / "best.safetensors").exists():
        click.echo(f"its best weights are in {out / 'best.safetensors'}")
    if TIMED in opened.others:
        click.echo(f"{TIMED} is left out: time is another at every measurement")
    if differing:
        changed = _changed(opened.manifest()["sessions"][-1]["packages"])
        click.echo(f"#{trial} differs: {differing} of {numbers} numbers; {changed}")
        sys.exit(1)
    click.echo(f"#{trial} is the same: all {numbers} numbers, to the last bit")


def _line(report: "Replayed", name: str) -> str:
    score = "-" if report.score is None else f"{report.score:.6g}"
    if not report.numbers:
        return f"{report.samples_seen:>12,} samples  {name} {score}  the record lacks this report"
    told = [f"{name} {now} instead of {then}" for name, (then, now) in report.differences.items()]
    more = f" and {len(told) - 2} more" if len(told) > 2 else ""
    verdict = "; ".join(told[:2]) + more if told else "the same"
    return f"{report.samples_seen:>12,} samples  {name} {score}  {verdict}"


def _changed(recorded: Mapping[str, str]) -> str:
    """Which packages have changed since the run was last driven."""
    from gantune.provenance import versions

    present = versions()
    changed = [f"{name} was {then} and is {present[name]}" for name, then in recorded.items() if present[name] != then]
    return ", ".join(changed) or "the versions are those of the run; was the machine or the device another?"
