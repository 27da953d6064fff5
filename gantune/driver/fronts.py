"""Halving with several objectives: a trial is judged by the front of those that came to its rung."""

import math
from collections.abc import Mapping, Sequence

from gantune.config import Asha, Hyperband
from gantune.driver.halving import Halving
from gantune.objectives import Point, fronts, point


class FrontHalving(Halving):
    """Halving by all objectives at the moment of the trial's lowest score. Schmucker et al. 2021.

    At a rung trials are ordered by non-dominated sorting, within a front by an epsilon-net. All of the first front go
    on, whatever its size: the front is what the search is for, and of N trials at random about log N are of it.
    """

    def __init__(self, config: Asha | Hyperband, samples: int, others: Sequence[str]) -> None:
        super().__init__(config, samples)
        self._others = others
        self._best: dict[int, Point] = {}

    def measured(self, number: int, score: float, metrics: Mapping[str, float]) -> None:
        """What the trial comes to is that of its lowest score, as its best checkpoint is."""
        if number not in self._best or score < self._best[number][0]:
            self._best[number] = point(score, self._others, metrics)

    def _point(self, number: int, lowest: float) -> Point:
        return self._best[number]

    def _ranked(self, points: Sequence[Point]) -> tuple[Sequence[int], int]:
        found = fronts(points)
        order = [front[at] for front in found for at in epsilon_net([points[place] for place in front])]
        return order, len(found[0])


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
