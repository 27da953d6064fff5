"""What a search can aim at besides its score: which way is better, and which results are beaten by none."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

BETTER: dict[str, Literal["lower", "higher"]] = {
    "fid": "lower",
    "fid_inf": "lower",
    "kid": "lower",
    "precision": "higher",
    "recall": "higher",
    "density": "higher",
    "coverage": "higher",
    "diversity": "higher",
    "pixel_diversity": "higher",
    "rank": "higher",
    "memorisation": "higher",
    "modes": "higher",
    "inception_score": "higher",
    "synthetic_accuracy": "higher",
    "seconds_per_image": "lower",
    "generator_parameters": "lower",
}
COSTS = ("seconds_per_image", "generator_parameters")  # measured only where they are asked for
TIMED = "seconds_per_image"  # another one at every measurement, and on every machine

Point = tuple[float, ...]


def point(score: float, others: Sequence[str], metrics: Mapping[str, float]) -> Point:
    """A result as numbers that are all to be low, the score first; infinite where one was not measured."""
    found = [metrics.get(name, math.inf if BETTER[name] == "lower" else -math.inf) for name in others]
    return score, *(value if BETTER[name] == "lower" else -value for name, value in zip(others, found, strict=True))


def fronts(points: Sequence[Point]) -> list[list[int]]:
    """The places of points, front by front: each point of a front is beaten by some of the one before, by none later.

    A point beats another where it is as low in everything and lower in something. Deb et al. 2002, section III-A.
    """
    values = np.array(points, dtype=np.float64).reshape(len(points), -1)  # [N, M]
    as_low: NDArray[np.bool_] = np.all(values[:, None] <= values[None], axis=-1)  # [N, N]
    beats = as_low & ~as_low.T
    beaten = beats.sum(0)  # by how many that are in no front yet
    left, found = np.ones(len(values), dtype=bool), []
    while left.any():
        front = np.flatnonzero(left & (beaten == 0))
        found.append([int(at) for at in front])
        left[front] = False
        beaten = beaten - beats[front].sum(0)
    return found
