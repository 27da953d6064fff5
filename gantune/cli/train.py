"""gantune train"""

import json
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
@click.option("--processes", type=click.IntRange(1, 1024), default=1, help="Share every batch out; a GPU each.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, at the end.")
def command(
    config: Path, overrides: tuple[str, ...], out: Path | None, device: str, processes: int, as_json: bool
) -> None:
    """Train CONFIG, a space file in which every parameter is a constant; no search.

    The same command again continues. An export's config.yaml is such a file. Exit code 3: the run collapsed.

    \b
    gantune train winner/config.yaml --set budget.samples_per_trial=200000 --out longer
    gantune train big.yaml --processes 4
    """
    from gantune.compatibility import check_trial
    from gantune.space import load_trial

    loaded = load_trial(config, overrides)
    check_trial(loaded)
    from gantune.data.data_set import open_data
    from gantune.errors import NoSurvivorError
    from gantune.export import load_generator
    from gantune.metrics.reference_file import check_reference, load_reference, prepare_reference
    from gantune.progress import Progress
    from gantune.reports import BEST
    from gantune.trainer import choose_device
    from gantune.trial import train_trial

    def say(text: str) -> None:
        click.echo(text, err=True)

    chosen = choose_device(device)
    folder = out or Path("trained") / f"{config.resolve().parent.name}-{config.stem}"
    images = open_data(loaded.data, say)
    prepared = prepare_reference(images, loaded.objective.features, say, chosen)
    reference = load_reference(prepared)
    check_reference(images, loaded.objective, reference)
    name = reference.named(loaded.objective.metric)

    def tell(progress: Progress) -> None:
        score = "-" if progress.score is None else f"{progress.score:.4g}"
        metrics = "  ".join(
            f"{key} {progress.metrics[key]:.2f}" for key in ("recall", "diversity") if key in progress.metrics
        )
        say(f"{progress.samples_seen:>12,} samples  {name} {score}  {metrics}  {progress.seconds:.0f}s")

    if processes > 1:
        from gantune.driver.parallel import train_parallel

        progress = train_parallel(loaded, prepared, folder, processes, chosen.type, tell)
    else:
        for progress in train_trial(loaded, images, reference, folder, chosen):
            tell(progress)
    if as_json:
        told = {**progress.as_dict(), "score_name": name, "folder": str(folder)}
        click.echo(json.dumps(told, indent=1))
    if progress.state == "collapsed":
        raise NoSurvivorError(f"{progress.verdict.state}: {progress.verdict.cause}; checkpoints are in {folder}")
    if progress.best_score is None:
        raise NoSurvivorError(f"no report met the constraints; checkpoints are in {folder}")
    load_generator(folder / BEST).save_picture(folder / "samples.png")
    if not as_json:
        click.echo(f"best score {progress.best_score:.4g}: {folder / BEST}; look at {folder / 'samples.png'}")
