"""Asynchronous halving with several objectives: a trial is judged by the front of those that came to its rung."""

import math
from collections.abc import Mapping, Sequence

from gantune.config import Asha, Hyperband
from gantune.objectives import Point, fronts, point


class FrontHalving:
    """ASHA, or several of it, by all objectives at the moment of the trial's lowest score. Schmucker et al. 2021.

    At a rung a trial goes on if it is of the upper 1/reduction by non-dominated sorting, within a front by an
    epsilon-net; and also if it is of the first front, whatever its size: the front is what the search is for, and of N
    trials at random about log N are of it.
    """

    def __init__(self, config: Asha | Hyperband, samples: int, others: Sequence[str]) -> None:
        self._config = config
        self._samples = samples
        self._others = others
        self._rungs = config.split(samples) if isinstance(config, Hyperband) else [config.rungs(samples)]
        self._best: dict[int, Point] = {}
        self._came: dict[tuple[int, int], dict[int, Point]] = {}  # by bracket and rung, each trial as it came there

    def _bracket(self, number: int) -> int:
        return self._config.bracket(number, self._samples) if isinstance(self._config, Hyperband) else 0

    def rungs(self, number: int) -> Sequence[int]:
        """Those of the trial's bracket."""
        return self._rungs[self._bracket(number)]

    def measured(self, number: int, score: float, metrics: Mapping[str, float]) -> None:
        """What the trial comes to is that of its lowest score, as its best checkpoint is."""
        if number not in self._best or score < self._best[number][0]:
            self._best[number] = point(score, self._others, metrics)

    def note(self, number: int, samples_seen: int, score: float, lowest: float) -> None:
        """A report that counts at its rung."""
        self.stops(number, samples_seen, score, lowest)

    def stops(self, number: int, samples_seen: int, score: float, lowest: float) -> bool:
        """Whether it lies below its rung's upper part."""
        rung = max((rung for rung in self.rungs(number) if rung <= samples_seen), default=None)
        if rung is None:
            return False
        came = self._came.setdefault((self._bracket(number), rung), {})
        if number in came:
            return False
        came[number] = self._best[number]
        return not _last_is_upper(list(came.values()), self._config.reduction)

    def end(self, number: int, samples_seen: int, score: float, lowest: float) -> None:
        """Nothing: no rung lies there."""


def _last_is_upper(points: Sequence[Point], reduction: float) -> bool:
    """Whether the last of the points is of the first front, or of the upper 1/reduction of all."""
    ahead, last = 0, len(points) - 1
    for front in fronts(points):
        if last in front:
            place = epsilon_net([points[at] for at in front]).index(front.index(last))
            return not ahead or ahead + place < len(points) / reduction
        ahead += len(front)
    return True


def epsilon_net(points: Sequence[Point]) -> list[int]:
    """The points' places in an order in which any first few of them are spread out.

    It begins with the lowest first objective, and each next point is the farthest from all before it, every objective
    being measured by its range. Salinas et al. 2021.
    """
    scaled = list(zip(*(_scaled(column) for column in zip(*points, strict=True)), strict=True))
    left = list(range(len(points)))
    order = [min(left, key=lambda at: points[at])]
    left.remove(order[0])
    away = [math.dist(place, scaled[order[0]]) for place in scaled]
    while left:
        order.append(max(left, key=lambda at: away[at]))
        left.remove(order[-1])
        away = [min(old, math.dist(place, scaled[order[-1]])) for old, place in zip(away, scaled, strict=True)]
    return order


def _scaled(column: Sequence[float]) -> list[float]:
    """Values as shares of their range; what was not measured lies at its end."""
    known = [value for value in column if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    return [min(value - low, high - low) / ((high - low) or 1.0) for value in column]
