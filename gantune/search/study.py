"""The one place that knows Optuna: proposes configurations and is told what became of them.

The study lives in a journal file in the run directory, which optuna-dashboard opens. A collapsed trial is told as a
complete one with the worst finite value so far, and as infeasible: TPE ranks every complete trial before every pruned
one, so the value alone would place a dead run above one that was stopped while it learned. A stopped trial is told as
pruned, with the step at which it stopped. A draw that is not trained is told as failed: no sampler learns from those.
"""

import copy
import json
import logging
import math
import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import optuna
from optuna import samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from gantune.config import Scalar, TrialConfig, derive_seed
from gantune.domains import Branch, Choice, Domain, Uniform
from gantune.errors import RunError
from gantune.search.auto import sampler_of, shared, size
from gantune.space import SearchSpace

MOST_REJECTIONS = 100
MOST_IN_FINITE = 2000  # a finite space is searched on through long rows of combinations that do not go together
MOST_REPEATS = 10
FEWEST_SOURCES = 10
GENETIC: dict[str, Any] = {"nsgaii": samplers.NSGAIISampler, "nsgaiii": samplers.NSGAIIISampler}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A numbered configuration to be trained."""

    number: int
    config: TrialConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A trial of an earlier run: the values of what is open here, and its lowest scores so far by samples seen."""

    origin: str
    state: str
    parameters: Mapping[str, Scalar]
    reports: Mapping[int, float]
    score: float | None
    violations: Mapping[str, float]


