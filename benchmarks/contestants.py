"""What is compared by search.py: searches that propose, stop and learn, each called as its own users call it.

All hear the same number, a trial's lowest score so far, which is that of the checkpoint that would be kept; gantune's
monitor and scheduler also read the raw reports that they read in a search. Draws whose parts do not go together cost
nothing. Tune prepares one trial ahead of a free worker; here nobody does.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from learning_curves import Report
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.result import TRAINING_ITERATION
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from simulation import Contestant, Decision

from gantune.collapse import CollapseMonitor
from gantune.compatibility import conflict
from gantune.config import CollapseConfig, TrialConfig, derive_seed
from gantune.domains import Draw, FixedDraw, RandomDraw
from gantune.driver.schedulers import build_scheduler
from gantune.driver.study import Proposal, Study
from gantune.space import SearchSpace

FIRST_LOOK = 0.1  # of a full run, at the report nearest to which the top of random configurations is chosen
LOOKING = 0.5  # of the compute, spent on those first looks
NOISE = 1000.0  # told for a collapse before any finite score, of which there is none among the recorded runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What every contestant is given: the space, how many full runs and workers there are, reports a run, a folder."""

    space: SearchSpace
    seed: int
    budget: float
    steps: int
    folder: Path

    def draw(self, draw: Draw) -> TrialConfig:
        """A configuration of the space; the seed of its training is chosen by the table."""
        return self.space.draw(draw, seed=0)


class RandomSearch(Contestant):
    """Random configurations, each with its full budget."""

    def __init__(self, setting: Setting) -> None:
        self._draws = self._draw(setting)

    @staticmethod
    def _draw(setting: Setting) -> Iterator[Proposal]:
        configs = (setting.draw(RandomDraw(derive_seed(setting.seed, "random", n))) for n in itertools.count())
        for number, config in enumerate(config for config in configs if conflict(config) is None):
            yield Proposal(number, config)

    def propose(self) -> Proposal | None:
        """The next draw."""
        return next(self._draws)


class TopOfRandom(RandomSearch):
    """Half of the compute on a tenth of each of many random runs; then the best of those go on, best first."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        reports = max(1, round(FIRST_LOOK * setting.steps))
        self._look = (reports - 0.5) / setting.steps
        self._left = round(LOOKING * setting.budget * setting.steps / reports)
        self._looking: dict[int, Proposal] = {}
        self._seen: list[tuple[float, int, Proposal]] = []
        self._chosen: set[int] = set()

    def propose(self) -> Proposal | None:
        """The next draw; when all have been looked at, the best that was not chosen yet."""
        if self._left:
            self._left -= 1
            proposal = next(self._draws)
            self._looking[proposal.number] = proposal
            return proposal
        if self._looking or not self._seen:
            return None
        *_, proposal = self._seen.pop(0)
        self._chosen.add(proposal.number)
        return proposal

    def report(self, number: int, report: Report, lowest: float) -> Decision:
        """Stop at the first look, unless chosen."""
        if number in self._chosen or report.share < self._look:
            return "continue"
        self._seen.append((math.inf if math.isnan(lowest) else lowest, number, self._looking.pop(number)))
        if not self._looking:
            self._seen.sort(key=lambda seen: seen[:2])
        return "stop"


@dataclass(frozen=True, slots=True)
class _Numbered:
    """What a scheduler asks of a trial."""

    trial_id: str


class Tuned(Contestant):
    """Ray Tune's searcher for Optuna under one of its schedulers, called as Tune's controller calls them.

    The searcher hears of a report after the scheduler has let the trial go on, and of the last one as the trial's
    value, be it stopped or at its end. A value that is not finite stops nothing, for Tune compares it as any other.
    """

    def __init__(self, setting: Setting, scheduler: TrialScheduler) -> None:
        self._setting = setting
        self._searcher = OptunaSearch(self._define, metric="score", mode="min", seed=setting.seed)
        self._scheduler = scheduler
        self._number = itertools.count()
        self._reports: dict[int, int] = {}

    def _define(self, trial: Any) -> None:
        self._setting.draw(trial)

    def propose(self) -> Proposal | None:
        """A suggestion; one whose parts do not go together raises in the trainable, and has failed."""
        while True:
            number = next(self._number)
            config = self._setting.draw(FixedDraw(self._searcher.suggest(str(number))))
            if conflict(config) is None:
                self._reports[number] = 0
                self._scheduler.on_trial_add(None, _Numbered(str(number)))
                return Proposal(number, config)
            self._searcher.on_trial_complete(str(number), error=True)

    def report(self, number: int, report: Report, lowest: float) -> Decision:
        """TuneController._process_trial_result, and stop_trial where it is stopped."""
        self._reports[number] += 1
        trial, result = _Numbered(str(number)), {"score": lowest, TRAINING_ITERATION: self._reports[number]}
        if self._scheduler.on_trial_result(None, trial, result) != TrialScheduler.STOP:
            self._searcher.on_trial_result(trial.trial_id, result)
            return "continue"
        self._complete(trial, result)
        return "stop"

    def ended(self, number: int, report: Report, lowest: float) -> None:
        """The trial says itself that it is done; the scheduler is not asked."""
        self._complete(_Numbered(str(number)), {"score": lowest, TRAINING_ITERATION: self._reports[number] + 1})

    def _complete(self, trial: _Numbered, result: dict[str, float]) -> None:
        self._scheduler.on_trial_complete(None, trial, result)
        self._searcher.on_trial_complete(trial.trial_id, result)


class OptunaAlone(Contestant):
    """Optuna's ask, report, should_prune and tell, with several trials open at a time."""

    def __init__(self, setting: Setting, sampler: BaseSampler, pruner: BasePruner) -> None:
        self._setting = setting
        name = str(setting.seed)  # brackets are drawn from it
        self._study = optuna.create_study(study_name=name, sampler=sampler, pruner=pruner)
        self._open: dict[int, optuna.Trial] = {}
        self._reports: dict[int, int] = {}

    def propose(self) -> Proposal | None:
        """What is asked; a configuration whose parts do not go together has failed."""
        while True:
            trial = self._study.ask()
            config = self._setting.draw(trial)
            if conflict(config) is None:
                self._open[trial.number], self._reports[trial.number] = trial, 0
                return Proposal(trial.number, config)
            self._study.tell(trial, state=TrialState.FAIL)

    def report(self, number: int, report: Report, lowest: float) -> Decision:
        """As an objective of Study.optimize does it."""
        trial = self._open[number]
        self._reports[number] += 1
        trial.report(lowest, self._reports[number])
        if not trial.should_prune():
            return "continue"
        self._study.tell(self._open.pop(number), state=TrialState.PRUNED)
        return "stop"

    def ended(self, number: int, report: Report, lowest: float) -> None:
        """The last report is the trial's value, unless it is pruned even there."""
        if self.report(number, report, lowest) == "stop":
            return
        state = TrialState.FAIL if math.isnan(lowest) else TrialState.COMPLETE
        self._study.tell(self._open.pop(number), None if math.isnan(lowest) else lowest, state=state)


