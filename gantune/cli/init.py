"""gantune init"""

import re
from pathlib import Path

import click

from gantune.cli import options

INTERPRETER = 1.0  # seconds in which Python starts and ends


@click.command("init")
@click.argument("data", default="digits")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write.  [default: the data's name and .yaml]")
@click.option("--hours", type=options.FiniteRange(0.01, 1000), default=1.0, help="How long the search may take here.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def command(data: str, out: Path | None, hours: float, force: bool) -> None:
    """Write a first search space for DATA: a folder of images, a Parquet file, or the name of a data set.

    Looks at the pictures and at this machine, times a few configurations, and says what it found and chose.

    \b
    gantune init photos/
    gantune init photos/ --hours 8 --out photos.yaml
    """
    from gantune.errors import GantuneError
    from gantune.plan import INIT_SHARE, Clock
    from gantune.whole import whole

    clock = Clock(INIT_SHARE * hours * 3600, before=INTERPRETER)
    path = out or Path(f"{_name(data)}.yaml")
    if path.exists() and not force:
        raise GantuneError(f"{path}: exists; write another file with --out NAME.yaml, or over it with --force")
    from gantune.first_space import first_space

    made = first_space(data, path.stem, hours, lambda text: click.echo(text, err=True), clock)
    try:
        with whole(path) as partial:
            partial.write_text(made.text, encoding="utf-8")
    except OSError as error:
        raise GantuneError(f"{path}: cannot be written: {error.strerror or error}") from error
    click.echo("\n".join(made.said))
    click.echo(f"written to {path}. Next: gantune check {path}, then gantune search {path}")


def _name(data: str) -> str:
    """The data's name, as that of a file."""
    stem = Path(data).stem or Path(data).resolve().name
    return re.sub(r"[^\w-]+", "-", stem).strip("-") or "first"
