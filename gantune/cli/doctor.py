"""gantune doctor"""

import sys

import click


@click.command("doctor")
@click.option("--address", default="auto", help="`auto` on a machine of the cluster, host:port, or its jobs' http://.")
def command(address: str) -> None:
    """Say whether a Ray cluster runs commands for anybody, and how to close it.

    Exit code 1: it does, or nobody answers.

    \b
    gantune doctor
    gantune doctor --address 10.0.0.5:6379
    gantune doctor --address http://127.0.0.1:8265
    """
    from gantune.driver.exposure import OPEN, exposure

    found = exposure(address)
    said = {"open": OPEN, "closed": "wants a token", "silent": "does not answer from here"}[found]
    click.echo(f"the cluster at {address} {said}")
    sys.exit(found != "closed")