class Study:
    """The study of one run, opened by the one driver that holds the run.

    `floor` is the value told for a collapse while no trial has a finite score yet.
    """

    def __init__(self, path: Path, space: SearchSpace, floor: float) -> None:
        optuna.logging.set_verbosity(logging.ERROR)
        self._space = space
        self._floor = floor
        try:
            journal = path.resolve()  # the lock is a link to it, and a link with a relative target points elsewhere
            _mend(journal)
            storage = JournalStorage(JournalFileBackend(str(journal)))
            names = optuna.get_all_study_names(storage)  # a run that was renamed keeps its study
            name = names[0] if names else path.parent.name
            self._study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be opened as a study: {error}") from error
        self._study.sampler = _sampler(space, self._study.trials)
        self._size = size(space)
        self._drawn: dict[str, int] = {}  # the first trial of every configuration
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state.is_finished() and "from" not in frozen.user_attrs:
                self._drawn.setdefault(_key(frozen.params), frozen.number)
        self._open = {
            frozen.number: optuna.Trial(self._study, frozen._trial_id)
            for frozen in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        }
        known = self._study.get_trials(deepcopy=False)
        if all(trial.state == TrialState.WAITING for trial in known):  # a driver may be killed while it enqueues
            for values in space.given()[len(known) :]:
                self._study.enqueue_trial(dict(values))

    def learn(self, known: Sequence[Known]) -> int:
        """Add trials of earlier runs, as if they had been told here, but for those added before; how many were new.

        They take trial numbers, are marked with where they come `from`, and are neither proposals nor repeated by any.
        """
        before = {trial.user_attrs.get("from") for trial in self._study.get_trials(deepcopy=False)}
        new = sorted((one for one in known if one.origin not in before), key=lambda one: one.state == "collapsed")
        domains = self._space.searched()
        for one in new:
            pruned, collapsed = one.state == "pruned", one.state == "collapsed"
            value = min(one.reports.values(), default=None) if pruned else one.score
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
                    value=self._worst() if collapsed or (value is None and not pruned) else value,
                    params=dict(one.parameters),
                    distributions={name: _distribution(domains[name]) for name in one.parameters},
                    user_attrs={"from": one.origin, "state": one.state},
                    system_attrs={kind._get_generation_key(): 0 for kind in GENETIC.values()},
                    intermediate_values=dict(one.reports),
                    constraints={**one.violations, "collapsed": 1.0 if collapsed else -1.0},
                )
            )
        self._study.sampler = _sampler(self._space, self._study.trials)
        return len(new)

    def try_first(self, known: Sequence[Known], source: str) -> int:
        """Propose these configurations before any other, unless some of that source were before; how many."""
        trials = self._study.get_trials(deepcopy=False)
        if any(str(trial.user_attrs.get("tried_for", "")).startswith(source) for trial in trials):
            return 0
        for one in known:
            self._study.enqueue_trial(dict(one.parameters), user_attrs={"tried_for": one.origin}, skip_if_exists=True)
        return len(self._study.get_trials(deepcopy=False)) - len(trials)

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
        repeats = 0
        limit = MOST_REJECTIONS if math.isinf(self._size) else MOST_IN_FINITE
        for _ in range(limit):
            if self.used_up():
                break
            trial = self._study.ask()
            self._open[trial.number] = trial
            proposal = self._draw_valid(trial.number, trial)
            if proposal is None:
                continue
            first = self._drawn[_key(trial.params)]
            if first == trial.number or repeats == MOST_REPEATS:
                return proposal
            self._reject(trial.number, trial, f"repeats #{first}")
            repeats += 1
        if self.used_up() and self.proposed():
            return None
        told = [trial.user_attrs.get("rejected") for trial in self._study.get_trials(deepcopy=False)]
        reason = [reason for reason in told if reason][-1]
        what = f"all {len(self._drawn)} configurations" if self.used_up() else f"{limit} draws in a row"
        raise RunError(f"{what} were invalid, the last because: {reason}")

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
        del self._open[number]

    def proposed(self) -> int:
        """How many trials have been proposed so far, rejected draws and those of earlier runs left out."""
        trials = self._study.get_trials(deepcopy=False)
        return sum(
            trial.state != TrialState.WAITING and not {"rejected", "from"} & {*trial.user_attrs} for trial in trials
        )

    def knows(self, number: int) -> bool:
        """Whether a trial of this number was ever proposed."""
        return number < len(self._study.get_trials(deepcopy=False))

    def is_open(self, number: int) -> bool:
        """Whether a trial is still to be told."""
        return number in self._open

    def report(self, number: int, samples_seen: int, score: float) -> None:
        """An intermediate score of an open trial; one already known is left as it is."""
        trial = self._open[number]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            trial.report(score, step=samples_seen)

    def tell(
        self,
        number: int,
        state: str,
        score: float | None,
        *,
        attributes: Mapping[str, Any],
        violations: Mapping[str, float],
    ) -> None:
        """How a trial ended: finished | pruned | collapsed | failed; `score` is its lowest, where it has one.

        violations: by constraint, how far it is missed; zero or less where it is met.
        """
        trial = self._open[number]
        for key, value in {**violations, "collapsed": 1.0 if state == "collapsed" else -1.0}.items():
            if key not in trial.constraints:
                trial.set_constraint(key, value)
        for key, value in {"state": state, **attributes}.items():
            trial.set_user_attr(key, value)
        if state == "failed":
            self._study.tell(trial, state=TrialState.FAIL)
        elif state == "collapsed":
            self._study.tell(trial, self._worst())
        elif state == "pruned":
            self._study.tell(trial, state=TrialState.PRUNED)
        elif score is not None:
            self._study.tell(trial, score)
        else:
            self._study.tell(trial, self._worst())
        del self._open[number]

    def _worst(self) -> float:
        """The worst finite score that any trial has shown."""
        seen = [
            value
            for trial in self._study.get_trials(deepcopy=False)
            for value in [*trial.intermediate_values.values(), *(trial.values or [])]
        ]
        return max(seen, default=self._floor)


