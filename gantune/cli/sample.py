"""gantune sample"""

from pathlib import Path

import click


@click.command("sample")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-n", "--count", type=click.IntRange(1, 1_000_000), default=64, help="How many pictures.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="The same seed draws the same pictures.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("samples.png"), help="A .png grid, or a folder.")
def command(checkpoint: Path, count: int, seed: int, out: Path) -> None:
    """Draw pictures from CHECKPOINT: a best.safetensors or an export's folder.

    `--out NAME.png` writes one grid; any other name is a folder that gets a PNG file each.

    \b
    gantune sample winner -n 1000 --out pictures
    """
    from gantune.export import load_generator
    from gantune.pictures import save_files, save_samples

    samples = load_generator(checkpoint).draw(count, seed)
    if out.suffix.lower() == ".png":
        save_samples(samples, out)
    else:
        save_files(samples, out)
    click.echo(f"{count} pictures in {out}")
