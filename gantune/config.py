"""The frozen values that say what a trial is and how a search is run.

These dataclasses are also the schema of the YAML sections: the field names, types, bounds and defaults
that the reader accepts are read from here, so there is no second list to keep in step.
"""

import hashlib
import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

Scalar = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Bounds:
    """The closed interval a number must lie in; `above` is an open lower end. None is unbounded."""

    low: float | None = None
    high: float | None = None
    above: float | None = None


@dataclass(frozen=True, slots=True)
class Works:
    """Where an option is known to work, in the words of a space file: `log 1..20`, `[0, 0.5]`."""

    domain: str


Count = Annotated[int, Bounds(low=1)]
Positive = Annotated[float, Bounds(above=0)]
Weight = Annotated[float, Bounds(low=0)]
Fraction = Annotated[float, Bounds(above=0, high=1)]
ImageSize = Annotated[int, Bounds(low=8, high=128)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A named plugin with its options, sorted by name so that equal components are equal values."""

    name: str
    options: tuple[tuple[str, Scalar], ...] = ()

    def option(self, name: str) -> Scalar:
        """The value of one option, or None where the component has no such option."""
        return dict(self.options).get(name)


NONE = Component(name="none")
CONSTANT = Component(name="constant")
AUTO = Component(name="auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Which pictures: a known name, a folder of images, or Parquet with an image column."""

    dataset: str = "digits"
    size: ImageSize | None = None
    channels: Literal["auto", "grey", "rgb"] = "auto"
    image_column: str = "image"
    label_column: str = "label"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCounts:
    """How many generated samples a score is computed from: at each report, and once at the end."""

    report: Annotated[int, Bounds(low=64)] = 1000
    final: Annotated[int, Bounds(low=64)] = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A demand on a metric that a report must meet before its weights may win."""

    metric: str
    relation: Literal["<=", ">="]
    bound: float

    def violation(self, value: float) -> float:
        """How far `value` misses the bound; zero or less where it is met."""
        return value - self.bound if self.relation == "<=" else self.bound - value

    def __str__(self) -> str:
        return f"{self.metric} {self.relation} {self.bound!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    """What is minimised, in the sight of which features, how often and from how many samples it is measured.

    `metric` is the score; a list has further objectives behind it, each measured at every report.
    """

    metric: Literal["fid", "fid_inf", "kid"] = "fid"
    others: tuple[str, ...] = ()  # in the language they stand in a list behind `metric`
    features: Component = AUTO
    samples: SampleCounts = field(default_factory=SampleCounts)
    reports: Count = 12
    constraints: tuple[Constraint, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All objectives, the score first."""
        return self.metric, *self.others


@dataclass(frozen=True, slots=True, kw_only=True)
class CollapseConfig:
    """When a run is given up. `warmup` is a fraction of the trial's budget, `patience` a count of reports in a row.

    `min_diversity` is relative to the real data's own. `min_improvement` is the share by which score or diversity must
    pass what they last came to. `divergence` is how many times its best a score may be; `min_novelty` how near samples
    may lie to training examples, 1 being as far as unseen ones.
    """

    enabled: bool = True
    warmup: Annotated[float, Bounds(low=0, high=1)] = 0.2
    patience: Count = 4
    min_diversity: Annotated[float, Bounds(low=0, high=1)] = 0.5
    min_improvement: Annotated[float, Bounds(low=0, high=1)] = 0.2
    divergence: Annotated[float, Bounds(above=1)] = 4.0
    min_novelty: Annotated[float, Bounds(low=0, high=1)] = 0.5


BUDGETS = ("samples", "hours", "gpu_hours", "cost")  # that a search may use up, besides its trials


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConfig:
    """When a search ends: whatever of these is used up first, or a score that is good enough.

    `samples` are the real samples of all trials together, `hours` those of the clock on the wall, `gpu_hours` the
    training time of all trials times the GPUs that each occupies, `cost` is `hours` times `price_per_hour`.
    """

    trials: Count = 24
    samples_per_trial: Count = 60_000
    samples: Count | None = None
    hours: Positive | None = None
    gpu_hours: Positive | None = None
    cost: Positive | None = None
    price_per_hour: Positive | None = None
    target: Positive | None = None


def _halvings(first: float, reduction: float, samples: int) -> list[int]:
    """The samples seen from a first share of a budget on, `reduction` times as many each, below the budget."""
    found, at = set(), first * samples
    while at < samples:
        found.add(max(1, round(at)))
        at *= reduction
    return sorted(found - {samples})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asha:
    """Asynchronous successive halving. `first_rung` is a fraction of the trial's budget. Li et al. 2020.

    Of the trials that came to a rung the best go on, one in `reduction`; the others rest until they are among those.
    `spared` is the share of resting trials that are let run to the end, until it is known whether the stops are right.
    """

    first_rung: Fraction = 0.08
    reduction: Annotated[float, Bounds(low=1.5)] = 2.0
    spared: Annotated[float, Bounds(low=0, high=1)] = 0.05

    def rungs(self, samples: int) -> list[int]:
        """The samples seen at which it decides, below a budget."""
        return _halvings(self.first_rung, self.reduction, samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperband:
    """Brackets of asynchronous halving, each beginning a rung later than the one before. Li et al. 2017, 2018."""

    first_rung: Fraction = 0.1
    reduction: Annotated[float, Bounds(low=1.5)] = 3.0
    brackets: Annotated[int, Bounds(low=1, high=10)] = 3
    spared: Annotated[float, Bounds(low=0, high=1)] = 0.05

    def rungs(self, samples: int) -> list[int]:
        """The samples seen at which any bracket decides, below a budget."""
        return _halvings(self.first_rung, self.reduction, samples)

    def split(self, samples: int) -> list[list[int]]:
        """Each bracket's rungs; the last may have none, and no two have the same."""
        rungs = self.rungs(samples)
        return [rungs[bracket:] for bracket in range(min(self.brackets, len(rungs) + 1))]

    def bracket(self, number: int, samples: int) -> int:
        """The bracket of a trial, by its number alone.

        The shares are Hyperband's, which give every bracket about the same budget: reduction^s / (s + 1) for one of
        s rungs. Each trial goes where most is lacking, so that any run of numbers is split alike.
        """
        shares = [self.reduction ** len(rungs) / (len(rungs) + 1) for rungs in self.split(samples)]
        whole, given = sum(shares), [0] * len(shares)
        for count in range(1, number % CYCLE + 2):
            chosen = max(range(len(shares)), key=lambda bracket: shares[bracket] * count / whole - given[bracket])
            given[chosen] += 1
        return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Median:
    """Stops a trial whose best score is worse than the median of the others' mean scores so far. Golovin et al. 2017.

    It decides after every report from `grace`, a share of the trial's budget, on, against `min_trials` others or more
    that have come as far.
    """

    grace: Fraction = 0.25
    min_trials: Count = 3
    spared: Annotated[float, Bounds(low=0, high=1)] = 0.05

    def rungs(self, samples: int) -> list[int]:
        """The samples seen from which its stops are counted together: the grace, and twice as many each."""
        return _halvings(self.grace, 2.0, samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pbt:
    """Population based training. `interval` is a generation, a share of the trial's budget. Jaderberg et al. 2017.

    At a generation's end the worst, a share of `quantile`, take over weights and configuration of one of the best, and
    explore: each number is drawn anew with the probability `resample`, else multiplied or divided by `factor`. `mutate`
    names the parameters that may change; all open numbers where it is empty.
    """

    interval: Fraction = 0.1
    quantile: Annotated[float, Bounds(above=0, high=0.5)] = 0.25
    factor: Annotated[float, Bounds(above=1)] = 1.25
    resample: Annotated[float, Bounds(low=0, high=1)] = 0.25
    mutate: tuple[str, ...] = ()

    def generations(self, samples: int, reports: int) -> list[int]:
        """The samples seen at which generations end, before the budget does: those of the reports then due."""
        return _generations(self.interval, samples, reports)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pb2:
    """Population based training whose numbers are chosen by a Gaussian process bandit. Parker-Holder et al. 2020.

    `interval`, `quantile` and `mutate` are those of pbt. It learns what a configuration brings at a time and a score.
    """

    interval: Fraction = 0.1
    quantile: Annotated[float, Bounds(above=0, high=0.5)] = 0.25
    mutate: tuple[str, ...] = ()

    def generations(self, samples: int, reports: int) -> list[int]:
        """The samples seen at which generations end, before the budget does: those of the reports then due."""
        return _generations(self.interval, samples, reports)


def _generations(interval: float, samples: int, reports: int) -> list[int]:
    shares = (count * interval for count in range(1, math.ceil(1 / interval)))
    due = {math.ceil(share * reports - ROUNDING) for share in shares}
    return [math.ceil(samples * report / reports) for report in sorted(due - {reports})]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoScheduler:
    """Every trial gets its whole budget, unless it collapses."""


CYCLE = 1000  # trial numbers after which Hyperband's brackets are dealt out anew
ROUNDING = 1e-9
Scheduler = Asha | Hyperband | Median | Pbt | Pb2 | NoScheduler
SCHEDULERS: dict[str, type[Asha | Hyperband | Median | Pbt | Pb2 | NoScheduler]] = {
    "asha": Asha,
    "hyperband": Hyperband,
    "median": Median,
    "pbt": Pbt,
    "pb2": Pb2,
    "none": NoScheduler,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """How configurations are proposed and early stops decided. `auto` picks a sampler by the space and the budget.

    A trial whose worker dies is tried `retries` times more, from its checkpoint.
    """

    sampler: Literal["tpe", "gp", "cmaes", "nsgaii", "nsgaiii", "qmc", "random", "grid", "auto"] = "tpe"
    scheduler: Scheduler = field(default_factory=Asha)
    seed: Annotated[int, Bounds(low=0, high=2**62)] = 0
    retries: Annotated[int, Bounds(low=0, high=100)] = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmConfig:
    """How many finalists are trained again after a search, and with how many fresh seeds each; 0 finalists is off."""

    top: Annotated[int, Bounds(low=0, high=100)] = 0
    seeds: Annotated[int, Bounds(low=2, high=100)] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepConfig:
    """Whose best weights stay: those of the `top` survivors; and the worst go where checkpoints pass `gb` gigabytes.

    The best trial, the baseline, the front of several objectives and finalists with their repeats keep theirs always.
    """

    top: Count | Literal["all"] = "all"
    gb: Positive | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourcesConfig:
    """What one trial occupies; fractions share. Left out, a trial takes one GPU where there are any.

    `cpus_per_trial` is also its count of threads; `auto` times a few configurations, and takes the count that gets most
    out of the machine. `gpus_per_trial` auto measures the memory of a few, and has as many trials share a GPU as fit;
    of 2 or more each is a process's own, and they share every batch. `accelerator_type` is a GPU's name as Ray has it,
    as A100 or T4, where a cluster has several; nothing takes any.
    """

    cpus_per_trial: Positive | Literal["auto"] = 1.0
    gpus_per_trial: Weight | Literal["auto"] | None = None
    accelerator_type: str | None = None


# The parameters of a space: components with the kind of plugin that each takes, and plain values.
COMPONENTS = {
    "architecture": "architecture",
    "loss": "loss",
    "penalty": "penalty",
    "regularizer": "regularizer",
    "augmentation": "augmentation",
    "optimizer": "optimizer",
    "optimizer_d": "optimizer",
    "lr_schedule": "schedule",
    "beta_schedule": "schedule",
    "penalty_schedule": "schedule",
}
# What decides the shapes of the weights, or whether state is kept beside them; such parameters cannot change while a
# trial trains. (RMSprop keeps a buffer only where its momentum is above 0.) All others are values.
STRUCTURE = ("architecture", "optimizer.rmsprop.momentum", "optimizer_d.rmsprop.momentum")
VALUES = ("lr_g", "lr_d_ratio", "lr_warmup", "grad_clip", "batch_size", "ema_halflife_samples", "precision")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialConfig:
    """Everything that decides a trial's numbers. Equal configurations give equal results on one machine.

    `samples` is the budget in real samples seen by the discriminator. `optimizer_d` is None where both networks share
    `optimizer`. `lr_d_ratio` is the discriminator's learning rate over the generator's. `lr_warmup` is the share of
    the budget over which both rates rise from 0. `grad_clip` bounds the norm of each network's gradient; 0 is off.
    `precision` auto is bfloat16 on a GPU that has it; penalties and weights are float32 at all times.
    """

    data: DataConfig
    objective: ObjectiveConfig
    collapse: CollapseConfig
    samples: int
    target: float | None
    seed: int
    architecture: Component
    loss: Component
    penalty: Component = NONE
    regularizer: Component = NONE
    augmentation: Component = NONE
    optimizer: Component
    optimizer_d: Component | None = None
    lr_schedule: Component = CONSTANT
    beta_schedule: Component = CONSTANT
    penalty_schedule: Component = CONSTANT
    lr_g: Annotated[float, Bounds(above=0), Works("log 1e-4..1e-3")]
    lr_d_ratio: Annotated[float, Bounds(above=0), Works("log 0.25..8")] = 1.0
    lr_warmup: Annotated[float, Bounds(low=0, high=0.5), Works("[0, 0.05]")] = 0.0
    grad_clip: Annotated[float, Bounds(low=0), Works("[0, 1, 10]")] = 0.0
    batch_size: Annotated[int, Bounds(low=2), Works("[32, 64, 128, 256]")] = 64
    ema_halflife_samples: Annotated[int, Bounds(low=0), Works("[0, 2000, 20000]")] = 2000
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @property
    def lr_d(self) -> float:
        """The discriminator's learning rate."""
        return self.lr_g * self.lr_d_ratio

    def parameters(self) -> dict[str, Scalar]:
        """The values a search may choose, by full path (`loss.wgan_gp.gp_weight`)."""
        flat: dict[str, Scalar] = {}
        for kind in COMPONENTS:
            component: Component | None = getattr(self, kind)
            if component is None:
                continue
            flat[kind] = component.name
            flat.update({f"{kind}.{component.name}.{key}": value for key, value in component.options})
        for name in VALUES:
            flat[name] = getattr(self, name)
        return flat


def derive_seed(seed: int, *purpose: int | str) -> int:
    """A seed below 2**62 for one purpose, the same on every machine and unrelated to its siblings."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2
