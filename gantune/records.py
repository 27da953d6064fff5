"""What a run's rows tell of each trial, and how finalists stand."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gantune.config import Scalar
from gantune.results import ENDED, RESTS, Row
from gantune.standings import Standing, rank


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A trial as its rows tell it. `metrics`, `parameters` and `samples_seen` at best belong to the best report.

    `lowest_score` is that of any report, whether it met the constraints or not, and of collapsed trials, too.
    `repeat` is 0 for the search's own run and counts those of a finalist under fresh seeds.
    """

    number: int
    repeat: int
    state: str
    samples_seen: int
    best_score: float | None
    lowest_score: float | None
    best_samples_seen: int
    metrics: Mapping[str, float]
    parameters: Mapping[str, Scalar]
    seed: int
    cause: str
    verdict: str
    seconds: float

    @property
    def survived(self) -> bool:
        """Whether the trial may be called the best: a score that met the constraints, and no collapse."""
        return self.best_score is not None and self.state in ("finished", "pruned", "running", RESTS)

    @property
    def complaint(self) -> str:
        """Why it may not be called the best, in one line."""
        return self.cause.partition("\n")[0] or "no report met the constraints"

    @property
    def final_score(self) -> float | None:
        """The score of the best checkpoint from the final count of samples; None for a trial that did not finish."""
        return self.metrics.get("final_score")


def standings_of(repeats: Iterable[TrialRecord]) -> list[Standing]:
    """How confirmed finalists stand, the likeliest best first; empty before any has ended."""
    scores: dict[int, list[float | None]] = {}
    for record in repeats:
        if record.state in ENDED and record.state != "failed":
            scores.setdefault(record.number, []).append(record.final_score)
    return rank(scores)


def records(rows: Iterable[Row]) -> list[TrialRecord]:
    """Every trial, and every run of a finalist, that rows tell of; by number and repeat."""
    grouped: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.trial, row.repeat), []).append(row)
    return [trial_record(told) for _, told in sorted(grouped.items())]


def trials_and_repeats(rows: Iterable[Row]) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """The records of the search's own trials, and those of its finalists' repeats."""
    found = records(rows)
    return [one for one in found if not one.repeat], [one for one in found if one.repeat]


def trial_record(rows: list[Row]) -> TrialRecord:
    """One trial from its rows, which are in order.

    Its best score is what the last row says: weights that are lost, or taken over, take theirs with them.
    """
    rows = rows[max((at for at, row in enumerate(rows) if row.starts_over), default=0) :]
    for_good = (row for row in rows if row.state in ENDED and row.state != "failed")  # what failed may be tried again
    last = next(for_good, rows[-1])
    born = max((at for at, row in enumerate(rows) if row.reborn), default=0)
    best = _best_row(rows[: rows.index(last) + 1])
    metrics = dict(best.metrics) if best and best.score == best.best_score else {}
    metrics |= {name: value for name, value in last.metrics.items() if name.startswith("final_")}
    return TrialRecord(
        number=last.trial,
        repeat=last.repeat,
        state=last.state,
        samples_seen=max(row.samples_seen for row in rows),
        best_score=best.best_score if best else None,
        lowest_score=min((row.score for row in rows[born:] if row.score is not None), default=None),
        best_samples_seen=best.samples_seen if best else 0,
        metrics=metrics,
        parameters=json.loads((best or last).config),
        seed=last.seed,
        cause=last.cause,
        verdict=last.verdict,
        seconds=max(row.trial_seconds for row in rows),
    )


def _best_row(rows: Sequence[Row]) -> Row | None:
    """The report of the weights that are kept: the first of the last ones that agree on the best score."""
    best = None
    for row in reversed(rows):
        if row.best_score is None or row.best_score != rows[-1].best_score:
            break
        best = row
    return best


def label_of(checkpoint: Path) -> str:
    """What people call the run that weights come from: 7, or 7.1 for a finalist's first under a fresh seed."""
    number, _, repeat = checkpoint.parent.name.partition(".")
    return f"{int(number)}.{repeat}" if repeat else str(int(number))
