"""Who won, and how surely: finalists that were trained again under fresh seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 20_000
SURE = 0.95  # probability of being the best, from which a winner is one
POSSIBLE = 1 - SURE  # probability of being the best, from which a finalist is in the tie


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One finalist: its scores under fresh seeds, lower being better, and the probability that its mean is the lowest.

    `scores` leaves out `collapsed` runs, which reached no score; they count as the worst of all finalists' runs.
    `deviation` is that of the sample, over seeds. `tied` is whether it may be the best while no finalist surely is.
    """

    number: int
    scores: tuple[float, ...]
    collapsed: int
    mean: float
    deviation: float
    probability: float
    tied: bool


def rank(scores: Mapping[int, Sequence[float | None]]) -> list[Standing]:
    """Standings of finalists from the scores of their runs, None for a run without one; the likeliest best first.

    Seeds of one configuration scatter by a share of their score, so the spread is pooled over the finalists, on the
    logarithm where all scores are above 0; each mean then follows Student's t around what was seen. Finalists of fewer
    than two runs are left out, and all of them where no run has a score.
    """
    seen = [value for values in scores.values() for value in values if value is not None]
    told = {number: values for number, values in scores.items() if len(values) > 1}
    if not seen or not told:
        return []
    filled = {
        number: np.array([max(seen) if value is None else value for value in values]) for number, values in told.items()
    }
    logarithmic = min(seen) > 0
    scaled = {number: np.log(values) if logarithmic else values for number, values in filled.items()}
    freedom = sum(len(values) - 1 for values in scaled.values())
    scatter = sum(float(((values - values.mean()) ** 2).sum()) for values in scaled.values())
    spread = max(math.sqrt(scatter / freedom), 1e-12)  # equal scores are a tie
    stream = np.random.default_rng(0)
    draws = np.stack(
        [
            values.mean() + spread / math.sqrt(len(values)) * stream.standard_t(freedom, DRAWS)
            for values in scaled.values()
        ]
    )  # [finalists, draws]
    lowest = np.bincount(draws.argmin(0), minlength=len(scaled)) / DRAWS
    sure = bool(lowest.max() >= SURE) or len(scaled) == 1
    found = [
        Standing(
            number=number,
            scores=tuple(value for value in told[number] if value is not None),
            collapsed=sum(value is None for value in told[number]),
            mean=float(filled[number].mean()),
            deviation=float(filled[number].std(ddof=1)),
            probability=float(probability),
            tied=not sure and bool(probability >= POSSIBLE),
        )
        for number, probability in zip(scaled, lowest, strict=True)
    ]
    return sorted(found, key=lambda standing: (-standing.probability, standing.mean, standing.number))
