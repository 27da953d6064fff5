"""How a member of a population explores: its numbers are perturbed, or chosen by a Gaussian process bandit."""

import contextlib
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ray.tune.schedulers.pb2_utils import UCB, TV_SquaredExp, normalize, optimize_acq, standardize
from sklearn.gaussian_process import GaussianProcessRegressor

from gantune.config import Pb2, Pbt, Scalar, TrialConfig, derive_seed
from gantune.domains import Choice, FixedDraw, RandomDraw, Uniform, draw_value
from gantune.mutation import mutable
from gantune.space import SearchSpace

TRIES = 10  # of values that go together
REMEMBERED = 300  # stretches that the bandit learns from
NOISE = 1e-2  # variance of a measured gain, over that of all gains
SEED = 2**32  # numpy's are below

Numeric = Choice | Uniform
Values = Mapping[str, Scalar]
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What a configuration made of a score: by how much it fell a sample, beginning at `samples_seen` and `score`."""

    samples_seen: int
    score: float
    gain: float
    values: Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known when a member explores: where it begins, what there was before, and what the others go on with."""

    samples_seen: int
    score: float
    history: Sequence[Stretch]
    others: Sequence[Values]


def explore(space: SearchSpace, config: TrialConfig, situation: Situation, seed: int) -> TrialConfig:
    """A configuration of the space that differs in values alone; the same where none is found that may be trained."""
    scheduler, values = space.search.scheduler, config.parameters()
    assert isinstance(scheduler, Pbt | Pb2)
    domains = {path: item for path, item in mutable(space.searched(), scheduler.mutate).items() if path in values}
    for attempt in range(TRIES if domains else 0):
        own = derive_seed(seed, attempt)
        if isinstance(scheduler, Pbt):
            changed = {path: _perturbed(domains[path], path, values[path], scheduler, own) for path in domains}
        elif attempt == 0 and (learned := _alike(situation.history, domains)):
            changed = _bandit(domains, situation, learned, own)
        else:
            changed = _anew(domains, own)
        found = space.draw(FixedDraw({**values, **changed}), seed=config.seed)
        if space.conflict(found) is None:
            return found
    return config


def _anew(domains: Mapping[str, Numeric], seed: int) -> dict[str, Scalar]:
    return {path: draw_value(domain, path, RandomDraw(seed)) for path, domain in domains.items()}


def _perturbed(domain: Numeric, path: str, value: Any, config: Pbt, seed: int) -> Scalar:
    """Another value of a domain: drawn anew, or a step up or down."""
    luck = random.Random(derive_seed(seed, "perturb", path))
    if luck.random() < config.resample:
        return draw_value(domain, path, RandomDraw(seed))
    up = luck.random() < 0.5
    if isinstance(domain, Choice):
        ordered = _ordered(domain)
        at = ordered.index(value) + (1 if up else -1)
        stepped: Scalar = ordered[min(len(ordered) - 1, max(0, at))]
        return stepped
    moved: float = value * config.factor if up else value / config.factor
    if domain.integer:
        moved = max(round(moved), value + 1) if up else min(round(moved), value - 1)
        return int(min(domain.high, max(domain.low, moved)))
    return float(min(domain.high, max(domain.low, moved)))


def _alike(history: Sequence[Stretch], domains: Mapping[str, Numeric]) -> list[Stretch]:
    """The latest stretches of configurations that have the same numbers; none where they tell nothing yet."""
    found = [item for item in history if all(path in item.values for path in domains)][-REMEMBERED:]
    return found if len(found) > 1 else []


def _bandit(
    domains: Mapping[str, Numeric], situation: Situation, learned: Sequence[Stretch], seed: int
) -> dict[str, Scalar]:
    """The values of the highest upper confidence bound. Parker-Holder et al. 2020, algorithm 1.

    A kernel over time, score and values that forgets with time; what the others try is taken to be known, which lowers
    the uncertainty around it.
    """
    when = np.array([[item.samples_seen, item.score] for item in learned], dtype=np.float64)
    now = normalize(np.array([situation.samples_seen, situation.score], dtype=np.float64), when)
    tried = np.hstack([normalize(when, when), np.array([_places(domains, item.values) for item in learned])])
    gains = standardize(np.array([item.gain for item in learned]))
    others = [_places(domains, values) for values in situation.others if all(path in values for path in domains)]
    with _numpy_seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that do not converge, and of options that scipy no longer knows
        mean = _fitted(tried, gains)
        spread = mean
        if others:
            beside = np.hstack([np.tile(now, (len(others), 1)), np.array(others)])
            spread = _fitted(np.vstack([tried, beside]), np.concatenate([gains, np.zeros(len(others))]))
        best = optimize_acq(UCB, mean, spread, now, 2)
    return {path: _value(domain, float(place)) for (path, domain), place in zip(domains.items(), best, strict=True)}


def _fitted(points: Vector, gains: Vector) -> GaussianProcessRegressor:
    return GaussianProcessRegressor(kernel=TV_SquaredExp(), alpha=NOISE).fit(points, gains)


@contextlib.contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Ray's optimizer draws from numpy's global stream."""
    before = np.random.get_state()
    np.random.seed(seed % SEED)
    try:
        yield
    finally:
        np.random.set_state(before)


def _ordered(domain: Choice) -> list[Any]:
    return sorted(domain.values, key=float)


def _places(domains: Mapping[str, Numeric], values: Values) -> list[float]:
    """Where values lie in their domains, 0 to 1 each."""
    return [_place(domain, values[path]) for path, domain in domains.items()]


def _place(domain: Numeric, value: Any) -> float:
    if isinstance(domain, Choice):
        return _ordered(domain).index(value) / (len(domain.values) - 1)
    if domain.log:
        return math.log(value / domain.low) / math.log(domain.high / domain.low)
    return float(value - domain.low) / (domain.high - domain.low)


def _value(domain: Numeric, place: float) -> Scalar:
    """The value at a place, inside the domain whatever rounding does."""
    if isinstance(domain, Choice):
        chosen: Scalar = _ordered(domain)[round(place * (len(domain.values) - 1))]
        return chosen
    scale = domain.high / domain.low if domain.log else 0.0
    value = domain.low * scale**place if domain.log else domain.low + place * (domain.high - domain.low)
    value = min(domain.high, max(domain.low, value))
    return round(value) if domain.integer else value
