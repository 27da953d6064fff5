"""What stops trials early, filled again from the rows of a continued run."""

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ray.tune.schedulers import FIFOScheduler, MedianStoppingRule, TrialScheduler

from gantune.config import Median, NoScheduler, Pb2, Pbt
from gantune.driver.certificate import Certificate
from gantune.driver.fronts import FrontHalving
from gantune.driver.halving import Halving, Rule
from gantune.driver.population import Population
from gantune.results import Row
from gantune.space import SearchSpace

CONTINUE: str = TrialScheduler.CONTINUE
STOP: str = TrialScheduler.STOP
NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Numbered:
    """What a rule needs to know of a trial: an id that stays the same when the trial is issued again."""

    trial_id: str


class Medians(Rule):
    """The median rule; it compares means of all scores, so a trial that has ended counts with its last one, too."""

    def __init__(self, config: Median, samples: int) -> None:
        self._rungs = config.rungs(samples)
        self._rule = MedianStoppingRule(
            time_attr="samples_seen",
            metric="score",
            mode="min",
            grace_period=config.grace * samples,
            min_samples_required=config.min_trials,
            min_time_slice=math.inf,  # a trial that cannot be judged yet goes on; it is not paused for others
            hard_stop=False,  # or it would not bear to hear of a trial again
        )

    def rungs(self, number: int) -> Sequence[int]:
        """The same for all."""
        return self._rungs

    def note(self, number: int, samples_seen: int, score: float, lowest: float) -> None:
        """Ray's rule takes what it hears at an end without deciding."""
        self._rule.on_trial_complete(None, _Numbered(str(number)), {"samples_seen": samples_seen, "score": score})

    def stops(self, number: int, samples_seen: int, score: float, lowest: float) -> bool:
        """Whether its best is worse than the median."""
        report = {"samples_seen": samples_seen, "score": score}
        decision: str = self._rule.on_trial_result(None, _Numbered(str(number)), report)
        return decision != CONTINUE

    def end(self, number: int, samples_seen: int, score: float, lowest: float) -> None:
        """Its last score counts."""
        self.note(number, samples_seen, score, lowest)


