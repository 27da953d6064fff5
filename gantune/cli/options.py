"""Options that several verbs share."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

if TYPE_CHECKING:
    from gantune.storage import Place

Runs: TypeAlias = "Path | Place"


class _Where(click.ParamType[Any]):
    """A folder of this machine, or a URI."""

    name = "path or URI"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Path | Place":
        if isinstance(value, str) and "://" in value:
            from gantune.storage import Place

            return Place(value)
        folder: Path = click.Path(path_type=Path, file_okay=False).convert(value, param, ctx)
        return folder


class FiniteRange(click.FloatRange):
    """Numbers between bounds; click lets NaN pass, for it is on neither side of any."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Fails for one that is not finite."""
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return found


overrides = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value of the file; may be repeated."
)
runs = click.option(
    "--runs",
    type=_Where(),
    default=Path("runs"),
    help="Where runs live: a folder, or a URI such as s3://bucket/prefix.",
)
storage = click.option(
    "--storage",
    envvar="GANTUNE_STORAGE",
    metavar="URL",
    help="A database for the study, so that several drivers share the run; also GANTUNE_STORAGE.  "
    "[default: a journal in the run, for one driver]",
)
track = click.option(
    "--track",
    multiple=True,
    type=click.Choice(["mlflow", "wandb", "aim"]),
    help="Tell a tracker of every report, too; may be repeated.  [default: TensorBoard's files only]",
)
