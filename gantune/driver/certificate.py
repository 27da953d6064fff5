"""Whether early stops were right: a few doomed trials are let run to the end, and what became of them is counted."""

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

FEWEST = 6  # trials known at a rung and at the end, below which nothing is concluded
FEWEST_DOOMED = 2  # of those, trials that a rung would have stopped
SEPARATES = 0.2  # rank correlation of early and final scores, from which a rung tells trials apart
MOSTLY_WRONG = 0.5  # share of doomed trials that end in the better half, above which a rung is skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """What a rung's decisions were worth.

    `known`: trials of which both the score at the rung and the end are known; `correlation`: Spearman's, between the
    two; `doomed`: trials that the rung would have stopped and that were let run to the end; `wronged`: those of them
    that ended in the better half of all that ended.
    """

    samples: int
    known: int
    correlation: float | None
    doomed: int
    wronged: int

    @property
    def separates(self) -> bool:
        """Whether the rung is to decide; it is, as long as too little is known."""
        if self.known < FEWEST:
            return True
        wrong = self.doomed >= FEWEST_DOOMED and self.wronged > MOSTLY_WRONG * self.doomed
        return not wrong and (self.correlation is None or self.correlation >= SEPARATES)

    def __str__(self) -> str:
        parts = [f"rung at {self.samples:,} samples: {self.known} trials are known to the end"]
        if self.correlation is not None:
            parts[0] += f", rank correlation {self.correlation:.2f}"
        if self.doomed:
            parts.append(f"of {self.doomed} doomed ones let run, {self.wronged} ended in the better half")
        if not self.separates:
            parts.append("it does not tell them apart, and is skipped")
        return "; ".join(parts)


@dataclass(slots=True)
class Certificate:
    """Scores at rungs and at the end, as a search goes on. Lower scores are better."""

    _at: dict[int, dict[int, float]] = field(default_factory=dict)
    _ends: dict[int, float] = field(default_factory=dict)
    _doomed: dict[int, int] = field(default_factory=dict)

    def reached(self, number: int, rung: int, score: float) -> None:
        """A trial's lowest score when it came to a rung."""
        self._at.setdefault(rung, {}).setdefault(number, score)

    def spare(self, number: int, rung: int) -> None:
        """A trial that the rung would have stopped is let run."""
        self._doomed.setdefault(number, rung)

    def wants(self, rung: int) -> bool:
        """Whether it takes more doomed trials to say what the rung is worth."""
        spared = sum(where == rung for where in self._doomed.values())
        return spared < FEWEST_DOOMED or self.rung(rung).known < FEWEST

    def is_doomed(self, number: int) -> bool:
        """Whether a trial runs on only to be counted."""
        return number in self._doomed

    def ended(self, number: int, score: float) -> None:
        """A trial's lowest score when its budget was used up; infinite where it collapsed."""
        self._ends[number] = score

    def rung(self, samples: int) -> Rung:
        """What one rung's decisions were worth so far."""
        at = self._at.get(samples, {})
        known = [number for number in at if number in self._ends]
        doomed = [number for number in known if self._doomed.get(number) == samples]
        middle = statistics.median(self._ends.values()) if self._ends else math.inf
        return Rung(
            samples=samples,
            known=len(known),
            correlation=spearman([at[n] for n in known], [self._ends[n] for n in known]),
            doomed=len(doomed),
            wronged=sum(self._ends[number] < middle for number in doomed),
        )

    def rungs(self) -> list[Rung]:
        """Every rung that a trial has come to."""
        return [self.rung(samples) for samples in sorted(self._at)]


def spearman(ones: Iterable[float], others: Iterable[float]) -> float | None:
    """Rank correlation, ties at their mean rank; None for fewer than three pairs, or where one side is all ties."""
    first, second = _ranks(list(ones)), _ranks(list(others))
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return statistics.correlation(first, second)


def _ranks(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value) - 1) / 2 for value in values]
