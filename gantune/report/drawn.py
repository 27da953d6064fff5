"""What the winner draws, as pictures inside a page: samples, a walk through its latents, and thumbnails."""

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from gantune.data.data_set import quantise
from gantune.export.generator import Generator, arc
from gantune.pictures import GAP, cell_of, cloud, grid

SAMPLES = 100  # of the winner, large
WIDE = 1000  # pixels of that picture, at most
WALKS, STEPS = 6, 12  # of the latent walk: rows, and pictures in each
FRAMES = 48  # of the moving picture, there and back to where it began
THUMBNAIL = 112  # pixels
QUALITY = 88


def embedded(image: Image.Image, *, lossless: bool = True) -> str:
    """A picture as a data URI; WebP, which every browser reads."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", lossless=lossless, quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def small(path: Path, side: int) -> str:
    """A small version of a picture on the disk, as a data URI; empty where it cannot be read."""
    _, image = _read(path)
    if image is None:
        return ""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return embedded(image, lossless=False)


def few_of_a_moment(path: Path) -> str:
    """As many samples of a report's own picture as a thumbnail has room for, two by two at least, as a data URI.

    Empty where it cannot be read.
    """
    cell, image = _read(path)
    if image is None:
        return ""
    if cell is not None:
        shown = min(image.width, max(2, (THUMBNAIL + GAP) // (cell + GAP)) * (cell + GAP) - GAP)
        image = clear(image.crop((0, 0, shown, shown)), cell)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return embedded(image, lossless=False)


def moment(path: Path) -> str:
    """A report's own picture, as a data URI; empty where it cannot be read."""
    cell, image = _read(path)
    if image is None:
        return ""
    return embedded(image if cell is None else clear(image, cell))


def _read(path: Path) -> tuple[int | None, Image.Image | None]:
    """The side of the single pictures in one, and itself; None where it is damaged, or being written just now."""
    try:
        with Image.open(path) as opened:
            return cell_of(opened), opened.convert("RGB")
    except (OSError, SyntaxError):  # what Pillow says of a PNG file that is cut
        return None, None


def clear(image: Image.Image, side: int) -> Image.Image:
    """A grid of pictures with `side` pixels, enlarged or not, whose gaps let a page shine through."""
    factor = (cell_of(image) or side) // side
    inside = np.arange(max(image.size)) // factor % (side + GAP) < side
    opaque = inside[: image.height, None] & inside[None, : image.width]
    image = image.convert("RGB")
    image.putalpha(Image.fromarray((255 * opaque).astype(np.uint8)))
    return image


def samples_of(generator: Generator) -> str:
    """A large picture of what it draws."""
    dims = generator.dims
    if len(dims) != 3:
        return embedded(cloud(generator.draw(5000)))
    side = max(2, min(math.isqrt(SAMPLES), WIDE // dims[-1]))
    return embedded(clear(grid(generator.draw(side * side), WIDE), dims[-1]), lossless=dims[-1] <= 64)


def walk_of(generator: Generator) -> tuple[str, str] | None:
    """Rows of pictures between pairs of latents, and a picture that moves through a round of them; none for points."""
    if len(generator.dims) != 3:
        return None
    stream = torch.Generator().manual_seed(1)
    ends = torch.randn(WALKS, 2, generator.z_dim, generator=stream)
    labels = _labels(generator, WALKS)
    shares = torch.linspace(0, 1, STEPS)
    rows = torch.stack([arc(ends[:, 0], ends[:, 1], share.expand(WALKS)) for share in shares], 1)  # [WALKS, STEPS, z]
    still = _pictures(generator, rows.flatten(0, 1), None if labels is None else labels.repeat_interleave(STEPS))
    walks = _sheet(still.reshape(WALKS, STEPS, *still.shape[1:]))
    stops = torch.randn(
        4, 16, generator.z_dim, generator=stream
    )  # a round of four stops, 16 pictures beside each other
    labels = _labels(generator, 16)
    frames = []
    for at in range(FRAMES):
        leg, share = divmod(at * 4 / FRAMES, 1)
        latents = arc(stops[int(leg)], stops[(int(leg) + 1) % 4], torch.full((16,), share))
        frames.append(clear(grid(_pictures(generator, latents, labels), at_most=480), generator.dims[-1]))
    stream_out = io.BytesIO()
    frames[0].save(
        stream_out, "WEBP", save_all=True, append_images=frames[1:], duration=90, loop=0, quality=70, method=3
    )
    return embedded(walks), f"data:image/webp;base64,{base64.b64encode(stream_out.getvalue()).decode()}"


def _labels(generator: Generator, count: int) -> torch.Tensor | None:
    """A class each, one after another; None where it knows of none."""
    classes = len(generator.class_counts)
    return torch.arange(count) % classes if classes else None


def _pictures(generator: Generator, latents: torch.Tensor, labels: torch.Tensor | None) -> npt.NDArray[np.uint8]:
    with torch.no_grad():
        drawn: Any = generator.net(latents) if labels is None else generator.net(latents, labels)
    whole: npt.NDArray[np.uint8] = quantise(drawn).numpy()
    return whole


def _sheet(rows: npt.NDArray[np.uint8]) -> Image.Image:
    """Pictures uint8 [R, N, C, S, S] as R rows of N, without gaps."""
    count, many, channels, height, width = rows.shape
    sheet = rows.transpose(0, 3, 1, 4, 2).reshape(count * height, many * width, channels)
    image = Image.fromarray(np.ascontiguousarray(sheet[:, :, 0] if channels == 1 else sheet))
    factor = max(1, WIDE // image.width)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