class Ours(Contestant):
    """gantune's study, monitor and scheduler, called as its trial, its ledger and Tune call them."""

    def __init__(self, setting: Setting) -> None:
        self._samples = setting.space.budget.samples_per_trial
        space = replace(setting.space, search=replace(setting.space.search, seed=setting.seed))
        self._study = Study(setting.folder / "study.journal", space, NOISE)
        self._scheduler = build_scheduler(space, [])
        self._monitors: dict[int, CollapseMonitor] = {}
        self._collapsed: set[int] = set()
        self._out: dict[int, Proposal] = {}
        self._resting: dict[int, Proposal] = {}

    def propose(self) -> Proposal | None:
        """What rested and is woken, else what the study proposes."""
        woken = self._scheduler.wakes(self._resting)
        if woken is not None:
            self._study.wake(woken)
            self._out[woken] = self._resting.pop(woken)
            return self._out[woken]
        proposal = self._study.propose()
        self._out[proposal.number] = proposal
        self._monitors[proposal.number] = CollapseMonitor(CollapseConfig(), self._samples)
        return proposal

    def report(self, number: int, report: Report, lowest: float) -> Decision:
        """The monitor judges the run alone; what it lets live, the scheduler compares."""
        return "continue" if self._record(number, report, lowest, "running") == "running" else "stop"

    def ended(self, number: int, report: Report, lowest: float) -> None:
        """A run may collapse even in its last report."""
        self._record(number, report, lowest, "finished")

    def owns(self, number: int) -> bool:
        """A collapsed trial is never the best."""
        return number not in self._collapsed

    def _record(self, number: int, report: Report, lowest: float, state: str) -> str:
        seen, score = report.samples_seen, report.score if report.finite else None
        verdict = self._monitors[number].observe(seen, report.score, report.values, report.values, report.finite)
        if verdict.dead:
            state = "finished" if report.finite and verdict.state == "diverged" else "collapsed"
        result = {"number": number, "samples_seen": seen, "score": score, "state": state}
        if state != "running":
            self._scheduler.on_trial_complete(None, None, result)
        elif self._scheduler.on_trial_result(None, None, result) == TrialScheduler.STOP:
            state = "paused"
        if report.finite:
            self._study.report(number, seen, lowest)
        proposal = self._out[number] if state == "running" else self._out.pop(number)
        if state == "paused":
            self._resting[number] = proposal
            self._study.pause(number, lowest, {}, {})
        elif state != "running":
            attributes = {"cause": verdict.cause, "samples_seen": seen, "verdict": verdict.state}
            told = lowest if report.finite else None
            self._study.tell(number, state, told, attributes=attributes, violations={})
            del self._monitors[number]
        if state == "collapsed":
            self._collapsed.add(number)
        return state


SHIPPED, OURS = "Tune: OptunaSearch + ASHA", "gantune"
CONTESTANTS: dict[str, Callable[[Setting], Contestant]] = {
    "random, full runs": RandomSearch,
    "random, the top of a tenth": TopOfRandom,
    SHIPPED: lambda setting: Tuned(setting, ASHAScheduler(metric="score", mode="min", max_t=setting.steps)),
    "Optuna: TPE + Hyperband": lambda setting: OptunaAlone(
        setting, TPESampler(seed=setting.seed), HyperbandPruner(max_resource=setting.steps)
    ),
    OURS: Ours,
}
