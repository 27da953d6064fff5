"""How the best of a search fell with what it spent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gantune.results import Row
from gantune.spending import Meter


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A moment at which a search's best became lower. `samples` and `hours` are what all its trials had spent."""

    samples: int
    hours: float
    score: float
    trial: int


def best_so_far(rows: Sequence[Row]) -> tuple[Step, ...]:
    """The steps of a search from its rows in order, without finalists' repeats.

    What weights came to that died counts for nothing, however low it was: no step is below the search's best.
    """
    own = [row for row in rows if not row.repeat]
    last = {row.trial: row for row in own}
    dead = {number for number, row in last.items() if row.state in ("collapsed", "failed")}
    born = {row.trial: at for at, row in enumerate(own) if row.reborn}
    meter, lowest, steps = Meter(), math.inf, []
    for at, row in enumerate(own):
        meter.hear(row)
        lives = row.trial not in dead and at >= born.get(row.trial, 0)
        if lives and row.best_score is not None and row.best_score < lowest:
            lowest = row.best_score
            step = Step(samples=meter.samples, hours=row.run_seconds / 3600, score=lowest, trial=row.trial)
            steps.append(step)
    return tuple(steps)
