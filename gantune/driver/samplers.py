"""Which of Optuna's samplers a search draws with, fitted to branches, open trials and early stops."""

import copy
import warnings
from collections.abc import Container, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna import samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from gantune.config import derive_seed
from gantune.domains import Branch, Choice, Domain, Uniform
from gantune.driver.auto import sampler_of, shared
from gantune.space import SearchSpace

FEWEST_SOURCES = 10
PAUSED = "paused"  # the attribute of a trial that rests: its values and violations so far
EXPLORED = 0.5  # of the proposals beside TPE's
GENETIC: dict[str, Any] = {"nsgaii": samplers.NSGAIISampler, "nsgaiii": samplers.NSGAIIISampler}


def build_sampler(space: SearchSpace, trials: Sequence[FrozenTrial], *, stuck: bool = False) -> samplers.BaseSampler:
    """The configured sampler for the next draw; its seed follows from the search's and from how many trials are known.

    `stuck` asks for random draws, but of a grid, which is stuck nowhere.

    All but tpe, random and grid propose for what every configuration has; what exists in some branches only, and
    what CMA-ES cannot take, is drawn value by value: by a TPE where the sampler learns, at random where it does not.
    """
    name, seed = sampler_of(space), derive_seed(space.search.seed, "sampler", len(trials)) % 2**32
    every = {path: distribution_of(domain) for path, domain in shared(space).items()}
    numbers = {path: of for path, of in every.items() if not isinstance(of, CategoricalDistribution)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if stuck and name != "grid":
            return samplers.RandomSampler(seed=seed)
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
        learned = samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
        return _Mixed(learned, samplers.RandomSampler(seed=derive_seed(seed, "explore") % 2**32), space.search.seed)


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


def distribution_of(domain: Domain) -> BaseDistribution:
    """What an open parameter is drawn from, as its trials have it."""
    if isinstance(domain, Uniform) and domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    if isinstance(domain, Uniform):
        return FloatDistribution(domain.low, domain.high, log=domain.log)
    assert isinstance(domain, Choice | Branch)
    return CategoricalDistribution(tuple(domain.values if isinstance(domain, Choice) else domain.options))


class _Mixed(samplers.BaseSampler):
    """A share of the proposals at random, the others by a sampler that learns. Falkner et al. 2018, BOHB, section 4.

    Early stops make first impressions count for much, and TPE settles on what a few of them praise. Which trials
    explore follows from their numbers alone.
    """

    def __init__(self, learned: samplers.BaseSampler, explores: samplers.BaseSampler, seed: int) -> None:
        self._learned = learned
        self._explores = explores
        self._seed = seed
        self._view: tuple[int, optuna.Study] | None = None  # of the trial that is drawn, for all its values

    def _of(self, trial: FrozenTrial) -> samplers.BaseSampler:
        drawn = derive_seed(self._seed, "explore", trial.number) / 2**62
        return self._explores if drawn < EXPLORED else self._learned

    def _seen(self, study: optuna.Study, trial: FrozenTrial) -> optuna.Study:
        if self._view is None or self._view[0] != trial.number:
            self._view = trial.number, _seen(study)
        return self._view[1]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is drawn together; nothing at random."""
        return self._of(trial).infer_relative_search_space(self._seen(study, trial), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values for it."""
        return self._of(trial).sample_relative(self._seen(study, trial), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value for anything else."""
        return self._of(trial).sample_independent(self._seen(study, trial), trial, param_name, param_distribution)


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
        return _seen(study, blind=self._blind)


class _Seen:
    """A study as samplers should see it that learn from completed trials first, of which early stops leave few.

    TPE takes any completed trial, however bad, for better than any stopped one. Here what was stopped, or rests, counts
    at its lowest score; a constraint of which nothing is known is neither met nor missed, and to the blind, who know of
    no constraints, an infeasible trial scores as the worst one does.
    """

    def __init__(self, study: optuna.Study, blind: bool) -> None:
        self._study = study
        self._blind = blind
        self._trials: list[FrozenTrial] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        self._trials = self._trials or self._look()
        return [trial for trial in self._trials if states is None or trial.state in states]

    def _look(self) -> list[FrozenTrial]:
        trials = [copy.copy(trial) for trial in self._study._get_trials(deepcopy=False)]
        for trial in trials:
            if trial.state == TrialState.RUNNING and (paused := trial.user_attrs.get(PAUSED)) is not None:
                trial.values, trial.state = paused["values"], TrialState.COMPLETE
                missed = {**paused["violations"], "collapsed": -1.0}
                trial.system_attrs = trial.system_attrs | {f"constraints:{key}": value for key, value in missed.items()}
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
        return trials


def _seen(study: optuna.Study, *, blind: bool = False) -> optuna.Study:
    return cast(optuna.Study, _Seen(study, blind))
