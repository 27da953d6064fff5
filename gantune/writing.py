"""The language written back: values as plain documents, and documents as YAML text, that read back to equal values."""

import functools
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ruamel.yaml import YAML

from gantune import plugins
from gantune.config import COMPONENTS, SCHEDULERS, VALUES, Component, Scalar, TrialConfig
from gantune.domains import Branch, Choice, Constant, Domain
from gantune.rules import Forbidden

SHORT = 150  # characters, up to which no text is folded


def dump(document: Mapping[str, Any]) -> str:
    """Plain values as YAML text."""
    plain = json.loads(json.dumps(document))
    return "".join(_lines(plain, "")) if plain and _simple(plain) else _by_ruamel(plain)


def _by_ruamel(document: Any) -> str:
    stream = io.StringIO()
    yaml = YAML()
    yaml.width = 200
    yaml.dump(document, stream)
    return stream.getvalue()


def _simple(value: Any) -> bool:
    """Whether it is blocks, lists of scalars, and scalars of one line, as a trial's configuration is.

    A search writes one for every trial, and a YAML library's general machinery takes 13 ms for it.
    """
    if isinstance(value, dict):
        return all(_simple(key) and _simple(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(isinstance(item, str | int | float) and _simple(item) for item in value)
    if isinstance(value, str):
        return len(value) <= SHORT and value.isprintable()
    return not isinstance(value, float) or math.isfinite(value)


def _lines(block: Mapping[str, Any], indent: str) -> Iterator[str]:
    """The lines that the library would write."""
    for key, value in block.items():
        head = f"{indent}{_key(key)}:"
        if isinstance(value, dict) and value:
            yield f"{head}\n"
            yield from _lines(value, f"{indent}  ")
        elif isinstance(value, list) and value:
            yield f"{head}\n"
            yield from (f"{indent}- {_scalar(item)}\n" for item in value)
        else:
            yield f"{head}\n" if value is None else f"{head} {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    return repr(value)


@functools.lru_cache(maxsize=1000)
def _quoted(text: str) -> str:
    """Text in quotes where it would else be read as something else."""
    return _by_ruamel({"": text})[len("'': ") : -1]


@functools.lru_cache(maxsize=1000)
def _key(text: str) -> str:
    return _by_ruamel({text: 0})[: -len(": 0\n")]


def same_trial(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two documents of trials mean the same, wherever their data are and whatever score ends them.

    References tell data apart, and a search may go on beyond its first target.
    """

    def what_counts(document: Mapping[str, Any]) -> dict[str, Any]:
        aside = {"data": {**document["data"], "dataset": None}, "budget": {**document["budget"], "target": None}}
        return {**document, **aside}

    return what_counts(one) == what_counts(other)


def moved(dataset: str) -> list[str]:
    """Return the overrides that read a trial's configuration with its data at another place."""
    return [f"data.dataset={json.dumps(dataset, ensure_ascii=False)}"]


def trial_document(config: TrialConfig) -> dict[str, Any]:
    """A configuration in the language of space files; `load_trial` reads it back to an equal value."""
    space: dict[str, Any] = {}
    for kind in COMPONENTS:
        component = getattr(config, kind)
        if component is not None:
            space[kind] = {component.name: dict(component.options)}
    space.update({name: getattr(config, name) for name in VALUES})
    budget: dict[str, Any] = {"samples_per_trial": config.samples}
    if config.target is not None:
        budget["target"] = config.target
    return {
        "version": 1,
        "data": section_document(config.data),
        "objective": section_document(config.objective),
        "collapse": section_document(config.collapse),
        "budget": budget,
        "search": {"seed": config.seed},
        "space": space,
    }


def section_document(section: Any) -> dict[str, Any]:
    """A section as the block that it is read from."""
    found: dict[str, Any] = {}
    for key in plugins.options(type(section)):
        value = getattr(section, key)
        if key == "scheduler":
            (name,) = (name for name, kind in SCHEDULERS.items() if isinstance(value, kind))
            found[key] = {name: asdict(value)} if asdict(value) else name
        elif key == "constraints":
            found[key] = [str(item) for item in value]
        elif key == "others":  # in the language they stand behind the first objective
            found["metric"] = [section.metric, *value] if value else section.metric
        elif isinstance(value, Component):
            found[key] = {value.name: dict(value.options)}
        elif hasattr(value, "__dataclass_fields__"):
            found[key] = section_document(value)
        elif value is not None:
            found[key] = value
    return found


def domain_document(domain: Domain) -> Any:
    """A domain in the words that it is read from."""
    if isinstance(domain, Branch):
        blocks = {
            name: {key: domain_document(inner) for key, inner in block.items()}
            for name, block in domain.options.items()
        }
        return {"choose": blocks}
    if isinstance(domain, Constant):
        return domain.value
    if isinstance(domain, Choice):
        return list(domain.values)
    ends = [int(end) if domain.integer else end for end in (domain.low, domain.high)]
    return " ".join(["log"] * domain.log + ["int"] * domain.integer + [f"{ends[0]!r}..{ends[1]!r}"])


def rule_document(rule: Forbidden) -> dict[str, Any]:
    """A rule as the block that it is read from."""
    return {"forbid": {path: domain_document(domain) for path, domain in rule.where.items()}, "why": rule.why}


def given_document(values: Mapping[str, Scalar]) -> dict[str, Any]:
    """A configuration by full path, such as the baseline, as the nested block that it was read from."""
    found: dict[str, Any] = {}
    for path, value in values.items():
        kind, _, inner = path.partition(".")
        name, _, option = inner.rpartition(".")
        if kind not in COMPONENTS:
            found[path] = value
        elif inner:
            found.setdefault(kind, {}).setdefault(name, {})[option] = value
    for kind in COMPONENTS:
        if kind in values and kind not in found:
            found[kind] = values[kind]
    return found
