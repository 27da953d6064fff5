"""The one place that knows Optuna: proposes configurations and is told what became of them.

The study lives in a journal file in the run directory, or in a database where several drivers share it;
optuna-dashboard opens either. A collapsed trial is told as a
complete one with the worst finite value so far, and as infeasible: TPE ranks every complete trial before every pruned
one, so the value alone would place a dead run above one that was stopped while it learned. A stopped trial is told as
pruned, with the step at which it stopped; one that rests stays open, and its sampler sees what it came to. A draw that
is not trained is told as failed: no sampler learns from those.

With several objectives Optuna takes no reports, and no values of a pruned trial: TPE would place all of those behind
every complete trial in whatever order, the genetic samplers and the Gaussian process would not see them. So a stopped
trial is told as complete, with what it came to and its `state` as an attribute. That does not flatter it: its score
could only have fallen, and what beat it at its rung beats it still; one that nothing beats belongs to the front.
"""

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from gantune.config import Scalar, TrialConfig, derive_seed
from gantune.domains import FixedDraw
from gantune.driver.auto import size
from gantune.driver.database import Database
from gantune.driver.samplers import GENETIC, PAUSED, build_sampler, distribution_of
from gantune.driver.storage import open_study
from gantune.errors import RunError
from gantune.objectives import direction_of
from gantune.space import SearchSpace

MOST_REJECTIONS = 100
MOST_IN_FINITE = 2000  # a finite space is searched on through long rows of combinations that do not go together
MOST_REPEATS = 10
MOST_INSISTED = 20  # invalid draws in a row, after which the next are random: a sampler that insists learns from none


