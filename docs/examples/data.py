"""Data of one's own: `data: {dataset: "data:discs", size: 16}`."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from gantune.config import DataConfig
from gantune.data.source import Example, Source


def discs(config: DataConfig) -> Source:
    """Grey discs of any place and size. Pictures may have any size and mode; they are cropped, scaled and kept."""

    def examples() -> Iterator[Example]:
        for x, y, radius in np.random.default_rng(0).integers((4, 4, 2), (12, 12, 5), (500, 3)):
            picture = Image.new("L", (16, 16))
            ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
            yield picture, None  # or the index of its class

    return Source(identity="discs-1", count=500, class_names=(), examples=examples())  # change it with the pictures
