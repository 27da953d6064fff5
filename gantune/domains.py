"""What a parameter may be: a constant, a choice, a range, or branches with parameters of their own."""

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gantune import plugins
from gantune.config import Component, Scalar, derive_seed
from gantune.document import Node, Problems
from gantune.errors import PluginError
from gantune.plugins import Option, did_you_mean, shown

NUMBER = r"[-+]?(?:\d[\d_]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"((?:(?:log|int)\s+)*)({NUMBER})\s*\.\.\s*({NUMBER})")


@dataclass(frozen=True, slots=True)
class Constant:
    """Always this value."""

    value: Scalar

    def __str__(self) -> str:
        return shown(self.value)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these values."""

    values: tuple[Scalar, ...]

    def __str__(self) -> str:
        return "[" + ", ".join(map(shown, self.values)) + "]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """A number in [low, high], evenly spread on a plain or logarithmic scale."""

    low: float
    high: float
    log: bool
    integer: bool

    def __str__(self) -> str:
        words = ["log"] * self.log + ["int"] * self.integer
        return " ".join([*words, f"{self.low:g}..{self.high:g}"])


@dataclass(frozen=True, slots=True)
class Branch:
    """One of several components, each with parameters that exist only where it is chosen."""

    options: Mapping[str, "Mapping[str, Domain]"]

    def __str__(self) -> str:
        return " | ".join(self.options)


Domain = Constant | Choice | Uniform | Branch


class Draw(Protocol):
    """Where values come from: an Optuna trial has these methods, and so has FixedDraw."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number in [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""


@dataclass(frozen=True, slots=True)
class FixedDraw:
    """Draws values that are already known, by full path. Raises KeyError with the path of a missing one."""

    values: Mapping[str, Any]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """The known number."""
        return float(self.values[name])

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """The known whole number."""
        return int(self.values[name])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The known choice."""
        return self.values[name]


class RandomDraw:
    """Draws every value at random from a seed, each name from a stream of its own."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in [low, high], evenly spread on a plain or logarithmic scale."""
        share = self._stream(name).random()
        value = math.exp(math.log(low) + share * math.log(high / low)) if log else low + share * (high - low)
        return min(high, max(low, value))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number in [low, high]."""
        return round(self.suggest_float(name, low, high, log=True)) if log else self._stream(name).randint(low, high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        return self._stream(name).choice(choices)

    def _stream(self, name: str) -> random.Random:
        return random.Random(derive_seed(self._seed, name))


def draw_value(domain: Constant | Choice | Uniform, path: str, draw: Draw) -> Scalar:
    """One value of a plain domain; constants are not asked for."""
    if isinstance(domain, Constant):
        return domain.value
    if isinstance(domain, Choice):
        value: Scalar = draw.suggest_categorical(path, domain.values)
        return value
    if domain.integer:
        return draw.suggest_int(path, int(domain.low), int(domain.high), log=domain.log)
    return draw.suggest_float(path, domain.low, domain.high, log=domain.log)


def contains(domain: Domain, value: Scalar) -> bool:
    """Whether a value lies in a domain."""
    if isinstance(domain, Constant):
        return domain.value == value
    if isinstance(domain, Choice):
        return value in domain.values
    if isinstance(domain, Branch):
        return value in domain.options
    if not isinstance(value, int | float) or (domain.integer and not float(value).is_integer()):
        return False
    return domain.low <= value <= domain.high


def overlap(one: Uniform, other: Domain) -> bool:
    """Whether any value lies in a range and in a domain."""
    if isinstance(other, Uniform):
        low, high = max(one.low, other.low), min(one.high, other.high)
        return math.ceil(low) <= math.floor(high) if one.integer or other.integer else low <= high
    values = other.values if isinstance(other, Choice) else (other.value,) if isinstance(other, Constant) else ()
    return any(contains(one, value) for value in values)


def searched(parameters: Mapping[str, Domain], prefix: str = "") -> Iterator[tuple[str, Domain]]:
    """Every parameter that is open, by full path, a branch before its own parameters."""
    for name, domain in parameters.items():
        path = f"{prefix}{name}"
        if isinstance(domain, Branch):
            if len(domain.options) > 1:
                yield path, domain
            for option, inner in domain.options.items():
                yield from searched(inner, f"{path}.{option}.")
        elif not isinstance(domain, Constant):
            yield path, domain


def read_branch(node: Node, kind: str, problems: Problems) -> Branch | None:
    """Components of one kind: a name, a list of names, `{name: {...}}`, or `choose: {name: {...}, ...}`."""
    blocks: dict[str, Node] = {}
    if isinstance(node.value, str):
        blocks[node.value] = Node({}, node.place, node.place)
    elif isinstance(node.value, list):
        for item in node.value:
            if isinstance(item.value, str) and item.value in blocks:
                problems.add(item.place, f"`{item.value}` is given twice", "keep one of them")
            elif isinstance(item.value, str):
                blocks[item.value] = Node({}, item.place, item.place)
            else:
                problems.add(item.place, f"expected the name of a known {kind}", "options need `choose:`")
    elif "choose" in node.entries and len(node.entries) == 1:
        chosen = node.entries["choose"]
        if isinstance(chosen.value, list):
            return read_branch(chosen, kind, problems)
        blocks = chosen.entries
    elif len(node.entries) == 1:
        blocks = node.entries
    elif node.entries:
        problems.add(node.place, f"several {kind} blocks without `choose:`", "write `choose:` above them")
        return None
    if not blocks:
        problems.add(node.place, f"expected a {kind}", f"known: {', '.join(plugins.names(kind))}")
        return None
    options = {name: _read_block(kind, name, block, problems) for name, block in blocks.items()}
    return Branch({name: block for name, block in options.items() if block is not None})


def read_component(node: Node, kind: str, problems: Problems) -> Component | None:
    """One component whose options are constants; None where a problem was noted."""
    before = len(problems.found)
    branch = read_branch(node, kind, problems)
    if branch is None or len(problems.found) > before:
        return None
    options = next(iter(branch.options.values()))
    constants = {key: domain.value for key, domain in options.items() if isinstance(domain, Constant)}
    if len(branch.options) > 1 or len(constants) < len(options):
        problems.add(
            node.place, f"`{kind}` must be one component, and its options constants", "only `space:` has choices"
        )
        return None
    return Component(name=next(iter(branch.options)), options=tuple(sorted(constants.items())))


def _read_block(kind: str, name: str, block: Node, problems: Problems) -> dict[str, Domain] | None:
    try:
        declared = plugins.options(plugins.resolve(kind, name))
    except PluginError as error:
        message, _, fix = str(error).partition("; ")
        problems.add(block.key or block.place, message, fix)
        return None
    if block.value is not None and not isinstance(block.value, dict):
        problems.add(block.place, f"expected the options of {kind} `{name}`", "for example {} for none")
        return None
    return read_parameters(block, declared, f"{kind}.{name}", problems)


def read_parameters(block: Node, declared: Mapping[str, Option], where: str, problems: Problems) -> dict[str, Domain]:
    """The domains of a block's parameters; an option that is not given is a constant at its default."""
    for name, child in block.entries.items():
        if name not in declared:
            fix = did_you_mean(name, declared).removeprefix("; ") or "it takes no options"
            problems.add(child.key or child.place, f"unknown parameter `{name}` in {where}", fix)
    domains: dict[str, Domain] = {}
    for name, option in declared.items():
        if name in block.entries:
            domain = read_domain(block.entries[name], option, problems)
            if domain is not None:
                domains[name] = domain
        elif option.required:
            problems.add(block.key or block.place, f"{where} needs `{name}`", f"add {name}: {option.expected()}")
        else:
            domains[name] = Constant(option.default)
    return domains


