"""scikit-learn's handwritten digits: 1,797 real scans of 8x8, shipped inside the package."""

from collections.abc import Iterator

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from gantune.config import DataConfig
from gantune.data.source import Example, Source


def digits(config: DataConfig) -> Source:
    """The embedded data set. Alpaydin & Kaynak 1998, UCI ML repository; the test part, as scikit-learn ships it."""
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8], scanned at 0..16

    def examples() -> Iterator[Example]:
        for picture, label in zip(pixels, bunch.target, strict=True):
            yield Image.fromarray(picture), int(label)

    return Source(
        identity="digits-1", count=len(pixels), class_names=tuple(str(i) for i in range(10)), examples=examples()
    )
