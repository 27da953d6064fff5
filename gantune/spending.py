"""What a run has cost so far, from its rows."""

import heapq
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from gantune.config import BUDGETS
from gantune.results import Row
from gantune.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What is spent of a budget that is set, and all of it."""

    name: str
    spent: float
    limit: float

    @property
    def reached(self) -> bool:
        """Whether nothing of it is left."""
        return self.spent >= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """`hours` are those of the run's clock, `trial_hours` the sum over trials, which train beside each other.

    `samples`: real examples trained on. `gpu_hours` counts the share of a GPU that a trial had; None where trials had
    none. `cost`: `hours` at `budget.price_per_hour`; None where no price is given. All count finalists' repeats, too.
    """

    trials: int
    samples: int
    hours: float
    trial_hours: float
    gpu_hours: float | None
    cost: float | None

    def __str__(self) -> str:
        parts = [f"{duration(self.hours * 3600)}", f"{duration(self.trial_hours * 3600)} of training"]
        parts += [] if self.gpu_hours is None else [f"{self.gpu_hours:.3g} GPU hours"]
        parts += [f"{self.samples:,} samples"]
        parts += [] if self.cost is None else [f"{self.cost:.2f} at the price per hour"]
        return ", ".join(parts)

    def within(self, limits: Mapping[str, float]) -> list[Limit]:
        """Of the budgets that are set, those of which it is known what is spent."""
        found = ((name, getattr(self, name), limits[name]) for name in BUDGETS if name in limits)
        return [Limit(name=name, spent=spent, limit=limit) for name, spent, limit in found if spent is not None]


class Meter:
    """Counts what training takes, from rows in the order of the run's clock; a row that comes again adds nothing."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], int] = {}
        self._seconds: dict[tuple[int, int], float] = {}
        self._seconds_before = 0.0  # of trials that started over
        self.samples = 0
        self.clock = 0.0
        self._began = math.inf  # of the first trial's training, on that clock

    def hear(self, row: Row) -> None:
        """Take a row in."""
        key = row.trial, row.repeat
        if row.starts_over:  # what was trained before was spent all the same
            self._seconds_before += self._seconds.pop(key, 0.0)
            self._seen[key] = 0
        seen = self.seen(*key)
        if row.donor is None:
            self.samples += max(0, row.samples_seen - seen)
            seen = max(seen, row.samples_seen)
        else:  # the samples that another's weights have seen are the other's
            seen = row.samples_seen
        self._seen[key] = seen
        self._seconds[key] = max(self._seconds.get(key, 0.0), row.trial_seconds)
        self.clock = max(self.clock, row.run_seconds)
        self._began = min(self._began, row.run_seconds - row.trial_seconds)

    def seen(self, trial: int, repeat: int = 0) -> int:
        """The samples that a trial's weights have seen."""
        return self._seen.get((trial, repeat), 0)

    def seconds_to_finish(self, trials: Collection[tuple[int, int]], samples: int) -> float | None:
        """Return the seconds until trials have trained on so many samples each; None before any trial ran.

        It is the time of the slowest of as many workers as have trained at once so far, each at its trial's own pace.
        """
        if not self.pace:
            return None
        left = []
        for key in trials:
            seen, seconds = self.seen(*key), self._seconds.get(key, 0.0)
            pace = seconds / seen if seen and seconds else self.pace
            left.append(max(0, samples - seen) * pace)
        workers = [0.0] * round(self.parallelism)
        workers = workers[: len(left)] or [0.0]
        for seconds in sorted(left):  # the longest last, which takes the most time
            heapq.heapreplace(workers, workers[0] + seconds)
        return max(workers)

    @property
    def pace(self) -> float:
        """Seconds of training that a sample takes; 0 before any was trained on."""
        return self.trial_hours * 3600 / self.samples if self.samples else 0.0

    @property
    def parallelism(self) -> float:
        """How many trials trained at once, the mean over the time since the first."""
        return max(1.0, self.trial_hours * 3600 / max(1e-9, self.clock - self._began))

    @property
    def trial_hours(self) -> float:
        """Hours of training, the sum over trials."""
        return (self._seconds_before + sum(self._seconds.values())) / 3600

    def spending(self, clock: float, gpus: float | None, price: float | None) -> Spending:
        """What it comes to at a time of the run's clock, with so many GPUs a trial and a price per hour."""
        hours, trial_hours = clock / 3600, self.trial_hours
        return Spending(
            trials=len(self._seen),
            samples=self.samples,
            hours=hours,
            trial_hours=trial_hours,
            gpu_hours=trial_hours * gpus if gpus else None,
            cost=None if price is None else hours * price,
        )


def spending(run: Run, rows: Iterable[Row]) -> Spending:
    """What the run has cost. Raises RunError for a manifest that cannot be read."""
    meter = Meter()
    for row in rows:
        meter.hear(row)
    price = run.manifest()["space"]["budget"].get("price_per_hour")
    return meter.spending(meter.clock, run.resources().get("gpus_per_trial"), price)


def duration(seconds: float) -> str:
    """Seconds as 45s, 3m20s or 2h05m."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