def read_domain(node: Node, option: Option, problems: Problems) -> Constant | Choice | Uniform | None:
    """One parameter's domain, every value checked against the option."""
    if isinstance(node.value, dict):
        problems.add(node.place, f"`{option.name}` is not a component", f"expected {option.expected()}")
        return None
    if isinstance(node.value, list):
        return _read_choice(node, node.value, option, problems)
    if isinstance(node.value, str) and option.numeric:
        return _read_range(node, node.value, option, problems)
    try:
        return Constant(option.convert(node.value))
    except ValueError as error:
        problems.add(node.place, f"`{option.name}`: {error}")
        return None


def _read_choice(node: Node, items: list[Node], option: Option, problems: Problems) -> Choice | Constant | None:
    values: list[Scalar] = []
    for item in items:
        if isinstance(item.value, dict | list):
            problems.add(item.place, f"`{option.name}`: a choice must be a plain value")
            continue
        try:
            value = option.convert(item.value)
        except ValueError as error:
            problems.add(item.place, f"`{option.name}`: {error}")
            continue
        if value in values:
            problems.add(item.place, f"`{option.name}`: `{shown(value)}` is given twice", "keep one of them")
        values.append(value)
    if not items:
        problems.add(node.place, f"`{option.name}` has no choices", f"expected {option.expected()}")
    if not values:
        return None
    return Choice(tuple(values)) if len(values) > 1 else Constant(values[0])


def _read_range(node: Node, text: str, option: Option, problems: Problems) -> Uniform | None:
    found = RANGE.fullmatch(text.strip())
    example = "int 2..4" if option.kind is int else "log 1e-5..1e-2"
    try:
        if found is None:
            raise ValueError
        words, low, high = found[1].split(), float(found[2]), float(found[3])
        if len(set(words)) < len(words) or not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError
    except ValueError:
        fix = f"or a range such as `{example}`"
        problems.add(node.place, f"`{option.name}`: expected {option.expected()}, got `{text}`", fix)
        return None
    integer = "int" in words or option.kind is int
    complaint = ""
    if low >= high:
        complaint = f"the range is empty: {low:g} is not below {high:g}"
    elif "log" in words and low <= 0:
        complaint = f"a log range must start above 0, got {low:g}"
    elif integer and not (low.is_integer() and high.is_integer()):
        complaint = f"a range of whole numbers needs whole ends, got {low:g}..{high:g}"
    else:
        for end in (low, high):
            try:
                option.convert(int(end) if option.kind is int else end)
            except ValueError as error:
                complaint = str(error)
    if complaint:
        problems.add(node.place, f"`{option.name}`: {complaint}")
        return None
    return Uniform(low=low, high=high, log="log" in words, integer=integer)
