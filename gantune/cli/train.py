"""gantune train"""

from pathlib import Path

import click

from gantune.cli import options


@click.command("train")
@click.argument("config", type=click.Path(path_type=Path))
@options.overrides
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where checkpoints and samples.png go.  [default: trained/ and the name of CONFIG and its folder]",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train.")
def command(config: Path, overrides: tuple[str, ...], out: Path | None, device: str) -> None:
    """Train CONFIG, a space file in which every parameter is a constant; no search and no Ray.

    The same command again continues. An export's config.yaml is such a file. Exit code 3: the run collapsed.

    \b
    gantune train winner/config.yaml --set budget.samples_per_trial=200000 --out longer
    """
    from gantune.space import check_trial, load_trial

    loaded = load_trial(config, overrides)
    check_trial(loaded)
    from gantune.data.image_set import open_images
    from gantune.errors import NoSurvivorError
    from gantune.export import GRID, load_generator
    from gantune.metrics.reference import load_reference, prepare_reference
    from gantune.report.pictures import save_grid
    from gantune.trainer import choose_device
    from gantune.trial import BEST, train_trial

    def say(text: str) -> None:
        click.echo(text, err=True)

    chosen = choose_device(device)
    folder = out or Path("trained") / f"{config.resolve().parent.name}-{config.stem}"
    images = open_images(loaded.data, say)
    reference = load_reference(prepare_reference(images, say))
    for progress in train_trial(loaded, images, reference, folder, chosen):
        score = "-" if progress.score is None else f"{progress.score:.4g}"
        metrics = "  ".join(
            f"{key} {progress.metrics[key]:.2f}" for key in ("recall", "diversity") if key in progress.metrics
        )
        say(f"{progress.samples_seen:>12,} samples  {reference.fid_name} {score}  {metrics}  {progress.seconds:.0f}s")
    if progress.verdict.dead:
        raise NoSurvivorError(f"{progress.verdict.state}: {progress.verdict.cause}; checkpoints are in {folder}")
    if progress.best_score is None:
        raise NoSurvivorError(f"no report met the constraints; checkpoints are in {folder}")
    save_grid(load_generator(folder / BEST).draw(GRID), folder / "samples.png")
    click.echo(f"best score {progress.best_score:.4g}: {folder / BEST}; look at {folder / 'samples.png'}")