def _mend(journal: Path) -> None:
    """Take away what a driver leaves that is killed while it writes: its lock, and the line that it did not end."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if journal.exists():
        with journal.open("rb+") as stream:
            content = stream.read()
            stream.truncate(content.rfind(b"\n") + 1)


def _key(parameters: Mapping[str, Any]) -> str:
    """Equal for equal configurations."""
    return json.dumps(parameters, sort_keys=True)


def _sampler(space: SearchSpace, trials: Sequence[FrozenTrial]) -> samplers.BaseSampler:
    """The configured sampler; its seed differs after every restart, or a restart would repeat its draws.

    All but tpe, random and grid propose for what every configuration has; what exists in some branches only, and
    what CMA-ES cannot take, is drawn value by value: by a TPE where the sampler learns, at random where it does not.
    """
    name, seed = sampler_of(space), derive_seed(space.search.seed, "sampler", len(trials)) % 2**32
    every = {path: _distribution(domain) for path, domain in shared(space).items()}
    numbers = {path: of for path, of in every.items() if not isinstance(of, CategoricalDistribution)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        rest = samplers.TPESampler(multivariate=False, constant_liar=True, seed=seed)
        if name == "gp":
            return _Shared(
                samplers.GPSampler(seed=seed, independent_sampler=rest, warn_independent_sampling=False), every
            )
        if name == "cmaes":
            whole = any(isinstance(of, IntDistribution) and not of.log for of in numbers.values())
            evolution = samplers.CmaEsSampler(
                seed=seed,
                independent_sampler=rest,
                warn_independent_sampling=False,
                with_margin=whole,
                source_trials=_sources(trials, numbers),
            )
            return _Shared(evolution, numbers, blind=True)
        if name in GENETIC:
            population = min(50, max(4, space.budget.trials // 5))
            return _Shared(GENETIC[name](population_size=population, seed=seed), every)
        if name == "qmc":  # one sequence over all sessions: the study counts how far it has come
            fixed, others = derive_seed(space.search.seed, "sampler") % 2**32, samplers.RandomSampler(seed=seed)
            sequence = samplers.QMCSampler(
                scramble=True, seed=fixed, independent_sampler=others, warn_independent_sampling=False
            )
            return _Shared(sequence, every)
        if name == "grid":
            return _Grid(seed=seed)
        if name == "random":
            return samplers.RandomSampler(seed=seed)
        return samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


def _sources(trials: Sequence[FrozenTrial], numbers: Mapping[str, BaseDistribution]) -> list[FrozenTrial] | None:
    """Earlier runs' trials in CMA-ES's own parameters, to begin from; None for fewer than it takes a tenth of."""
    found = [
        optuna.trial.create_trial(
            params={name: trial.params[name] for name in numbers}, distributions=dict(numbers), value=trial.values[0]
        )
        for trial in trials
        if "from" in trial.user_attrs and trial.values and all(value <= 0 for value in trial.constraints.values())
    ]
    return found if len(found) >= FEWEST_SOURCES and numbers else None


def _distribution(domain: Domain) -> BaseDistribution:
    """What an open parameter is drawn from, as its trials have it."""
    if isinstance(domain, Uniform) and domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    if isinstance(domain, Uniform):
        return FloatDistribution(domain.low, domain.high, log=domain.log)
    assert isinstance(domain, Choice | Branch)
    return CategoricalDistribution(tuple(domain.values if isinstance(domain, Choice) else domain.options))


class _Grid(samplers.BruteForceSampler):
    """Every combination once, in random order; those running are left out, rejected ones count as visited."""

    def after_trial(self, *told: Any) -> None:
        """Nothing: it would stop an optimize loop, of which there is none here."""


class _Shared(samplers.BaseSampler):
    """Another sampler, kept to the parameters that every configuration has.

    Left alone it would take the parameters of the first trial, or of all trials so far, for those of every trial.
    """

    def __init__(self, inner: samplers.BaseSampler, space: dict[str, BaseDistribution], *, blind: bool = False) -> None:
        self._inner = inner
        self._space = space
        self._blind = blind

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Give also a trial that is enqueued its place in a population."""
        if isinstance(self._inner, samplers.BaseGASampler):
            self._inner.get_trial_generation(self._seen(study), trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What every configuration has."""
        return dict(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values for it, drawn together."""
        return self._inner.sample_relative(self._seen(study), trial, search_space) if search_space else {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value for anything else."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def _seen(self, study: optuna.Study) -> optuna.Study:
        return cast(optuna.Study, _Seen(study, self._blind))


class _Seen:
    """A study as those samplers should see it that learn from completed trials alone, of which early stops leave few.

    A stopped trial counts at its lowest score; a constraint of which nothing is known is neither met nor missed, and
    to the blind, who know of no constraints, an infeasible trial scores as the worst one does.
    """

    def __init__(self, study: optuna.Study, blind: bool) -> None:
        self._study = study
        self._blind = blind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = [copy.copy(trial) for trial in self._study._get_trials(deepcopy=False, use_cache=use_cache)]
        for trial in trials:
            if trial.state == TrialState.PRUNED and trial.values:
                trial.state = TrialState.COMPLETE
        told = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        constraints = sorted({key for trial in told for key in trial.constraints})
        worst = max((trial.values[0] for trial in told), default=0.0)
        for trial in told:
            known = trial.constraints
            others = {key: value for key, value in trial.system_attrs.items() if not key.startswith("constraints:")}
            trial.system_attrs = others | {f"constraints:{key}": known.get(key, 0.0) for key in constraints}
            if self._blind and any(value > 0 for value in known.values()):
                trial.values = [worst]
        return [trial for trial in trials if states is None or trial.state in states]