class Remembering(FIFOScheduler):  # type: ignore[misc]
    """A rule that knows trials by their number, and replays the rows of a search: those there are when it is continued,
    and those that other drivers add later, which it takes from `heard`. A row of its own decision changes nothing.

    Trials in `kept` count and are never stopped, those in `promoted` not after so many samples seen. A share of those
    that it would stop is let run, and counts no further: they show whether the stops are right, and a rung that does
    not tell good from bad is skipped. No more are let run than it takes to know.
    """

    def __init__(
        self,
        rule: Rule,
        spared: float,
        rows: Iterable[Row],
        kept: Iterable[int] = (),
        promoted: Mapping[int, int] | None = None,
        heard: deque[Row] | None = None,
    ) -> None:
        super().__init__()
        self._rule = rule
        self._kept = {**(promoted or {}), **dict.fromkeys(kept, -1)}
        self._spared = spared
        self._stops = 0
        self.certificate = Certificate()
        self._lowest: dict[int, float] = {}
        self._seen: dict[int, int] = {}
        self._ended: set[int] = set()
        self._heard = heard if heard is not None else deque()
        self._replay(rows)

    def _replay(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row.state in ("finished", "collapsed"):  # Tune asks about no others
                self.end(row.trial, row.samples_seen, row.score, collapsed=row.state == "collapsed")
            elif row.score is not None and row.state in ("running", "paused", "pruned"):
                self.decide(row.trial, row.samples_seen, row.score, row.metrics, stopped=row.state != "running")

    def hear(self) -> None:
        """Take in what other drivers reported since."""
        while self._heard:
            self._replay([self._heard.popleft()])

    @property
    def rests(self) -> bool:
        """Whether what is stopped may go on later."""
        return self._rule.rests

    def wakes(self, resting: Collection[int]) -> int | None:
        """Which of the trials at rest is to go on now, if any; first of all one that somebody asked for."""
        self.hear()
        return next((number for number in sorted(resting) if number in self._kept), self._rule.wakes(resting))

    def keep(self, promoted: Mapping[int, int]) -> None:
        """Stop none of these trials after so many samples seen."""
        self._kept = {**promoted, **self._kept}

    def decide(
        self,
        number: int,
        samples_seen: int,
        score: float,
        metrics: Mapping[str, float] = NOTHING,
        *,
        stopped: bool | None = None,
    ) -> str:
        """CONTINUE or STOP, after one report; one that is repeated changes nothing.

        stopped: what was decided, where the report is replayed. What went on though the rule would stop it was spared.
        """
        if samples_seen <= self._seen.get(number, -1):
            return CONTINUE
        self._seen[number] = samples_seen
        self._rule.measured(number, score, metrics)
        lowest = self._lowest[number] = min(score, self._lowest.get(number, score))
        rung = max((rung for rung in self._rule.rungs(number) if rung <= samples_seen), default=None)
        if rung is not None:
            self.certificate.reached(number, rung, lowest)
        if self.certificate.is_doomed(number):
            return CONTINUE
        if rung is None or samples_seen > self._kept.get(number, math.inf) or not self.certificate.rung(rung).separates:
            self._rule.note(number, samples_seen, score, lowest)
            return CONTINUE
        if not self._rule.stops(number, samples_seen, score, lowest):
            return CONTINUE
        self._stops += 1
        due = round(self._stops * self._spared) > round((self._stops - 1) * self._spared)
        if due and self.certificate.wants(rung) if stopped is None else not stopped:
            self.certificate.spare(number, rung)
            return CONTINUE
        return STOP

    def end(self, number: int, samples_seen: int, score: float | None, *, collapsed: bool) -> None:
        """A trial has used up its budget, or collapsed; what is repeated changes nothing."""
        if number in self._ended:
            return
        self._ended.add(number)
        lowest = min((value for value in (score, self._lowest.get(number)) if value is not None), default=math.inf)
        if collapsed:
            self._rule.collapsed(number)
        elif score is not None and not self.certificate.is_doomed(number):
            self._rule.end(number, samples_seen, score, lowest)
        self.certificate.ended(number, math.inf if collapsed else lowest)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called by Tune after each report that did not end the trial."""
        self.hear()
        if result.get("score") is None:
            return CONTINUE
        metrics = dict(result.get("metrics", ()))
        return self.decide(result["number"], result["samples_seen"], result["score"], metrics)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Called by Tune with the report that ended the trial."""
        state = result.get("state")
        if state in ("finished", "collapsed"):
            self.end(result["number"], result["samples_seen"], result.get("score"), collapsed=state == "collapsed")


class Generations(FIFOScheduler):  # type: ignore[misc]
    """Ends Tune's trial for a member of a population with its generation; the books issue it again for the next."""

    def __init__(self, population: Population) -> None:
        super().__init__()
        self._population = population

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles schedulers so as to restore them, and the books stay out of pickles."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called by Tune after each report that did not end the trial."""
        return STOP if self._population.rests(result["samples_seen"]) else CONTINUE


def build_scheduler(
    space: SearchSpace,
    rows: Iterable[Row],
    promoted: Mapping[int, int] | None = None,
    heard: deque[Row] | None = None,
) -> TrialScheduler:
    """A space's scheduler, knowing the rows so far, and those of other drivers as they are heard.

    The baseline gets its whole budget: it is what others beat.
    promoted: trials that it may stop no more, and the samples that each had seen when somebody asked for that.
    """
    config, samples = space.search.scheduler, space.budget.samples_per_trial
    if isinstance(config, NoScheduler | Pbt | Pb2):
        return FIFOScheduler()
    others = space.objective.others
    rule: Rule
    if isinstance(config, Median):
        rule = Medians(config, samples)
    else:
        rule = FrontHalving(config, samples, others) if others else Halving(config, samples)
    return Remembering(rule, config.spared, rows, [] if space.baseline is None else [0], promoted, heard)
