"""Successive halving by samples seen.

Ray's own ASHA stops a trial for good when it comes to a rung, and so decides on the first few by next to nothing.
Here it rests, as Li et al. 2020 have it, and is taken up again once it is known to be among the best.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from gantune.config import Asha, Hyperband
from gantune.objectives import Point


class Rule(Protocol):
    """Decides from reports alone, which it may be given again. `rests`: whether what it stops may go on later."""

    rests: bool = False

    def rungs(self, number: int) -> Sequence[int]:
        """The samples seen from which a trial's decisions are counted together."""

    def measured(self, number: int, score: float, metrics: Mapping[str, float]) -> None:
        """All that a report measured, before it is noted or decided on; of no matter to who goes by the score."""
        return

    def note(self, number: int, samples_seen: int, score: float, lowest: float) -> None:
        """A report that others are compared with; nothing is decided."""

    def stops(self, number: int, samples_seen: int, score: float, lowest: float) -> bool:
        """Note a report, and say whether it ends its trial; a trial that is to end is not reported again."""

    def end(self, number: int, samples_seen: int, score: float, lowest: float) -> None:
        """The report with which a trial has used up its budget; of no matter where no rung lies there."""
        return

    def collapsed(self, number: int) -> None:
        """A trial has died."""
        return

    def wakes(self, resting: Collection[int]) -> int | None:
        """Which of the trials at rest is to go on now, if any."""
        return None


class Halving(Rule):
    """ASHA, or several of it: a trial belongs to one bracket, and is judged by its lowest score so far. Li et al. 2020.

    At a rung it goes on if it is of the upper 1/reduction of those that came there, or the first of all, so that even
    a short search trains something to the end; else it rests, and is woken once enough others came in below it.
    """

    rests = True

    def __init__(self, config: Asha | Hyperband, samples: int) -> None:
        self._config = config
        self._samples = samples
        self._split = config.split(samples) if isinstance(config, Hyperband) else [config.rungs(samples)]
        self._came: dict[tuple[int, int], dict[int, Point]] = {}  # by bracket and rung, each trial as it came there
        self._upper: dict[tuple[int, int], list[int]] = {}  # what is known of those, until another comes

    def _bracket(self, number: int) -> int:
        return self._config.bracket(number, self._samples) if isinstance(self._config, Hyperband) else 0

    def rungs(self, number: int) -> Sequence[int]:
        """Those of the trial's bracket."""
        return self._split[self._bracket(number)]

    def note(self, number: int, samples_seen: int, score: float, lowest: float) -> None:
        """A report that counts at its rung."""
        self.stops(number, samples_seen, score, lowest)

    def stops(self, number: int, samples_seen: int, score: float, lowest: float) -> bool:
        """Whether it lies below its rung's upper part."""
        rung = max((rung for rung in self.rungs(number) if rung <= samples_seen), default=None)
        if rung is None:
            return False
        place = self._bracket(number), rung
        came = self._came.setdefault(place, {})
        if number in came:
            return False
        came[number] = self._point(number, lowest)
        self._upper.pop(place, None)
        return number not in self._upper_of(place)

    def collapsed(self, number: int) -> None:
        """It counts as the last wherever it came, and another has its place."""
        for place, came in self._came.items():
            if number in came:
                came[number] = (math.inf,) * len(came[number])
                self._upper.pop(place, None)

    def wakes(self, resting: Collection[int]) -> int | None:
        """The best of the highest rung that has one of its upper part at rest."""
        beyond: set[int] = set()
        for place in sorted(self._came, key=lambda place: -place[1]):
            for number in self._upper_of(place):
                if number in resting and number not in beyond:
                    return number
            beyond.update(self._came[place])
        return None

    def _upper_of(self, place: tuple[int, int]) -> list[int]:
        if place not in self._upper:
            numbers = sorted(self._came[place])
            order, least = self._ranked([self._came[place][number] for number in numbers])
            count = max(least, int(len(numbers) / self._config.reduction))
            self._upper[place] = [numbers[at] for at in order[:count]]
        return self._upper[place]

    def _point(self, number: int, lowest: float) -> Point:
        """What a trial is judged by at a rung."""
        return (lowest,)

    def _ranked(self, points: Sequence[Point]) -> tuple[Sequence[int], int]:
        """The points' places, the best first, and how many of them go on in any case."""
        return sorted(range(len(points)), key=lambda at: points[at]), 1
