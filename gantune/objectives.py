"""What a search can aim at besides its score: which way is better, and which results are beaten by none."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from gantune import plugins
from gantune.config import ObjectiveConfig
from gantune.errors import PluginError

Direction = Literal["lower", "higher"]
Metric = TypeVar("Metric", bound=Callable[..., Any])

BETTER: dict[str, Direction] = {
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
OF_MACHINES = (TIMED, "gpu_utilization", "gpu_memory")  # tell of where a trial was trained, and of what else was there

Point = tuple[float, ...]


def better(direction: Direction) -> Callable[[Metric], Metric]:
    """Declare which way a metric of one's own is better: a function of `gantune.metrics.own.Seen` to a number."""
    if direction not in ("lower", "higher"):
        raise PluginError(f"@better: expected `lower` or `higher`, got `{direction}`")

    def declare(function: Metric) -> Metric:
        function.better = direction  # type: ignore[attr-defined]
        return function

    return declare


def is_own(name: str) -> bool:
    """Whether a name is that of somebody's own metric: `package.module:function`, or one that a package registers."""
    return name not in BETTER and (":" in name or name in plugins.names("metric"))


def direction_of(name: str) -> Direction:
    """Which way a metric is better. Raises PluginError for one of somebody's own that does not load, or say."""
    if name in BETTER:
        return BETTER[name]
    declared = getattr(plugins.resolve("metric", name), "better", None)
    if declared not in ("lower", "higher"):
        raise PluginError(
            f'metric `{name}` does not say which way is better; put @better("lower") or @better("higher") above it, '
            "from gantune.objectives"
        )
    return "lower" if declared == "lower" else "higher"


def own_metrics(objective: ObjectiveConfig) -> tuple[str, ...]:
    """The metrics of somebody's own that an objective or a constraint asks for."""
    asked = (*objective.others, *(constraint.metric for constraint in objective.constraints))
    return tuple(dict.fromkeys(name for name in asked if is_own(name)))


def point(score: float, others: Sequence[str], metrics: Mapping[str, float]) -> Point:
    """A result as numbers that are all to be low, the score first; infinite where one was not measured."""
    lower = [direction_of(name) == "lower" for name in others]
    found = [metrics.get(name, math.inf if low else -math.inf) for name, low in zip(others, lower, strict=True)]
    return score, *(value if low else -value for value, low in zip(found, lower, strict=True))


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
