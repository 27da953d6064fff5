"""Early stopping by Ray's schedulers, fed with samples seen, and filled again from the rows of a continued run."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from gantune.config import Asha
from gantune.results import Row
from gantune.space import SearchSpace


@dataclass(frozen=True, slots=True)
class _Numbered:
    """What ASHA needs to know of a trial: an id that stays the same when the trial is issued again."""

    trial_id: str


class RememberingAsha(FIFOScheduler):  # type: ignore[misc]
    """ASHA that judges a trial by its lowest score so far and knows trials by their number.

    Ray's own scheduler forgets its rungs when a search is continued; this one is replayed from the results.
    Trials in `spared` count at every rung and are never stopped.
    """

    def __init__(self, config: Asha, samples: int, rows: Iterable[Row], spared: Iterable[int] = ()) -> None:
        super().__init__()
        self._spared = frozenset(spared)
        first = max(1.0, config.first_rung * samples)
        self._asha = AsyncHyperBandScheduler(
            time_attr="samples_seen",
            metric="lowest_score",
            mode="min",
            max_t=samples,
            grace_period=first,
            reduction_factor=config.reduction,
            stop_last_trials=False,
        )
        self._lowest: dict[str, float] = {}
        for row in rows:
            if row.score is not None and row.state in ("running", "pruned"):  # Tune asks about no others
                self.decide(row.trial, row.samples_seen, row.score)

    def decide(self, number: int, samples_seen: int, score: float) -> str:
        """Ray's decision, CONTINUE or STOP, after one report."""
        trial = _Numbered(str(number))
        if trial.trial_id not in self._lowest:
            self._asha.on_trial_add(None, trial)
        lowest = min(score, self._lowest.get(trial.trial_id, score))
        self._lowest[trial.trial_id] = lowest
        report = {"samples_seen": samples_seen, "lowest_score": lowest}
        decision: str = self._asha.on_trial_result(None, trial, report)
        return TrialScheduler.CONTINUE if number in self._spared else decision

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called by Tune after each report that did not end the trial."""
        if result.get("score") is None:
            continue_: str = TrialScheduler.CONTINUE
            return continue_
        return self.decide(result["number"], result["samples_seen"], result["score"])


def build_scheduler(space: SearchSpace, rows: Iterable[Row]) -> TrialScheduler:
    """A space's scheduler, knowing the rows so far. The baseline gets its whole budget: it is what others beat."""
    config = space.search.scheduler
    if not isinstance(config, Asha):
        return FIFOScheduler()
    return RememberingAsha(config, space.budget.samples_per_trial, rows, [] if space.baseline is None else [0])
