"""Options that several verbs share."""

from pathlib import Path

import click

overrides = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the file; may be repeated."
)
runs = click.option(
    "--runs", type=click.Path(path_type=Path, file_okay=False), default=Path("runs"), help="Where runs live."
)
storage = click.option(
    "--storage",
    envvar="GANTUNE_STORAGE",
    metavar="URL",
    help="A database for the study, so that several drivers share the run; also GANTUNE_STORAGE.  "
    "[default: a journal in the run, for one driver]",
)
