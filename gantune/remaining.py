"""What a search still trains, guessed from its rows and its rules: the same for its driver and for its readers.

A trial that comes to a rung goes on from there with the chance that its scheduler gives it. So the guess follows the
samples that are trained, and does not leap whenever a trial ends.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gantune.config import NoScheduler, Pb2, Pbt, Scheduler
from gantune.plan import REDUCTION, stops_at

PRIOR = 2  # trials that are taken to have survived, so that the first collapse does not count for all


@dataclass(frozen=True, slots=True)
class Begun:
    """A trial that has begun: the samples that it has seen, and whether it trains on, is paused or has ended."""

    samples_seen: int
    state: Literal["open", "paused", "collapsed", "ended"]


@dataclass(frozen=True, slots=True)
class Remaining:
    """Samples that are still to be trained: of all trials together, and of the one that has the most before it."""

    total: float
    longest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What decides how long trials train. `asked`: trials. `baseline`: whether trial 0 is never stopped early."""

    scheduler: Scheduler
    samples: int
    reports: int
    asked: int
    baseline: bool

    def remaining(self, begun: Mapping[int, Begun]) -> Remaining | None:
        """Return what is left of a search by the trials that have begun; None until its first rung is full."""
        others = {number: trial for number, trial in begun.items() if number or not self.baseline}
        came = sum(
            trial.state != "open" or (trial.samples_seen > 0 and trial.samples_seen >= self._marks(number)[0])
            for number, trial in others.items()
        )
        if came < self._full() or not any(trial.samples_seen for trial in begun.values()):
            return None
        new = max(0, self.asked - len(begun))
        dead = [trial.samples_seen for trial in others.values() if trial.state == "collapsed"]
        death = len(dead) / (len(others) + PRIOR)
        coming = (1 - death) * self._further(len(begun), 0) + death * (sum(dead) / len(dead) if dead else 0.0)
        each = [self._further(number, trial.samples_seen) for number, trial in begun.items() if trial.state == "open"]
        again = new / self.asked / self._reduction  # the chance that a paused trial is among the best after all
        waking = sum(again * self._further(n, t.samples_seen) for n, t in others.items() if t.state == "paused")
        return Remaining(new * coming + waking + sum(each), max([*each, coming if new else 0.0]))

    @property
    def _reduction(self) -> float:
        return getattr(self.scheduler, "reduction", REDUCTION)

    def _full(self) -> int:
        """How many trials fill the first rung: as many as it takes for one to go on before others."""
        if isinstance(self.scheduler, NoScheduler | Pbt | Pb2):
            return 0
        return min(math.ceil(self._reduction), self.asked - self.baseline)

    def _marks(self, number: int) -> list[float]:
        """The samples at which a trial may end."""
        stops = () if self.baseline and not number else stops_at(self.scheduler, number, self.reports)
        return [share * self.samples for share in (*stops, 1.0)]

    def _further(self, number: int, seen: float) -> float:
        """The samples that a trial is expected to train on."""
        total, chance = 0.0, 1.0
        for mark in self._marks(number):
            if mark > seen:
                total, seen, chance = total + chance * (mark - seen), mark, chance / self._reduction
        return total
