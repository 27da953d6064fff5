"""Grids of pictures as PNG files."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from gantune.errors import GantuneError

GAP = 2  # pixels of background between pictures
TARGET_WIDTH = 640  # pixels; small pictures are enlarged by whole factors so that a person can see them


def grid(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Pictures uint8 [N, C, S, S] side by side, row by row, enlarged by a whole factor."""
    count, channels, height, width = pixels.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), 255, np.uint8)
    for index, picture in enumerate(pixels):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = picture.transpose(1, 2, 0)
    image = Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
    factor = max(1, TARGET_WIDTH // image.width)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def save_grid(pixels: npt.NDArray[np.uint8], path: Path) -> None:
    """Write a grid of pictures uint8 [N, C, S, S]. Raises GantuneError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        grid(pixels).save(path)
    except (OSError, ValueError) as error:
        raise GantuneError(f"{path}: cannot be written: {error}") from error


def save_files(pixels: npt.NDArray[np.uint8], folder: Path) -> None:
    """Write pictures uint8 [N, C, S, S] as 000000.png, 000001.png ... Raises GantuneError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index, picture in enumerate(pixels):
            plain = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
            Image.fromarray(np.ascontiguousarray(plain)).save(folder / f"{index:06d}.png")
    except OSError as error:
        raise GantuneError(f"{folder}: cannot be written: {error.strerror or error}") from error
