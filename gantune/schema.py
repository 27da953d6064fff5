"""The search-space language as JSON Schema, for editors: completion, descriptions, and mistakes while one types.

Made from what the reader itself reads by: the sections' dataclasses, the components' signatures, the patterns of
ranges and constraints. It accepts whatever the reader accepts. It cannot tell what takes two values to see (an empty
range, parts that do not go together, a baseline outside its space); `gantune check` can.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

from ruamel.yaml import YAML

from gantune import plugins
from gantune.config import (
    COMPONENTS,
    SCHEDULERS,
    VALUES,
    Component,
    Constraint,
    ObjectiveConfig,
    Scheduler,
    TrialConfig,
)
from gantune.domains import RANGE
from gantune.errors import PluginError
from gantune.plugins import Option
from gantune.sections import CONSTRAINT, CONSTRAINT_METRICS, OBJECTIVES, settings
from gantune.space import KNOWN, NAME, SECTIONS

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NUMBERS = {int: "integer", float: "number", str: "string", bool: "boolean"}
OWN = {":": {"type": ["object", "null"]}}  # `package.module:name`, whose options are not known here
KINDS = [kind for kind in plugins.BUILTIN if kind not in ("dataset", "metric")]  # named as text, as files are
OWN_METRIC = r"[\w.]+:[\w.]+"  # a metric of somebody's own


def schema() -> Schema:
    """The schema of a space file."""
    declared = plugins.options(TrialConfig)
    needed = [key for key in (*COMPONENTS, *VALUES) if declared[key].required]
    parts: Schema = {key: {} for key in KNOWN}  # what is known by name alone may hold anything
    parts |= {key: _section(section) for key, section in SECTIONS.items()}
    parts["version"] = {"const": 1, "description": "The version of the language."}
    parts["name"] = {
        "type": "string",
        "pattern": rf"^{NAME.pattern}$",
        "description": "The run's name, a folder below runs/.",
    }
    parts["data"]["properties"]["dataset"]["examples"] = plugins.names("dataset")
    parts["space"] = _parameters(declared, fixed=False) | {
        "description": "What is searched: a scalar is a constant, a list a choice, `lo..hi` a range.",
    }
    for each in parts["space"]["properties"], (fixed := _parameters(declared, fixed=True))["properties"]:
        each.update({key: _droppable(part) for key, part in each.items()})
    parts["baseline"] = fixed | {
        "description": "Trial 0: one value for every open parameter of the branches that it takes.",
        "type": ["object", "null"],
    }
    parts["first"] = {
        "description": "Configurations that are tried after the baseline and before any that is drawn.",
        **_list(fixed),
    }
    rule = {**_block({"forbid": {"type": "object"}, "why": {"type": "string"}}), "required": ["forbid", "why"]}
    parts["rules"] = {"description": "Combinations that are not to be drawn, each with its reason.", **_list(rule)}
    definitions: Schema = {"range": _text(RANGE.pattern)}
    for kind in KINDS:
        definitions |= _definitions(kind, fixed=False) | _definitions(kind, fixed=True)
    parts["extends"] = {"type": "string", "description": "A space file that this one is laid over."}
    alone = {"required": ["version", "space"], "properties": {"space": {"required": needed}}}
    whole = {"$schema": DIALECT, "title": "gantune search space", **_block(parts)}
    whole |= {"if": {"not": {"required": ["extends"]}}, "then": alone}
    return {**whole, "$defs": definitions}


def _named(kind: str, name: str = "", *, fixed: bool) -> str:
    """The name of a definition; where `fixed`, of the one in which everything is constant."""
    return kind + f".{name}" * bool(name) + "-fixed" * fixed


def _reference(definition: str) -> Schema:
    return {"$ref": f"#/$defs/{definition}"}


def _block(properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _droppable(part: Schema) -> Schema:
    """A part, or null, which takes away what an extended file has."""
    told: Schema = {key: part[key] for key in ("description", "default", "examples") if key in part}
    return {**told, "anyOf": [part, {"type": "null"}]}


def _list(of: Schema) -> Schema:
    return {"type": ["array", "null"], "items": of}


def _parameters(declared: Mapping[str, Option], *, fixed: bool) -> Schema:
    """A block of parameters, each a component or a plain value."""
    told = _sentences(TrialConfig)
    found = {key: _reference(_named(kind, fixed=fixed)) for key, kind in COMPONENTS.items()}
    return _block(found | {key: _parameter(declared[key], told, fixed=fixed) for key in VALUES})


def _section(section: type[Any]) -> Schema:
    told = _sentences(section)
    found = {key: _setting(option, told) for key, option in settings(section).items()}
    if section is ObjectiveConfig:
        found["metric"] = _objectives(found["metric"])
    return {"description": inspect.getdoc(section) or "", **_block(found)}


def _setting(option: Option, told: Mapping[str, str]) -> Schema:
    """One setting of a section, by the same cases as its reader."""
    if option.annotation == Scheduler:
        blocks = {name: _or_nothing(_section(section)) for name, section in SCHEDULERS.items()}
        return {"anyOf": [{"enum": list(SCHEDULERS)}, _one_of(blocks)]}
    if option.kind is Component:
        return _reference(_named(option.name, fixed=True))
    if option.annotation == tuple[Constraint, ...]:
        return _constraints()
    if option.annotation == tuple[str, ...]:
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    if is_dataclass(option.kind):
        return _section(option.kind)
    if option.kind not in NUMBERS:
        return {}
    return _described(option, told) | _constant(option)


def _objectives(score: Schema) -> Schema:
    """The score alone, or a list of objectives that begins with it."""
    words: Schema = {key: score[key] for key in ("description", "default")}
    one: Schema = {"enum": score["enum"]}
    known = [*OBJECTIVES, *plugins.names("metric")]
    further = {"anyOf": [{"enum": known}, {"type": "string", "pattern": f"^{OWN_METRIC}$"}]}
    several = {"prefixItems": [one], "items": further, "minItems": 1, "uniqueItems": True}
    return {**words, "anyOf": [one, {"type": "array", **several}], "examples": [["fid", "seconds_per_image"]]}


def _constraints() -> Schema:
    one = {
        "allOf": [
            _text(CONSTRAINT.pattern),
            {"pattern": rf"^\s*(?:{'|'.join([*CONSTRAINT_METRICS, *plugins.names('metric'), OWN_METRIC])})(?![\w.:])"},
        ],
        "examples": ["recall >= 0.3"],
    }
    return {
        "description": "What a report must meet before its weights may win.",
        "anyOf": [one, {"type": "array", "items": one}],
    }


def _definitions(kind: str, *, fixed: bool) -> Schema:
    """A component of a kind, and the options of each by name.

    A component is a name, a list of names, `{name: {...}}`, or `choose: {name: {...}, ...}`; where `fixed`, just one.
    """
    found: Schema = {}
    blocks: dict[str, Schema] = {}
    bare: list[str] = []  # those that need no options
    for name in plugins.names(kind):
        try:
            factory = plugins.resolve(kind, name)
            declared = plugins.options(factory)
        except PluginError:  # of an installed package; `gantune check` says what is wrong with it
            continue
        told = _sentences(factory)
        block = _block({key: _parameter(option, told, fixed=fixed) for key, option in declared.items()})
        block["description"] = inspect.getdoc(factory) or ""
        block["required"] = [key for key, option in declared.items() if option.required]
        if not block["required"]:
            block["type"] = ["object", "null"]
            bare.append(name)
        found[_named(kind, name, fixed=fixed)] = block
        blocks[name] = _reference(_named(kind, name, fixed=fixed))
    names: list[Schema] = [{"enum": bare}, {"type": "string", "pattern": ":"}]
    several: Schema = {"type": "array", "items": {"anyOf": names}, "minItems": 1} | ({"maxItems": 1} if fixed else {})
    chosen = _one_of(blocks) if fixed else _some_of(blocks)
    choose = {**_block({"choose": {"anyOf": [chosen, several]}}), "required": ["choose"]}
    return {_named(kind, fixed=fixed): {"anyOf": [*names, several, _one_of(blocks), choose]}} | found


def _some_of(blocks: Mapping[str, Schema]) -> Schema:
    return {**_block(blocks), "patternProperties": OWN, "minProperties": 1}


def _one_of(blocks: Mapping[str, Schema]) -> Schema:
    return {**_some_of(blocks), "maxProperties": 1}


def _parameter(option: Option, told: Mapping[str, str], *, fixed: bool) -> Schema:
    """A constant, a list of constants, or a range; where `fixed`, one constant."""
    constant = _constant(option)
    several = {"type": "array", "items": constant, "minItems": 1, "uniqueItems": True}
    forms = [constant, {**several, "maxItems": 1} if fixed else several]
    if option.numeric and not fixed:
        forms.append(_reference("range"))
    found = _described(option, told) | {"anyOf": forms}
    if option.works and not fixed:
        found["examples"] = [YAML(typ="safe", pure=True).load(option.works)]
    return found


def _constant(option: Option) -> Schema:
    if option.choices:
        return {"enum": [*option.choices, *([None] if option.optional else [])]}
    bounds = option.bounds
    limits = {"minimum": bounds.low, "maximum": bounds.high, "exclusiveMinimum": bounds.above}
    kind = NUMBERS[option.kind]
    found: Schema = {"type": [kind, "null"] if option.optional else kind}
    found |= {key: value for key, value in limits.items() if value is not None}
    return {"anyOf": [found, {"enum": list(option.words)}]} if option.words else found


def _described(option: Option, told: Mapping[str, str]) -> Schema:
    """What a person reads beside a value, and the default."""
    expected = option.expected()
    words = [told.get(option.name, ""), f"{expected[0].upper()}{expected[1:]}."]
    if option.works:
        words.append(f"Known to work: {option.works}.")
    found: Schema = {"description": " ".join(filter(None, words))}
    return found if option.required else found | {"default": option.default}


def _sentences(declared: Callable[..., Any]) -> Mapping[str, str]:
    """The sentences of a docstring by the names that they speak of in backticks."""
    found: dict[str, list[str]] = {}
    for sentence in re.split(r"(?<=[.;])\s+", " ".join((inspect.getdoc(declared) or "").split())):
        for name in dict.fromkeys(re.findall(r"`(\w+)`", sentence)):
            found.setdefault(name, []).append(sentence)
    return {name: " ".join(sentences) for name, sentences in found.items()}


def _text(pattern: str) -> Schema:
    """Text that matches a pattern of the reader's as a whole, but for spaces around it."""
    return {"type": "string", "pattern": rf"^\s*(?:{pattern})\s*$"}


def _or_nothing(block: Schema) -> Schema:
    return {**block, "type": ["object", "null"]}
