"""Read a section of a space file into the dataclass that is its schema."""

import inspect
import math
import re
import typing
from dataclasses import is_dataclass
from typing import Any, TypeVar

from gantune import plugins
from gantune.config import SCHEDULERS, Component, Constraint, ObjectiveConfig, Scheduler
from gantune.document import Node, Place, Problems
from gantune.domains import read_component
from gantune.errors import PluginError
from gantune.objectives import COSTS, direction_of, is_own
from gantune.plugins import did_you_mean

Section = TypeVar("Section")

CONSTRAINT = re.compile(r"([\w.]+(?::[\w.]+)?)\s*(<=|>=)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)")
CONSTRAINT_METRICS = (
    "precision",
    "recall",
    "density",
    "coverage",
    "diversity",
    "pixel_diversity",
    "rank",
    "memorisation",
    "modes",
)
OBJECTIVES = ("fid", "fid_inf", "kid", *COSTS, *CONSTRAINT_METRICS)  # what every report can measure


def read_section(node: Node | None, schema: type[Section], name: str, problems: Problems) -> Section | None:
    """The section as its dataclass, defaults filled in; None where a problem was noted."""
    if node is None:
        return schema()
    if not isinstance(node.value, dict):
        problems.add(node.place, f"`{name}` must be a block of settings, got {node.got()}")
        return None
    declared = settings(schema)
    before = len(problems.found)
    values: dict[str, Any] = {}
    for key, child in node.entries.items():
        if key not in declared:
            fix = did_you_mean(key, declared).removeprefix("; ")
            problems.add(child.key or child.place, f"unknown setting `{key}` in {name}", fix)
        elif (name, key) == ("objective", "metric") and isinstance(child.value, list):
            values |= _read_objectives(child.value, child.place, declared[key], problems)
        else:
            values[key] = _read_value(child, declared[key], f"{name}.{key}", problems)
    if len(problems.found) > before:
        return None
    missing = [
        key for key, option in declared.items() if option.default is inspect.Parameter.empty and key not in values
    ]
    assert not missing, missing
    return schema(**values)


def settings(schema: type[Any]) -> dict[str, plugins.Option]:
    """The settings of a section by name; further objectives stand in the list of the first."""
    return {
        key: option for key, option in plugins.options(schema).items() if (schema, key) != (ObjectiveConfig, "others")
    }


def _read_objectives(items: list[Node], place: Place, first: plugins.Option, problems: Problems) -> dict[str, Any]:
    """The score and what else is aimed at."""
    found: list[str] = []
    if not items:
        problems.add(place, "`objective.metric`: expected metrics, got an empty list", "for example `fid`")
    for item in items:
        if isinstance(item.value, str) and is_own(item.value) and not _usable(item.value, item.place, problems):
            continue
        if not isinstance(item.value, str) or not (item.value in OBJECTIVES or is_own(item.value)):
            fix = did_you_mean(str(item.value), [*OBJECTIVES, *plugins.names("metric")]).removeprefix("; ")
            problems.add(
                item.place, f"`objective.metric`: expected a metric that reports measure, got {item.got()}", fix
            )
        elif item.value in found:
            problems.add(item.place, f"`objective.metric` has `{item.value}` twice", "name it once")
        elif item is items[0] and item.value not in first.choices:
            what = f"`objective.metric`: the first is the score, {first.expected()}, got `{item.value}`"
            problems.add(item.place, what, f"for example `[fid, {item.value}]`")
        else:
            found.append(item.value)
    return {"metric": found[0], "others": tuple(found[1:])} if found else {}


def _read_value(node: Node, option: plugins.Option, name: str, problems: Problems) -> Any:
    if option.annotation == Scheduler:
        return _read_scheduler(node, problems)
    if option.kind is Component:
        return read_component(node, option.name, problems)
    if option.annotation == tuple[str, ...]:
        return _read_names(node, name, problems)
    if typing.get_origin(option.annotation) is tuple:
        return _read_constraints(node, problems)
    if is_dataclass(option.kind):
        return read_section(node, option.kind, name, problems)
    if isinstance(node.value, dict | list):
        problems.add(node.place, f"`{name}`: expected {option.expected()}", "only `space:` has choices and ranges")
        return None
    try:
        return option.convert(node.value)
    except ValueError as error:
        problems.add(node.place, f"`{name}`: {error}")
        return None


def _read_scheduler(node: Node, problems: Problems) -> Scheduler | None:
    name, block = "", node
    if isinstance(node.value, str):
        name, block = node.value, Node({}, node.place)
    elif len(node.entries) == 1:
        name, block = next(iter(node.entries.items()))
    if name not in SCHEDULERS:
        fix = did_you_mean(name, SCHEDULERS).removeprefix("; ")
        problems.add(block.key or node.place, f"unknown scheduler `{name}`" if name else "expected a scheduler", fix)
        return None
    return read_section(block if block.value is not None else None, SCHEDULERS[name], f"scheduler.{name}", problems)


def _read_names(node: Node, name: str, problems: Problems) -> tuple[str, ...]:
    items = node.value if isinstance(node.value, list) else [node]
    for item in items:
        if not isinstance(item.value, str):
            problems.add(item.place, f"`{name}`: expected the path of a parameter, got {item.got()}")
    return tuple(str(item.value) for item in items)


def _read_constraints(node: Node, problems: Problems) -> tuple[Constraint, ...]:
    items = node.value if isinstance(node.value, list) else [node]
    found = []
    for item in items:
        match = CONSTRAINT.fullmatch(item.value.strip()) if isinstance(item.value, str) else None
        if match is None:
            problems.add(item.place, "expected a constraint", "for example `recall >= 0.3`")
        elif is_own(match[1]):
            if _usable(match[1], item.place, problems):
                found += _constraint(match, item, problems)
        elif match[1] not in CONSTRAINT_METRICS:
            fix = did_you_mean(match[1], [*CONSTRAINT_METRICS, *plugins.names("metric")]).removeprefix("; ")
            problems.add(item.place, f"unknown metric `{match[1]}` in a constraint", fix)
        else:
            found += _constraint(match, item, problems)
    return tuple(found)


def _constraint(match: re.Match[str], item: Node, problems: Problems) -> list[Constraint]:
    try:
        bound = float(match[3])
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        problems.add(item.place, f"`{match[3]}` is not a number")
        return []
    relation = typing.cast(typing.Literal["<=", ">="], match[2])
    return [Constraint(metric=match[1], relation=relation, bound=bound)]


def _usable(metric: str, place: Place, problems: Problems) -> bool:
    """Whether somebody's own metric loads, and says which way is better."""
    try:
        direction_of(metric)
    except PluginError as error:
        message, _, fix = str(error).partition("; ")
        problems.add(place, message, fix)
        return False
    return True
