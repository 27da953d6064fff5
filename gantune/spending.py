"""What a run has cost so far, from its rows."""

from collections.abc import Iterable
from dataclasses import dataclass

from gantune.results import Row
from gantune.run import Run


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


def spending(run: Run, rows: Iterable[Row]) -> Spending:
    """What the run has cost. Raises RunError for a manifest that cannot be read."""
    trained: dict[tuple[int, int], tuple[int, float]] = {}
    seconds = 0.0
    for row in rows:
        before = trained.get((row.trial, row.repeat), (0, 0.0))
        trained[row.trial, row.repeat] = max(before[0], row.samples_seen), max(before[1], row.trial_seconds)
        seconds = max(seconds, row.run_seconds)
    hours = seconds / 3600
    trial_hours = sum(spent for _, spent in trained.values()) / 3600
    gpus = run.resources().get("gpus_per_trial")
    price = run.manifest()["space"]["budget"].get("price_per_hour")
    return Spending(
        trials=len(trained),
        samples=sum(samples for samples, _ in trained.values()),
        hours=hours,
        trial_hours=trial_hours,
        gpu_hours=trial_hours * gpus if gpus else None,
        cost=None if price is None else hours * price,
    )


def duration(seconds: float) -> str:
    """Seconds as 45s, 3m20s or 2h05m."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
