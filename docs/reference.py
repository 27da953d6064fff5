"""Writes the reference's pages from the code, whenever the site is built; they lie nowhere else."""

import inspect
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from gantune.catalogue import Entry, catalogue
from gantune.cli.main import VERBS, cli
from gantune.config import COMPONENTS, SCHEDULERS, VALUES, Component, Constraint, Scheduler, TrialConfig
from gantune.plugins import TOPICS, Option, options, shown
from gantune.sections import settings
from gantune.space import SECTIONS


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs with the files that it has found."""
    for name, page in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(page())))
    return files


def components() -> Iterator[str]:
    """Every component, by topic."""
    yield "# Components\n"
    yield "What `gantune show TOPIC` prints. *Works* is a range known to work, in the words of a space file."
    for topic, kind in TOPICS.items():
        yield f"\n## {topic.capitalize()}\n"
        parameters = [name for name, taken in COMPONENTS.items() if taken == kind]
        yield from [f"For {_list(parameters)}.\n"] if parameters else []
        for entry in catalogue(topic):
            yield from _entry(entry)


def metrics() -> Iterator[str]:
    """Every metric."""
    yield "# Metrics\n"
    yield "Which to aim at, which to constrain: [Choosing metrics](../metrics.md)."
    for entry in catalogue("metrics"):
        yield from _entry(entry)


def space() -> Iterator[str]:
    """Sections, and the parameters below `space:`."""
    yield "# The search space\n"
    yield "A space file is YAML. Below `space:` a scalar is a constant, a list a choice, `lo..hi` a range, with `log`"
    yield "and `int` before it; `choose:` gives each component its own block. The sections beside it:\n"
    for name, schema in SECTIONS.items():
        yield from _section(name, schema)
    yield "\n## search.scheduler\n"
    for name, schema in SCHEDULERS.items():
        yield from _section(name, schema, level="###")
    yield "\n## space\n"
    yield "Parameters that are components take a name, or a block of options ([all of them](components.md)):\n"
    yield "| parameter | component | default |\n|---|---|---|"
    declared = options(TrialConfig)
    for name, kind in COMPONENTS.items():
        topic = next(topic for topic, each in TOPICS.items() if each == kind)
        yield f"| `{name}` | [{kind}](components.md#{topic}) | {_default(declared[name])} |"
    yield "\nThe others are numbers and words:\n"
    yield from _table([declared[name] for name in VALUES])


def commands() -> Iterator[str]:
    """Every verb with its help."""
    yield "# Commands\n"
    context = click.Context(cli, info_name="gantune", **cli.context_settings)
    for verb in VERBS:
        command = cli.get_command(context, verb)
        assert command is not None
        with click.Context(command, info_name=verb, parent=context, terminal_width=100) as inner:
            yield f"## {verb}\n\n{VERBS[verb]}\n\n```text\n{command.get_help(inner)}\n```\n"


def _entry(entry: Entry) -> Iterator[str]:
    yield f"\n### `{entry.name}`\n"
    yield f"{entry.about}\n"
    yield from _table(entry.options)
    for rule in entry.refuses:
        yield f"\n- {rule}"


def _section(name: str, schema: type[Any], level: str = "##") -> Iterator[str]:
    """A dataclass's words, then its fields; sections within a section follow."""
    yield f"\n{level} {name}\n"
    yield f"{inspect.getdoc(schema)}\n"
    made = schema()  # what a factory makes of a field is its default
    own = [replace(option, default=getattr(made, name)) for name, option in settings(schema).items()]
    yield from _table([option for option in own if not is_dataclass(option.kind) or option.kind is Component])
    for option in own:
        if is_dataclass(option.kind) and option.kind is not Component and option.annotation != Scheduler:
            yield from _section(f"{name}.{option.name}", option.kind, level + "#")


def _table(declared: typing.Sequence[Option]) -> Iterator[str]:
    if declared:
        yield "| option | accepts | default | works |\n|---|---|---|---|"
    for option in declared:
        works = f"`{option.works}`" if option.works else ""
        yield f"| `{option.name}` | {_accepts(option)} | {_default(option)} | {works} |"


def _accepts(option: Option) -> str:
    if option.annotation == Scheduler:
        return f"one of {_list(SCHEDULERS)}, with its settings"
    if option.kind is Component:
        return f"one of [{option.name}](components.md#{option.name})"
    if option.annotation == tuple[Constraint, ...]:
        return "constraints, as `recall >= 0.3`"
    if option.annotation == tuple[str, ...]:
        return "paths of parameters"
    return option.expected().replace("|", "\\|")


def _default(option: Option) -> str:
    if option.required:
        return "must be given"
    if isinstance(option.default, Component):
        return f"`{option.default.name}`"
    if type(option.default) in SCHEDULERS.values():
        return f"`{next(name for name, schema in SCHEDULERS.items() if schema is type(option.default))}`"
    return "none" if option.default in (None, ()) else f"`{shown(option.default)}`"


def _list(names: typing.Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


PAGES = {"components": components, "metrics": metrics, "space": space, "commands": commands}
