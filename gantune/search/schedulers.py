"""Early stopping by Ray's schedulers, fed with samples seen, and filled again from the rows of a continued run."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from gantune.config import Asha
from gantune.results import Row
from gantune.search.certificate import Certificate
from gantune.space import SearchSpace

CONTINUE: str = TrialScheduler.CONTINUE


@dataclass(frozen=True, slots=True)
class _Numbered:
    """What ASHA needs to know of a trial: an id that stays the same when the trial is issued again."""

    trial_id: str


class RememberingAsha(FIFOScheduler):  # type: ignore[misc]
    """ASHA that judges a trial by its lowest score so far and knows trials by their number.

    Ray's own scheduler forgets its rungs when a search is continued; this one is replayed from the results.
    Trials in `kept` count at every rung and are never stopped. A share of those that it would stop is let run, and
    counts no further: they show whether the stops are right, and a rung that does not tell good from bad is skipped.
    """

    def __init__(self, config: Asha, samples: int, rows: Iterable[Row], kept: Iterable[int] = ()) -> None:
        super().__init__()
        self._kept = frozenset(kept)
        self._spared = config.spared
        self._stops = 0
        self._rungs = config.rungs(samples)
        self.certificate = Certificate()
        self._asha = AsyncHyperBandScheduler(
            time_attr="samples_seen",
            metric="lowest_score",
            mode="min",
            max_t=samples,
            grace_period=max(1.0, config.first_rung * samples),
            reduction_factor=config.reduction,
            stop_last_trials=False,
        )
        self._lowest: dict[int, float] = {}
        for row in rows:
            if row.state in ("finished", "collapsed"):  # Tune asks about no others
                self.end(row.trial, row.score, collapsed=row.state == "collapsed")
            elif row.score is not None and row.state in ("running", "pruned"):
                self.decide(row.trial, row.samples_seen, row.score)

    def decide(self, number: int, samples_seen: int, score: float) -> str:
        """CONTINUE or STOP, after one report."""
        trial = _Numbered(str(number))
        if number not in self._lowest:
            self._asha.on_trial_add(None, trial)
        lowest = self._lowest[number] = min(score, self._lowest.get(number, score))
        rung = max((rung for rung in self._rungs if rung <= samples_seen), default=None)
        if rung is not None:
            self.certificate.reached(number, rung, lowest)
        if self.certificate.is_doomed(number):
            return CONTINUE
        report = {"samples_seen": samples_seen, "lowest_score": lowest}
        decision: str = self._asha.on_trial_result(None, trial, report)
        if decision == CONTINUE or number in self._kept or rung is None or not self.certificate.rung(rung).separates:
            return CONTINUE
        self._stops += 1
        if round(self._stops * self._spared) > round((self._stops - 1) * self._spared):
            self.certificate.spare(number, rung)
            return CONTINUE
        return decision

    def end(self, number: int, score: float | None, *, collapsed: bool) -> None:
        """A trial has used up its budget, or collapsed."""
        lowest = min((value for value in (score, self._lowest.get(number)) if value is not None), default=math.inf)
        self.certificate.ended(number, math.inf if collapsed else lowest)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called by Tune after each report that did not end the trial."""
        if result.get("score") is None:
            return CONTINUE
        return self.decide(result["number"], result["samples_seen"], result["score"])

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Called by Tune with the report that ended the trial."""
        state = result.get("state")
        if state in ("finished", "collapsed"):
            self.end(result["number"], result.get("score"), collapsed=state == "collapsed")


def build_scheduler(space: SearchSpace, rows: Iterable[Row]) -> TrialScheduler:
    """A space's scheduler, knowing the rows so far. The baseline gets its whole budget: it is what others beat."""
    config = space.search.scheduler
    if not isinstance(config, Asha):
        return FIFOScheduler()
    kept = [] if space.baseline is None else [0]
    return RememberingAsha(config, space.budget.samples_per_trial, rows, kept)
