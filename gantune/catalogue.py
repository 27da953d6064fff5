"""What there is to choose from, told by the code itself: signatures, bounds, declared rules and docstrings."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gantune import plugins
from gantune.compatibility import rules
from gantune.config import VALUES, TrialConfig
from gantune.errors import PluginError
from gantune.metrics.reference import METRICS
from gantune.objectives import BETTER, direction_of
from gantune.plugins import TOPICS, Option, resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One component, metric or plain parameter: what it is and where it comes from, its options, what it refuses."""

    name: str
    about: str
    options: tuple[Option, ...] = ()
    refuses: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "about": self.about,
            "options": {
                option.name: {
                    "accepts": option.expected(),
                    "default": None if option.required else option.default,
                    "works": option.works or None,
                }
                for option in self.options
            },
            "refuses": list(self.refuses),
        }


def catalogue(topic: str) -> list[Entry]:
    """The entries of a topic: one of TOPICS, `metrics`, or `parameters` for the numbers of a space."""
    if topic == "metrics":
        ours = [Entry(name=name, about=f"{_about(each)}\n\nBetter: {BETTER[name]}.") for name, each in METRICS.items()]
        return ours + [_own_metric(name) for name in plugins.names("metric")]
    if topic == "parameters":
        declared = plugins.options(TrialConfig)
        return [Entry(name=name, about="", options=(declared[name],)) for name in VALUES]
    return [_component(TOPICS[topic], name) for name in plugins.names(TOPICS[topic])]


def _component(kind: str, name: str) -> Entry:
    try:
        factory = plugins.resolve(kind, name)
        options = tuple(plugins.options(factory).values())
    except PluginError as error:  # of an installed package; the others are still to be seen
        return Entry(name=name, about=f"cannot be used: {error}")
    refused = tuple(str(rule) for rule in rules(factory))
    return Entry(name=name, about=_about(factory), options=options, refuses=refused)


def _own_metric(name: str) -> Entry:
    try:
        return Entry(name=name, about=f"{_about(resolve('metric', name))}\n\nBetter: {direction_of(name)}.")
    except PluginError as error:
        return Entry(name=name, about=f"cannot be used: {error}")


def _about(factory: Callable[..., Any]) -> str:
    return inspect.getdoc(factory) or "no description"
