"""What does not go together, declared once beside each component, for the checker, the sampler and the catalogue.

    @refuses({"architecture.norm_d": "batch"}, why="batch norm mixes samples", fix="use norm_d: layer")
    class GradientPenalty(Penalty): ...

The keys of a rule are options of the component itself (`clip`), parameters (`penalty`, by the component's name),
options of whatever component a parameter holds (`architecture.norm_d`), or `data.dataset`. A rule refuses a
configuration in which all its conditions hold; an option that a component does not have meets no condition.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from gantune import plugins
from gantune.config import COMPONENTS, VALUES, Component, Scalar, TrialConfig
from gantune.errors import PluginError, SpecError
from gantune.plugins import shown

Declared = TypeVar("Declared", bound=Callable[..., Any])
ATTRIBUTE = "__gantune_refuses__"


@dataclass(frozen=True, slots=True)
class Above:
    """A number greater than `low`."""

    low: float

    def holds(self, value: Scalar) -> bool:
        """Whether the value is such a number."""
        return isinstance(value, int | float) and not isinstance(value, bool) and value > self.low

    def __str__(self) -> str:
        return f"above {self.low:g}"


@dataclass(frozen=True, slots=True)
class Not:
    """Any value but this one."""

    value: Scalar

    def holds(self, value: Scalar) -> bool:
        """Whether the value is another one."""
        return value != self.value

    def __str__(self) -> str:
        return f"not {shown(self.value)}"


@dataclass(frozen=True, slots=True, init=False)
class OneOf:
    """One of these values."""

    values: tuple[Scalar, ...]

    def __init__(self, *values: Scalar) -> None:
        object.__setattr__(self, "values", values)

    def holds(self, value: Scalar) -> bool:
        """Whether the value is one of them."""
        return value in self.values

    def __str__(self) -> str:
        return " or ".join(map(shown, self.values))


Condition = Scalar | Above | Not | OneOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A component is refused where all conditions hold, and why, and what would help."""

    where: Mapping[str, Condition]
    why: str
    fix: str

    def __str__(self) -> str:
        conditions = " and ".join(f"{path}: {shown(condition)}" for path, condition in self.where.items())
        return f"refuses {conditions}: {self.why}; {self.fix}"


def refuses(where: Mapping[str, Condition], *, why: str, fix: str) -> Callable[[Declared], Declared]:
    """Declare, beside a component, what it does not go with."""

    def declare(factory: Declared) -> Declared:
        setattr(factory, ATTRIBUTE, (Rule(where=where, why=why, fix=fix), *rules(factory)))
        return factory

    return declare


def rules(factory: Callable[..., Any]) -> tuple[Rule, ...]:
    """What a component declares, in the order of its declarations."""
    found: tuple[Rule, ...] = getattr(factory, ATTRIBUTE, ())
    return found


def conflict(config: TrialConfig) -> str | None:
    """Why the parts of a configuration do not go together, or None where they do."""
    for parameter, component in components(config):
        factory = plugins.resolve(COMPONENTS[parameter], component.name)
        for rule in rules(factory):
            facts = [_fact(config, parameter, component, path) for path in rule.where]
            if all(
                fact is not None and _holds(condition, fact[1])
                for fact, condition in zip(facts, rule.where.values(), strict=True)
            ):
                named = " and ".join(f"{name}: {shown(value)}" for name, value in filter(None, facts))
                return f"{parameter}.{component.name} does not go with {named}: {rule.why}; {rule.fix}"
    return None


def check_trial(config: TrialConfig) -> None:
    """Raise SpecError where the parts of a configuration do not go together."""
    reason = conflict(config)
    if reason:
        raise SpecError(f"{reason}. Nothing was started.")


def components(config: TrialConfig) -> Iterator[tuple[str, Component]]:
    """The parameters that hold a component, with it."""
    for parameter in COMPONENTS:
        component: Component | None = getattr(config, parameter)
        if component is not None:
            yield parameter, component


def _fact(config: TrialConfig, parameter: str, own: Component, path: str) -> tuple[str, Scalar] | None:
    """The full name and the value in force of what a condition speaks of; None where there is no such option."""
    if path == "data.dataset":
        return path, config.data.dataset
    held = dict(components(config))
    head, _, option = path.partition(".")
    if not option and head in held:
        return head, held[head].name
    if not option and head in VALUES:
        return head, getattr(config, head)
    if option and head not in COMPONENTS:
        raise PluginError(f"{parameter} `{own.name}` refuses `{path}`, and `{head}` holds no component")
    if option and head not in held:
        return None
    if option:
        parameter, own = head, held[head]
    else:
        option = head
    declared = plugins.options(plugins.resolve(COMPONENTS[parameter], own.name)).get(option)
    if declared is None and path == option:
        raise PluginError(f"{parameter} `{own.name}` refuses `{path}`, and has no such option")
    if declared is None:
        return None
    given = own.option(option)
    value = declared.default if given is None and not declared.required else given
    return f"{parameter}.{own.name}.{option}", value


def _holds(condition: Condition, value: Scalar) -> bool:
    if isinstance(condition, Above | Not | OneOf):
        return condition.holds(value)
    return condition == value and isinstance(condition, bool) == isinstance(value, bool)