@dataclass(frozen=True, slots=True)
class Proposal:
    """A numbered configuration to be trained."""

    number: int
    config: TrialConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A trial of an earlier run: the values of what is open here, and its lowest scores so far by samples seen.

    `metrics` are those of the report that `score` is from.
    """

    origin: str
    state: str
    parameters: Mapping[str, Scalar]
    reports: Mapping[int, float]
    score: float | None
    violations: Mapping[str, float]
    metrics: Mapping[str, float] = field(default_factory=dict)


class Study:
    """The study of one run, in the journal of the one driver that holds the run, or in the database of several.

    What is asked of one that is shared must be asked under the lock of its drivers. `floor` is the value told for a
    collapse while no trial has a finite score yet. `recorded` are the parameters of trials that reported; those that
    the study lacks, as one that was lost or cut short does, are entered again, `restored` of them.
    """

    def __init__(
        self,
        place: Path | Database,
        space: SearchSpace,
        floor: float,
        changed: Callable[[], None] = lambda: None,
        recorded: Mapping[int, Mapping[str, Scalar]] | None = None,
    ) -> None:
        optuna.logging.set_verbosity(logging.ERROR)
        self._space = space
        self._floor = floor
        self._others = space.objective.others
        self._lower = [direction_of(name) == "lower" for name in space.objective.names]
        self.place = str(place)
        self._driver = place.driver if isinstance(place, Database) else ""
        directions = [StudyDirection.MINIMIZE if low else StudyDirection.MAXIMIZE for low in self._lower]
        self._study, self._flush = open_study(place, directions)
        self._changed = changed  # is called after each proposal and each ending
        self._size = size(space)
        self._drawn: dict[str, int] = {}  # the first trial of every configuration
        self._open: dict[int, optuna.Trial] = {}
        self.restored = self._restore(recorded or {})
        self._count()
        self._study.sampler = self._sampler()  # for what a kill left undrawn
        if not self._driver:  # of several drivers, each takes what is left open by the dead
            for frozen in self._running():
                self._open[frozen.number] = optuna.Trial(self._study, frozen._trial_id)
        known = self._study.get_trials(deepcopy=False)
        for values in space.given()[len(known) :]:  # a driver may be killed while it enqueues
            self._study.enqueue_trial(dict(values))

    def _restore(self, recorded: Mapping[int, Mapping[str, Scalar]]) -> int:
        """Enter recorded trials that are missing, open, under their numbers; how many there were."""
        trials = self._study.get_trials(deepcopy=False)
        fixed = {number: self._open_values(values) for number, values in recorded.items()}
        for number in range(len(trials), max(recorded, default=-1) + 1):
            if number in fixed:
                self._study.enqueue_trial(fixed[number])
            else:
                lost = optuna.trial.create_trial(state=TrialState.FAIL, user_attrs={"rejected": "lost with the study"})
                self._study.add_trial(lost)
        waiting = {trial.number for trial in trials if trial.state == TrialState.WAITING}
        missing = {number for number in fixed if number >= len(trials) or number in waiting}
        asked: set[int] = set()
        while not missing <= asked:
            asked.add(self._study.ask().number)
        storage = self._study._storage
        for frozen in self._running():  # a journal that was cut short may lack values of its last trial
            if not frozen.params.keys() >= fixed.get(frozen.number, {}).keys():
                storage.set_trial_system_attr(frozen._trial_id, "fixed_params", fixed[frozen.number])
        return len(missing)

    def _open_values(self, parameters: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Of a configuration's parameters what is drawn."""
        return {path: parameters[path] for path in self._space.searched() if path in parameters}

    def told(self) -> list[Proposal]:
        """The proposals of this run that have been told, in order."""
        found = []
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state.is_finished() and not {"rejected", "from"} & {*frozen.user_attrs}:
                seed = derive_seed(self._space.search.seed, "trial", frozen.number)
                found.append(Proposal(frozen.number, self._space.draw(FixedDraw(frozen.params), seed=seed)))
        return found

    def learn(self, known: Sequence[Known]) -> int:
        """Add trials of earlier runs, as if they had been told here, but for those added before; how many were new.

        They take trial numbers, are marked with where they come `from`, and are neither proposals nor repeated by any.
        """
        before = {trial.user_attrs.get("from") for trial in self._study.get_trials(deepcopy=False)}
        new = sorted((one for one in known if one.origin not in before), key=lambda one: one.state == "collapsed")
        domains = self._space.searched()
        for one in new:
            pruned, collapsed = one.state == "pruned", one.state == "collapsed"
            score = min(one.reports.values(), default=None) if pruned and not self._others else one.score
            values = None if score is None else self._values(score, one.metrics)
            if collapsed or (values is None and not pruned):
                values = self._worst(one.metrics)
            self._show(one.reports.values(), values)
            told = not pruned or (self._others and values is not None)
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.COMPLETE if told else TrialState.PRUNED,
                    values=values,
                    params=dict(one.parameters),
                    distributions={name: distribution_of(domains[name]) for name in one.parameters},
                    user_attrs={"from": one.origin, "state": one.state},
                    system_attrs={kind._get_generation_key(): 0 for kind in GENETIC.values()},
                    intermediate_values={} if self._others else dict(one.reports),
                    constraints={**one.violations, "collapsed": 1.0 if collapsed else -1.0},
                )
            )
        return len(new)

    def try_first(self, known: Sequence[Known], source: str) -> int:
        """Propose these configurations before any other, unless some of that source were before; how many."""
        trials = self._study.get_trials(deepcopy=False)
        if any(str(trial.user_attrs.get("tried_for", "")).startswith(source) for trial in trials):
            return 0
        for one in known:
            self._study.enqueue_trial(dict(one.parameters), user_attrs={"tried_for": one.origin}, skip_if_exists=True)
        return len(self._study.get_trials(deepcopy=False)) - len(trials)

    def _running(self) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING])

    def _count(self) -> None:
        """How many trials are proposals, what has been drawn (and told, or signed by a driver), the worst score."""
        self._proposed = 0
        self._shown: list[float | None] = [None] * len(self._lower)
        for frozen in self._study.get_trials(deepcopy=False):
            self._show(frozen.intermediate_values.values(), frozen.values)
            self._proposed += frozen.state != TrialState.WAITING and not {"rejected", "from"} & {*frozen.user_attrs}
            if (frozen.state.is_finished() or "driver" in frozen.user_attrs) and "from" not in frozen.user_attrs:
                self._drawn.setdefault(_key(frozen.params), frozen.number)

    def _hear(self) -> None:
        """Know what other drivers did, where there may be any."""
        if self._driver:
            self._count()

    def elsewhere(self) -> list[int]:
        """The open trials of other drivers, dead ones among them."""
        return [frozen.number for frozen in self._running() if frozen.number not in self._open]

    def take(self, number: int) -> Proposal | None:
        """An open trial of a dead driver, as it was proposed; None where it is not open, or its draw is rejected."""
        frozen = next((frozen for frozen in self._running() if frozen.number == number), None)
        if frozen is None:
            return None
        trial = self._open[number] = optuna.Trial(self._study, frozen._trial_id)
        proposal = self._draw_valid(number, trial)
        if proposal is not None:
            trial.set_user_attr("driver", self._driver)
        return proposal

    def leave(self, number: int) -> None:
        """Give an open trial away, to whichever driver takes it."""
        del self._open[number]

    def open_proposals(self) -> list[Proposal]:
        """What was proposed before and not told yet, in order; the same values as the first time."""
        drawn = [self._draw_valid(number, trial) for number, trial in sorted(self._open.items())]
        return [proposal for proposal in drawn if proposal is not None]

    def propose(self) -> Proposal | None:
        """A new configuration; None where every configuration of the space has been proposed.

        Draws whose parts do not go together, or that repeat an earlier one, are told as failed and drawn again; of a
        sampler that insists, a repetition is taken: its seed is another. Raises RunError where the space seems to
        hold no valid configuration.
        """
        invalid = repeats = 0
        limit = MOST_REJECTIONS if math.isinf(self._size) else MOST_IN_FINITE
        self._hear()
        for _ in range(limit):
            if self.used_up():
                break
            self._study.sampler = self._sampler(stuck=invalid >= MOST_INSISTED)
            trial = self._study.ask()
            self._proposed += 1
            self._open[trial.number] = trial
            proposal = self._draw_valid(trial.number, trial)
            if proposal is None:
                invalid += 1
                continue
            first = self._drawn[_key(trial.params)]
            if first == trial.number or repeats == MOST_REPEATS:
                if self._driver:
                    trial.set_user_attr("driver", self._driver)
                self._flush()  # before any row is written that presumes it
                self._changed()
                return proposal
            self._reject(trial.number, trial, f"repeats #{first}")
            repeats += 1
        if self.used_up() and self.proposed():
            return None
        told = [trial.user_attrs.get("rejected") for trial in self._study.get_trials(deepcopy=False)]
        reason = [reason for reason in told if reason][-1]
        what = f"all {len(self._drawn)} configurations" if self.used_up() else f"{limit} draws in a row"
        raise RunError(f"{what} were invalid, the last because: {reason}")

    def _sampler(self, *, stuck: bool = False) -> optuna.samplers.BaseSampler:
        """A new one for every draw: it remembers nothing but the study, and so is the same after a restart."""
        return build_sampler(self._space, self._study.get_trials(deepcopy=False), stuck=stuck)

    def used_up(self) -> bool:
        """Whether the space is finite, and every configuration has been drawn."""
        return len(self._drawn) >= self._size

    def _draw_valid(self, number: int, trial: optuna.Trial) -> Proposal | None:
        """The configuration of an open trial; None where its parts do not go together, and the trial is closed."""
        seed = derive_seed(self._space.search.seed, "trial", number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            config = self._space.draw(trial, seed=seed)
        self._drawn.setdefault(_key(trial.params), number)
        reason = self._space.conflict(config)
        if reason is None:
            return Proposal(number, config)
        self._reject(number, trial, reason)
        return None

    def _reject(self, number: int, trial: optuna.Trial, reason: str) -> None:
        trial.set_user_attr("rejected", reason)
        self._study.tell(trial, state=TrialState.FAIL)
        self._proposed -= 1
        del self._open[number]

    def proposed(self) -> int:
        """How many trials have been proposed so far, rejected draws and those of earlier runs left out."""
        self._hear()
        return self._proposed

    def is_open(self, number: int) -> bool:
        """Whether a trial is still to be told."""
        return number in self._open

    def report(self, number: int, samples_seen: int, score: float) -> None:
        """An intermediate score of an open trial; one already known is left as it is. None, of several objectives."""
        if self._others or number not in self._open:
            return
        trial = self._open[number]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            trial.report(score, step=samples_seen)
        self._show([score])

    def pause(
        self, number: int, score: float | None, violations: Mapping[str, float], metrics: Mapping[str, float]
    ) -> None:
        """An open trial rests; samplers see it as one that ended with this score, until it is woken or told."""
        if number not in self._open:
            return
        values = None if score is None else self._values(score, metrics)
        self._open[number].set_user_attr(PAUSED, values and {"values": values, "violations": dict(violations)})

    def wake(self, number: int) -> None:
        """A trial that was paused goes on."""
        if number in self._open and PAUSED in self._open[number].user_attrs:
            self._open[number].set_user_attr(PAUSED, None)

    def tell(
        self,
        number: int,
        state: str,
        score: float | None,
        *,
        attributes: Mapping[str, Any],
        violations: Mapping[str, float],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """How a trial ended, once: finished | pruned | collapsed | failed; `score` is its lowest, where it has one.

        metrics: of the report that the score is from, for further objectives.
        violations: by constraint, how far it is missed; zero or less where it is met.
        """
        if number not in self._open:  # told before its results were lost
            return
        trial = self._open[number]
        for key, value in {**violations, "collapsed": 1.0 if state == "collapsed" else -1.0}.items():
            if key not in trial.constraints:
                trial.set_constraint(key, value)
        for key, value in {"state": state, **attributes}.items():
            trial.set_user_attr(key, value)
        if state == "failed":
            self._study.tell(trial, state=TrialState.FAIL)
        elif state == "pruned" and (score is None or not self._others):
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            metrics = metrics or {}
            dead = state == "collapsed" or score is None
            values = self._worst(metrics) if dead or score is None else self._values(score, metrics)
            self._study.tell(trial, values)
            self._show((), values)
        self._changed()
        del self._open[number]  # what a lost machine forgets of this the rows tell again

    def _values(self, score: float, metrics: Mapping[str, float]) -> list[float]:
        """All objectives; the worst of those that were not measured."""
        if not metrics.keys() >= {*self._others}:
            metrics = dict(zip(self._others, self._worst(metrics)[1:], strict=True)) | dict(metrics)
        return [score, *(metrics[name] for name in self._others)]

    def _show(self, scores: Iterable[float], values: Sequence[float] | None = None) -> None:
        """Scores that a trial has shown, and the objectives that it was told with."""
        for seen in [*([score] for score in scores), values or []]:
            for place, (low, value) in enumerate(zip(self._lower, seen, strict=False)):
                worst = self._shown[place]
                self._shown[place] = value if worst is None else (max if low else min)(worst, value)

    def _worst(self, metrics: Mapping[str, float]) -> list[float]:
        """The worst finite value of each objective that any trial has shown, or this one.

        A cost is measured of dead trials, too, so before anything is known only what is better high comes to 0.
        """
        self._hear()
        floors = [self._floor, *(0.0 for _ in self._others)]
        own = [None, *(metrics.get(name) for name in self._others)]
        return [
            (max if low else min)((value for value in seen if value is not None), default=floor)
            for low, floor, *seen in zip(self._lower, floors, self._shown, own, strict=True)
        ]


def _key(parameters: Mapping[str, Any]) -> str:
    """Equal for equal configurations."""
    return json.dumps(parameters, sort_keys=True)
