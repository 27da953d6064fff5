"""What a run has cost so far, from its rows."""

from collections.abc import Iterable, Mapping
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
        self.samples = 0
        self.clock = 0.0

    def hear(self, row: Row) -> None:
        """Take a row in."""
        key = row.trial, row.repeat
        seen = self.seen(*key)
        if row.donor is None:
            self.samples += max(0, row.samples_seen - seen)
            seen = max(seen, row.samples_seen)
        else:  # the samples that another's weights have seen are the other's
            seen = row.samples_seen
        self._seen[key] = seen
        self._seconds[key] = max(self._seconds.get(key, 0.0), row.trial_seconds)
        self.clock = max(self.clock, row.run_seconds)

    def seen(self, trial: int, repeat: int = 0) -> int:
        """The samples that a trial's weights have seen."""
        return self._seen.get((trial, repeat), 0)

    @property
    def trial_hours(self) -> float:
        """Hours of training, the sum over trials."""
        return sum(self._seconds.values()) / 3600

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
