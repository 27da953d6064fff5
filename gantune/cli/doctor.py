"""gantune doctor"""

import json
import sys
from dataclasses import asdict

import click

from gantune.cli import options

MARKS = {"ok": "ok", "advice": "advice", "problem": "PROBLEM"}


@click.command("doctor")
@click.option(
    "--address",
    help="Ask a Ray cluster instead: `auto`, host:port, or its jobs' http://.  [default: look at this machine]",
)
@options.runs
@click.option("--quick", is_flag=True, help="Leave out whether Ray starts, which takes some seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(address: str | None, runs: options.Runs, quick: bool, as_json: bool) -> None:
    """Say what this machine has for searches, what is amiss, and what to do. Nothing is sent beyond it but to --runs.

    With --address, say whether a Ray cluster runs commands for anybody, and how to close it. Exit code 1: there is a
    problem; a cluster is open, or does not answer.

    \b
    gantune doctor
    gantune doctor --quick --runs s3://bucket/runs
    gantune doctor --address 10.0.0.5:6379
    gantune doctor --address http://127.0.0.1:8265
    """
    if address is not None:
        _ask_cluster(address, as_json)
    from gantune.examination import examine, look

    findings = examine(look(runs, None if quick else _try_ray))
    problems = sum(finding.state == "problem" for finding in findings)
    if as_json:
        click.echo(json.dumps({"problems": problems, "findings": [asdict(each) for each in findings]}, indent=1))
    else:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            click.echo(f"{MARKS[finding.state]:<7}  {finding.what:<{width}}  {finding.found}")
            if finding.remedy:
                click.echo(f"{'':<7}  {'':<{width}}  -> {finding.remedy}")
        click.echo(f"{problems} problems" if problems != 1 else "1 problem")
    sys.exit(problems > 0)


def _try_ray() -> str:
    from gantune.driver.starting import why_ray_does_not_start

    return why_ray_does_not_start()


def _ask_cluster(address: str, as_json: bool) -> None:
    from gantune.driver.exposure import OPEN, exposure

    found = exposure(address)
    said = {"open": OPEN, "closed": "wants a token", "silent": "does not answer from here"}[found]
    if as_json:
        click.echo(json.dumps({"address": address, "state": found, "said": said}, indent=1))
    else:
        click.echo(f"the cluster at {address} {said}")
    sys.exit(found != "closed")
