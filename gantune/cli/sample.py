"""gantune sample"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gantune.cli import options

if TYPE_CHECKING:
    from gantune.metrics.reference import Samples

ABOVE_ZERO = options.FiniteRange(0, min_open=True)


@click.command("sample")
@click.argument("path")
@options.runs
@click.option("--trial", type=click.IntRange(0), metavar="N", help="Of a run, this trial.  [default: the best]")
@click.option("-n", "--count", type=click.IntRange(1, 10_000_000), default=64, help="How many samples.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="The same seed draws the same samples.")
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="CLASS",
    help="A class's number or name; may be repeated, and they take turns.  [default: all, in the data's proportions]",
)
@click.option(
    "--truncation",
    type=ABOVE_ZERO,
    metavar="PSI",
    help="Latents from the normal distribution between -PSI and PSI: lower is more typical and less varied.  "
    "[default: none]",
)
@click.option("--interpolate", is_flag=True, help="Walk from latent to latent, a row of --steps pictures each.")
@click.option(
    "--steps", type=click.IntRange(1, 1000), default=8, help="Pictures from a latent to the next, of --interpolate."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("samples.png"),
    help=".png, .npz, .parquet, .csv (points), .webp or .gif (--interpolate), or a folder.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to draw.")
@click.pass_context
def command(
    ctx: click.Context,
    path: str,
    runs: options.Runs,
    trial: int | None,
    count: int,
    seed: int,
    classes: tuple[str, ...],
    truncation: float | None,
    interpolate: bool,
    steps: int,
    out: Path,
    device: str,
) -> None:
    """Draw from PATH: a best.safetensors, an export's folder, or a run by path, name or URI (its best trial).

    The name after --out says how: NAME.png is one grid (of points a cloud), NAME.npz holds arr_0, uint8 [N, S, S, C],
    and labels as arr_1, NAME.parquet is a data set as the Hugging Face hub lays it out, any name without a suffix a
    folder with a PNG file each, in a folder for each class where there are classes. Folders and Parquet are data that
    `gantune init` and `data.dataset` read. --truncation draws each number of a latent again while it lies beyond PSI.

    \b
    gantune sample winner
    gantune sample dcgan -n 50000 --out fakes.npz
    gantune sample winner --class 3 --class 8 --truncation 0.7 --out threes_and_eights.png
    gantune sample winner --interpolate --steps 24 -n 240 --out walk.webp
    gantune sample winner -n 2000 --out more.parquet
    """
    if not interpolate and ctx.get_parameter_source("steps") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--steps counts the pictures of --interpolate; add it, or leave --steps out")
    from gantune.export import open_generator
    from gantune.export.drawing import check_out, write_samples, write_walk
    from gantune.trainer import choose_device

    chosen = choose_device(device)
    generator = open_generator(path, runs, trial).to(chosen)
    check_out(out, generator.dims, count, walk=interpolate)
    asked = [generator.class_of(name) for name in classes]
    if interpolate:
        draws = generator.walk(count, steps, seed, classes=asked, truncation=truncation)
        write_walk(out, _told(draws, count), steps)
    else:
        draws = generator.stream(count, seed, classes=asked, truncation=truncation)
        write_samples(out, _told(draws, count), count, generator.dims, generator.class_names)
    click.echo(f"{count:,} {'pictures' if len(generator.dims) == 3 else 'points'} in {out}")


def _told(draws: Iterator["Samples"], count: int) -> Iterator["Samples"]:
    """The same, with a line of progress where somebody looks and it takes a while."""
    done, told = 0, False
    for samples in draws:
        yield samples
        done += len(samples.examples)
        if sys.stderr.isatty() and (told or done < count):
            told = True
            click.echo(f"\r{done:,} of {count:,}" + "\n" * (done == count), err=True, nl=False)
