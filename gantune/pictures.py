"""Samples as PNG files: a grid of pictures, or a cloud of points."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gantune.errors import GantuneError

GAP = 2  # pixels of background between pictures
PICTURES = 64  # in a grid
POINTS = 5000  # in a picture of a cloud: enough to see its density
DOT = 2  # pixels of a point's side
REACH = 3.0  # of a cloud's picture, each way, in deviations of the data
TARGET_WIDTH = 640  # pixels; small pictures are enlarged by whole factors so that a person can see them
MOMENT_WIDTH = 320  # pixels of a report's own picture, of which a trial has many; they are not enlarged
MOMENT_SIDE = (2, 5)  # pictures in a row of it, at least and at most
CELL = "cell"  # of what a PNG file says of itself: the side of the single pictures in it
MOMENT = "samples-{:012d}.png"  # its name in the trial's folder, by the real samples seen


def enough(dims: Sequence[int]) -> int:
    """How many samples of these dimensions a picture shows."""
    return PICTURES if len(dims) == 3 else POINTS


def enough_of_a_moment(dims: Sequence[int]) -> int:
    """How many samples of these dimensions a report's own picture shows."""
    if len(dims) != 3:
        return POINTS
    fewest, most = MOMENT_SIDE
    return int(min(most, max(fewest, MOMENT_WIDTH // dims[-1]))) ** 2


def cell_of(image: Image.Image) -> int | None:
    """The side of the single pictures in a grid that `save_samples` wrote, in its pixels; None for others."""
    told = str(image.info.get(CELL, ""))
    return int(told) if told.isdecimal() else None


def moments(folder: Path) -> dict[int, Path]:
    """The reports' own pictures in a trial's folder, by the real samples seen."""
    found = {path.stem.partition("-")[2]: path for path in sorted(folder.glob("samples-*.png"))}
    return {int(seen): path for seen, path in found.items() if seen.isdecimal()}


def grid(pixels: npt.NDArray[np.uint8], at_most: int = TARGET_WIDTH, columns: int = 0) -> Image.Image:
    """Pictures uint8 [N, C, S, S] side by side, row by row, enlarged by a whole factor to at most `at_most` pixels.

    columns: pictures in a row; as many as make a square where it is 0.
    """
    count, channels, height, width = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), 255, np.uint8)
    for index, picture in enumerate(pixels):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = picture.transpose(1, 2, 0)
    image = Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
    factor = max(1, at_most // image.width)
    large = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    large.info[CELL] = str(width * factor)
    return large


def cloud(points: npt.NDArray[np.float32]) -> Image.Image:
    """The first two coordinates of points [N, D], the darker the denser; what lies beyond the frame is left out."""
    edges = np.linspace(-REACH, REACH, TARGET_WIDTH // DOT + 1)
    heights = points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))
    counts, _, _ = np.histogram2d(-heights, points[:, 0], bins=(edges, edges))
    ink = np.minimum(1.0, np.sqrt(counts) / 2)
    image = Image.fromarray((255 * (1 - ink)).astype(np.uint8))
    return image.resize((TARGET_WIDTH, TARGET_WIDTH), Image.Resampling.NEAREST)


def save_samples(samples: npt.NDArray[Any], path: Path, width: int = TARGET_WIDTH) -> None:
    """Write a grid of pictures uint8 [N, C, S, S], enlarged to at most `width` pixels, or a cloud of points [N, D].

    Raises GantuneError where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = grid(samples, width) if samples.ndim == 4 else cloud(samples)
        told = PngInfo()
        if (cell := cell_of(image)) is not None:
            told.add_text(CELL, str(cell))
        image.save(path, "PNG", pnginfo=told)
    except (OSError, ValueError) as error:
        raise GantuneError(f"{path}: cannot be written: {error}") from error
