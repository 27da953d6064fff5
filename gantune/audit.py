"""Proof that every parameter of a configuration is read and in force.

A search over a parameter that nothing reads looks like any other and wastes its whole budget, so the question is
settled by trying: before the first trial every parameter is changed on its own, and what is then built, or what a few
steps on noise make of it, must differ. And whenever a trial is set up or restored, its rates, weights and steps are
compared with its configuration.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from gantune import plugins
from gantune.building import build_component, build_schedule
from gantune.compatibility import components
from gantune.config import COMPONENTS, VALUES, Component, Scalar, TrialConfig, derive_seed
from gantune.data.data_set import Batch
from gantune.domains import Branch, Choice, Domain, FixedDraw, RandomDraw, Uniform
from gantune.errors import AuditError
from gantune.losses import Game
from gantune.models.networks import Shape
from gantune.plugins import Option
from gantune.space import SearchSpace
from gantune.trainer import SCHEDULES, GANTrainer

DRAWS = 2000  # at random, until every parameter has shown its effect
TRIES = 3  # changes that a parameter gets before it is called dead
BATCH = 4  # samples of noise a step
POINTS = (0.0, 0.5, 0.99)  # of the budget at which a step is taken
SHARES = tuple(index / 20 for index in range(21))  # of the budget at which schedules are compared
ROUNDING = 1e-9


def audit_space(space: SearchSpace, shape: Shape) -> list[str]:
    """The parameters that were proved to have an effect, by full path: all that are open or differ from a default.

    Raises AuditError with every parameter that changes nothing or cannot occur, PluginError where a configuration
    cannot be built.
    """
    domains = {path: domain for path, domain in space.searched().items() if not isinstance(domain, Branch)}
    proved: set[str] = set()
    tries: Counter[str] = Counter()
    for config in _configurations(space):
        small = dataclasses.replace(config, batch_size=BATCH)
        before: Fingerprint | None = None
        for path, value in config.parameters().items():
            if path in proved or tries[path] >= TRIES or path in COMPONENTS:
                continue
            for other in _others(config, path, value, domains.get(path)):
                if space.conflict(_changed(config, path, other)) is None:
                    before = before or Fingerprint(small, shape)
                    tries[path] += 1
                    if before.differs(Fingerprint(_changed(small, path, other), shape)):
                        proved.add(path)
                        break
        if all(path in proved or tries[path] >= TRIES for path in {*domains, *tries}):
            break
    dead = [f"{path}: changes nothing" for path in tries if path not in proved]
    dead += [
        f"{path}: occurs in no two valid configurations that differ in it alone" for path in domains if not tries[path]
    ]
    if dead:
        raise AuditError(
            "\n".join([f"{space.name}: parameters without effect:", *(f"  {line}" for line in dead)])
            + "\nTake them out of the space, or mend the component that should read them. Nothing was started."
        )
    return sorted(proved)


def check_in_force(trainer: GANTrainer) -> None:
    """Compare what a trainer steps by with its configuration. Raises AuditError where they differ."""
    config, factors = trainer.config, trainer.factors()
    complaints = []
    for parameter, rates, lr in (
        ("optimizer", trainer.rates_g, config.lr_g),
        ("optimizer_d" if config.optimizer_d else "optimizer", trainer.rates_d, config.lr_d),
    ):
        component: Component = getattr(config, parameter)
        numbers = {name: value for name, value in component.options if isinstance(value, int | float)}
        due = rates.due({"lr": lr, **numbers}, factors["lr"], factors["beta"])
        groups = rates.in_force()
        if not any(_close(group["lr"], due["lr"]) for group in groups):
            complaints.append(f"the learning rate of {parameter} is {groups[0]['lr']:g} instead of {due['lr']:g}")
        for name in numbers:
            complaints += [
                f"{parameter}.{component.name}.{name} is {group[name]:g} instead of {due[name]:g}"
                for group in groups
                if name in group and not _close(group[name], due[name])
            ]
    for parameter, built in trainer.components().items():
        component = getattr(config, parameter)
        complaints += [
            f"{parameter}.{component.name}.{name} is {getattr(built, name)} instead of {value}"
            for name, value in component.options
            if hasattr(built, name) and not _close(getattr(built, name), value)
        ]
    game: Game = build_component("loss", config.loss, Game)
    for name in SCHEDULES:
        schedule = build_schedule(getattr(config, f"{name}_schedule"))
        if any(not _close(trainer.schedules[name](share), schedule(share)) for share in SHARES):
            complaints.append(f"{name}_schedule is not {getattr(config, f'{name}_schedule')}")
    if repr(trainer.game.penalty) != repr(game.penalty):
        complaints.append(f"the penalty of loss.{config.loss.name} is {trainer.game.penalty} instead of {game.penalty}")
    if complaints:
        raise AuditError("not in force: " + "; ".join(complaints))


class Fingerprint:
    """What a configuration builds, and what a few steps on noise make of it."""

    def __init__(self, config: TrialConfig, shape: Shape) -> None:
        self._config = config
        self._shape = shape
        self._trainer = GANTrainer(config, shape, torch.device("cpu"))
        self._built = self._describe()
        self._stepped: list[dict[str, torch.Tensor]] = []

    def differs(self, other: "Fingerprint") -> bool:
        """Whether anything differs; steps are taken only where what is built is the same."""
        if self._built != other._built:
            return True
        return any(_unequal(one, two) for one, two in zip(self._steps(), other._steps(), strict=True))

    def _describe(self) -> dict[str, Any]:
        trainer, config = self._trainer, self._config
        networks = (trainer.generator, trainer.discriminator)
        return {
            "networks": [repr(network) for network in networks],
            "weights": [{name: tuple(value.shape) for name, value in net.state_dict().items()} for net in networks],
            "rates": [trainer.rates_g.in_force(), trainer.rates_d.in_force()],
            "game": [trainer.game.d_steps, trainer.game.clip, trainer.game.paired, trainer.game.shift_invariant],
            "terms": {name: repr(term) for name, term in trainer.terms.items()},
            "augmentation": repr(trainer.augmentation),
            "schedules": [[trainer.schedules[name](share) for share in SHARES] for name in SCHEDULES],
            "read by every step": [config.grad_clip, config.precision, config.batch_size],
        }

    def _steps(self) -> Iterator[dict[str, torch.Tensor]]:
        for index, point in enumerate(POINTS):
            if index == len(self._stepped):
                self._trainer.samples_seen = int(point * self._config.samples)
                with torch.random.fork_rng(devices=[]):  # a user's network may draw, as dropout does
                    torch.default_generator.manual_seed(derive_seed(0, "audit", "global", index))
                    self._trainer.step(noise(self._shape, derive_seed(0, "audit", index)))
                self._stepped.append(self._trainer.state())
            yield self._stepped[index]


def noise(shape: Shape, seed: int) -> Callable[[int], Batch]:
    """Draws batches of uniform noise, with labels where the shape has classes."""
    draws = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Batch:
        samples = torch.rand(count, *shape.dims, generator=draws) * 2 - 1
        return Batch(samples, torch.randint(shape.classes, (count,), generator=draws) if shape.classes else None)

    return draw


def _configurations(space: SearchSpace) -> Iterator[TrialConfig]:
    """The configurations that the space gives, and random draws whose parts go together."""
    for values in space.given():
        yield space.draw(FixedDraw(values), seed=0)
    for number in range(DRAWS):
        config = space.draw(RandomDraw(derive_seed(space.search.seed, "audit", number)), seed=0)
        if space.conflict(config) is None:
            yield config


def _others(config: TrialConfig, path: str, value: Scalar, domain: Domain | None) -> Iterator[Scalar]:
    """Other values that a parameter might have: of its domain, or of its option where it is fixed off its default."""
    if isinstance(domain, Choice):
        yield from (other for other in domain.values if other != value)
    elif isinstance(domain, Uniform):
        ends = [int(end) if domain.integer else end for end in (domain.low, domain.high)]
        yield from (end for end in ends if end != value)
    else:
        option = _option(config, path)
        if option.required or option.default == value:
            return
        yield option.default


def _option(config: TrialConfig, path: str) -> Option:
    parameter, _, rest = path.partition(".")
    if not rest:
        return plugins.options(TrialConfig)[path]
    name, _, option = rest.rpartition(".")
    return plugins.options(plugins.resolve(COMPONENTS[parameter], name))[option]


def _changed(config: TrialConfig, path: str, value: Scalar) -> TrialConfig:
    if path in VALUES:
        return dataclasses.replace(config, **{path: value})  # type: ignore[arg-type]
    parameter, _, rest = path.partition(".")
    component = dict(components(config))[parameter]
    options = {**dict(component.options), rest.rpartition(".")[2]: value}
    return dataclasses.replace(
        config,
        **{parameter: Component(name=component.name, options=tuple(sorted(options.items())))},  # type: ignore[arg-type]
    )


def _unequal(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> bool:
    """Whether any tensor was added, taken away or changed; what is not finite on both sides is equal."""
    return one.keys() != two.keys() or any(
        one[name].shape != two[name].shape or not torch.allclose(one[name], two[name], rtol=0, atol=0, equal_nan=True)
        for name in one
    )


def _close(found: Any, wanted: Any) -> bool:
    if isinstance(found, float) and isinstance(wanted, int | float):
        return abs(found - wanted) <= ROUNDING * max(1e-12, abs(wanted))
    return bool(found == wanted)
