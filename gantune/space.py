"""The search-space language: a YAML file becomes a SearchSpace, and a SearchSpace draws TrialConfigs.

A scalar is a constant, a list a choice, `lo..hi` a range (with `log` and/or `int` before it), and `choose:` maps
each option to a block of its own, so that a parameter exists only inside the branch that uses it. `rules:` forbid
combinations, `baseline:` and `first:` give configurations to try before any is drawn, `extends:` names a file that this
one is laid over.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gantune import compatibility, plugins
from gantune.config import (
    COMPONENTS,
    VALUES,
    BudgetConfig,
    CollapseConfig,
    Component,
    ConfirmConfig,
    DataConfig,
    KeepConfig,
    Median,
    NoScheduler,
    ObjectiveConfig,
    Pb2,
    Pbt,
    ResourcesConfig,
    Scalar,
    SearchConfig,
    TrialConfig,
)
from gantune.document import GIVEN, Node, Problems, load
from gantune.domains import (
    Branch,
    Constant,
    Domain,
    Draw,
    FixedDraw,
    Uniform,
    contains,
    draw_value,
    read_branch,
    read_domain,
    searched,
)
from gantune.errors import PluginError, SpecError
from gantune.mutation import check_population
from gantune.plugins import did_you_mean
from gantune.rules import Forbidden, read_rules
from gantune.sections import read_section
from gantune.writing import domain_document, given_document, rule_document, section_document

SECTIONS: dict[str, type[Any]] = {
    "data": DataConfig,
    "objective": ObjectiveConfig,
    "budget": BudgetConfig,
    "search": SearchConfig,
    "collapse": CollapseConfig,
    "resources": ResourcesConfig,
    "confirm": ConfirmConfig,
    "keep": KeepConfig,
}
NAME = re.compile(r"(?!\.{0,2}$)[^/\x00-\x1f\x7f\ud800-\udfff]+")  # a folder below runs/
OF_SEARCH = ("rules", "baseline", "first")  # what says how a search proceeds, and not what a trial is
KNOWN = dict.fromkeys(["version", "extends", "name", *SECTIONS, "space", *OF_SEARCH])


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """A checked space file: its sections, its parameters' domains, its rules, and given configurations by full path."""

    name: str
    data: DataConfig
    objective: ObjectiveConfig
    budget: BudgetConfig
    search: SearchConfig
    collapse: CollapseConfig
    resources: ResourcesConfig
    confirm: ConfirmConfig
    keep: KeepConfig
    parameters: Mapping[str, Domain]
    rules: tuple[Forbidden, ...] = ()
    baseline: Mapping[str, Scalar] | None = None
    first: tuple[Mapping[str, Scalar], ...] = ()

    def draw(self, draw: Draw, *, seed: int) -> TrialConfig:
        """One configuration; asks `draw` only for the open parameters of the branches it takes."""
        values: dict[str, Any] = {}
        for name, domain in self.parameters.items():
            if not isinstance(domain, Branch):
                values[name] = draw_value(domain, name, draw)
                continue
            chosen = next(iter(domain.options))
            if len(domain.options) > 1:
                chosen = draw.suggest_categorical(name, tuple(domain.options))
            options = {}
            for option, inner in domain.options[chosen].items():
                assert not isinstance(inner, Branch)
                options[option] = draw_value(inner, f"{name}.{chosen}.{option}", draw)
            values[name] = Component(name=chosen, options=tuple(sorted(options.items())))
        return TrialConfig(
            data=self.data,
            objective=self.objective,
            collapse=self.collapse,
            samples=self.budget.samples_per_trial,
            target=self.budget.target,
            seed=seed,
            **values,
        )

    def given(self) -> list[Mapping[str, Scalar]]:
        """The configurations that are proposed before any is drawn: the baseline, then the first ones."""
        return [*([] if self.baseline is None else [self.baseline]), *self.first]

    def conflict(self, config: TrialConfig) -> str | None:
        """Why a configuration is not to be trained: its parts do not go together, or a rule forbids it; else None."""
        values = config.parameters()
        reasons = (rule.reason(values) for rule in self.rules)
        return compatibility.conflict(config) or next(filter(None, reasons), None)

    def searched(self) -> dict[str, Domain]:
        """The open parameters by full path."""
        return dict(searched(self.parameters))

    def rungs(self) -> list[int]:
        """The samples seen at which the scheduler decides, up to the budget."""
        scheduler, samples = self.search.scheduler, self.budget.samples_per_trial
        if isinstance(scheduler, Pbt | Pb2):
            return scheduler.generations(samples, self.objective.reports)
        return [] if isinstance(scheduler, NoScheduler) else scheduler.rungs(samples)

    def document(self) -> dict[str, Any]:
        """The resolved space, defaults filled in, as plain values; written as YAML it reads back to an equal space."""
        sections = {key: section_document(getattr(self, key)) for key in SECTIONS}
        parameters = {name: domain_document(domain) for name, domain in self.parameters.items()}
        whole = {"version": 1, "name": self.name, **sections, "space": parameters}
        if self.rules:
            whole["rules"] = [rule_document(rule) for rule in self.rules]
        if self.baseline is not None:
            whole["baseline"] = given_document(self.baseline)
        if self.first:
            whole["first"] = [given_document(values) for values in self.first]
        return whole


def load_space(source: Path | str | Mapping[str, Any], overrides: Sequence[str] = ()) -> SearchSpace:
    """Read and check a space file, or the same as nested dicts.

    Raises SpecError with every problem at once; nothing is started.
    """
    return _load(source, overrides, of_search=True)


def _load(source: Path | str | Mapping[str, Any], overrides: Sequence[str], *, of_search: bool) -> SearchSpace:
    problems = Problems()
    root = load(source, overrides, problems, KNOWN)
    for key in () if of_search else OF_SEARCH:
        root.entries.pop(key, None)
    space = _read(root, GIVEN if isinstance(source, Mapping) else Path(source).stem, problems)
    problems.raise_if_any()
    assert space is not None
    return space


def load_trial(path: Path | str, overrides: Sequence[str] = ()) -> TrialConfig:
    """Read one configuration: a space file in which every parameter is a constant.

    Raises SpecError where it is wrong or where a parameter is open.
    """
    space = _load(path, overrides, of_search=False)  # one trial need not lie in the space around a baseline
    if space.searched():
        example = next(iter(space.searched()))
        raise SpecError(
            f"{path}: {len(space.searched())} parameters are open ({example} ...), so this is a space to search; "
            f"fix them with --set {example}=VALUE, or use `gantune search`. Nothing was started."
        )
    return space.draw(FixedDraw({}), seed=space.search.seed)


def _read(root: Node, stem: str, problems: Problems) -> SearchSpace | None:
    for key, child in root.entries.items():
        if key not in KNOWN:
            problems.add(child.key or child.place, f"unknown section `{key}`", did_you_mean(key, KNOWN)[2:])
    if "extends" in root.entries:
        problems.add(root.entries["extends"].place, "`extends` cannot be set", "write it into the file")
    version = root.entries.get("version")
    if version is None or type(version.value) is not int or version.value != 1:
        got = "nothing" if version is None else version.got()
        problems.add((version or root).place, f"expected `version: 1`, got {got}", "this gantune reads version 1")
    name = root.entries.get("name")
    if name is not None and (not isinstance(name.value, str) or not NAME.fullmatch(name.value)):
        problems.add(name.place, f"`name` must be text without a slash, got {name.got()}")
    _find_dataset(root, problems)
    _find_files(root)
    sections = {key: read_section(root.entries.get(key), schema, key, problems) for key, schema in SECTIONS.items()}
    _check_budget(root, sections, problems)
    _check_several(root, sections, problems)
    parameters: dict[str, Domain] = {}
    before = len(problems.found)
    if "space" in root.entries:
        parameters = _read_space(root.entries["space"], problems)
        if sections["search"] is not None and sections["search"].sampler == "grid":
            _check_grid(root.entries["space"], parameters, problems)
    else:
        problems.add(root.place, "there is no `space:` section", "it says what is searched")
    sound = len(problems.found) == before
    if sound:
        check_population(root, sections["search"], sections["confirm"], dict(searched(parameters)), problems)
    rules = read_rules(root.entries.get("rules"), parameters if sound else None, problems)
    given = _find_given(root, problems)
    if problems.found:
        for _, node in given:
            _read_space(node, problems, whole=False)
        return None
    label = str(name.value) if name is not None else stem
    space = SearchSpace(name=label, **sections, parameters=parameters, rules=rules)  # type: ignore[arg-type]
    read = [(what, _read_given(space, node, what, problems)) for what, node in given]
    baseline = next((values for what, values in read if what == "baseline"), None)
    first = tuple(values for what, values in read if what == "first" and values is not None)
    return replace(space, baseline=baseline, first=first)


def _find_given(root: Node, problems: Problems) -> list[tuple[str, Node]]:
    """The configurations that a file gives, each with the section that it stands in."""
    baseline, first = root.entries.get("baseline"), root.entries.get("first")
    found = [] if baseline is None or baseline.value is None else [("baseline", baseline)]
    if first is not None and isinstance(first.value, list):
        found += [("first", item) for item in first.value]
    elif first is not None and first.value is not None:
        problems.add(
            first.place, f"`first` must be a list of configurations, got {first.got()}", "each like `baseline`"
        )
    return found


def _find_dataset(root: Node, problems: Problems) -> None:
    """Check that the data set exists, and make a path absolute: workers run in other directories."""
    section = root.entries.get("data")
    node = section.entries.get("dataset") if section else None
    if node is None or not isinstance(node.value, str):
        return
    if node.value in plugins.names("dataset"):
        return
    if ":" in node.value:
        try:
            plugins.resolve("dataset", node.value)
        except PluginError as error:
            problems.add(node.place, str(error))
    elif os.path.exists(node.value):  # false for what cannot be a path, where Path.exists raises
        node.value = str(Path(node.value).resolve())
    else:
        known = did_you_mean(node.value, plugins.names("dataset"))[2:]
        problems.add(node.place, f"no data set and no file or folder is called `{node.value}`", known)


def _find_files(root: Node) -> None:
    """Make the paths of the features' files absolute: workers run in other directories."""
    section = root.entries.get("objective")
    features = section.entries.get("features") if section else None
    for block in features.entries.values() if features else ():
        for node in block.entries.values():
            if isinstance(node.value, str) and os.path.isfile(node.value):
                node.value = str(Path(node.value).resolve())


def _check_budget(root: Node, sections: Mapping[str, Any], problems: Problems) -> None:
    budget, objective, resources = sections["budget"], sections["objective"], sections["resources"]
    if budget is None:
        return
    given = root.entries["budget"].entries if "budget" in root.entries else {}
    if objective is not None and budget.samples_per_trial < objective.reports:
        node = given.get("samples_per_trial", root)
        problems.add(node.place, f"{budget.samples_per_trial} samples cannot hold {objective.reports} reports")
    if budget.cost is not None and budget.price_per_hour is None:
        problems.add(given["cost"].place, "`budget.cost` needs a price", "add price_per_hour: what an hour costs")
    if budget.gpu_hours is not None and resources is not None and resources.gpus_per_trial == 0:
        fix = "resources.gpus_per_trial is 0; use hours or samples"
        problems.add(given["gpu_hours"].place, "`budget.gpu_hours` would never be used up", fix)


def _check_several(root: Node, sections: Mapping[str, Any], problems: Problems) -> None:
    """Not everything that proposes or stops can weigh one objective against another."""
    objective, search = sections["objective"], sections["search"]
    if objective is None or search is None or not objective.others:
        return
    given, many = root.entries["search"].entries if "search" in root.entries else {}, len(objective.names)
    if search.sampler == "cmaes":
        fix = "use tpe, gp, nsgaii, nsgaiii, qmc, random, grid or auto"
        problems.add(given["sampler"].place, f"cmaes knows one objective, and there are {many}", fix)
    if isinstance(search.scheduler, Median):
        what = f"the median rule compares one score, and there are {many} objectives"
        problems.add(given["scheduler"].place, what, "use asha, hyperband or none")


def _read_space(node: Node, problems: Problems, *, whole: bool = True) -> dict[str, Domain]:
    """The parameters of a block; `whole` demands those that have no default."""
    if not isinstance(node.value, dict):
        problems.add(node.place, "expected a block of parameters", "architecture, loss, optimizer and lr_g are needed")
        return {}
    numbers = plugins.options(TrialConfig)
    known = [*COMPONENTS, *VALUES]
    found: dict[str, Domain] = {}
    for key, child in node.entries.items():
        domain: Domain | None = None
        if key in COMPONENTS:
            domain = read_branch(child, COMPONENTS[key], problems)
        elif key in VALUES:
            domain = read_domain(child, numbers[key], problems)
        else:
            place = child.key or child.place
            near = [*known, *KNOWN] if place.source.startswith("--set ") else known
            problems.add(place, f"unknown parameter `{key}`", did_you_mean(key, near)[2:])
        if domain is not None:
            found[key] = domain
    for key in ("architecture", "loss", "optimizer", "lr_g"):
        if whole and key not in node.entries:
            problems.add(node.key or node.place, f"`{key}` is missing", f"add {key}: ...")
    for key in VALUES:
        if whole and key not in node.entries and not numbers[key].required:
            found[key] = Constant(numbers[key].default)
    return found


def _check_grid(node: Node, parameters: Mapping[str, Domain], problems: Problems) -> None:
    """A grid visits every combination, so no range may be without steps."""
    for name, domain in parameters.items():
        child = node.entries.get(name, node)
        if isinstance(domain, Branch):
            blocks = child.entries.get("choose", child).entries
            for option, inner in domain.options.items():
                _check_grid(blocks.get(option, child), inner, problems)
        elif isinstance(domain, Uniform) and (domain.log or not domain.integer):
            problems.add(
                child.place,
                f"`{name}`: a grid cannot hold the range {domain}",
                "list its values, or use another search.sampler",
            )


def _read_given(space: SearchSpace, node: Node, what: str, problems: Problems) -> dict[str, Scalar] | None:
    """A configuration's value for every open parameter of its branches, each checked to lie in the space.

    what: the section that gives it, `baseline` or `first`.
    """
    before = len(problems.found)
    given = _read_space(node, problems, whole=False)
    if len(problems.found) > before:
        return None
    values: dict[str, Scalar] = {}
    for name, child in node.entries.items():
        domain, fixed = space.parameters.get(name), given[name]
        if domain is None:
            problems.add(child.place, f"{what} gives `{name}`, which the space does not have", "add it to `space:`")
        elif isinstance(domain, Branch) and isinstance(fixed, Branch):
            _read_given_branch(name, child, domain, fixed, what, values, problems)
        else:
            _check_given_value(name, child, domain, fixed, what, values, problems)
    if len(problems.found) > before:
        return None
    try:
        config = space.draw(FixedDraw(values), seed=0)
    except KeyError as error:
        path = str(error.args[0])
        problems.add(node.key or node.place, f"{what} leaves `{path}` open", f"it is {space.searched()[path]}")
        return None
    reason = space.conflict(config)
    if reason:
        problems.add(node.key or node.place, f"the {what} cannot be trained: {reason}")
    return values


def _read_given_branch(
    name: str, node: Node, domain: Branch, fixed: Branch, what: str, values: dict[str, Scalar], problems: Problems
) -> None:
    if len(fixed.options) != 1:
        problems.add(node.place, f"{what} must name one {name}, got {fixed}")
        return
    chosen, options = next(iter(fixed.options.items()))
    if chosen not in domain.options:
        fix = f"the space has {domain}; {_dropped(what)}"
        problems.add(node.place, f"{what}'s {name} `{chosen}` is not in the space", fix)
        return
    values[name] = chosen
    block = node.entries.get("choose", node).entries.get(chosen)
    for option, child in (block.entries if block else {}).items():
        path = f"{name}.{chosen}.{option}"
        _check_given_value(path, child, domain.options[chosen][option], options[option], what, values, problems)


def _check_given_value(
    path: str, node: Node, domain: Domain, fixed: Domain, what: str, values: dict[str, Scalar], problems: Problems
) -> None:
    if not isinstance(fixed, Constant):
        problems.add(node.place, f"{what} must give `{path}` one value, got {fixed}")
    elif not contains(domain, fixed.value):
        fix = f"the space has {domain}; {_dropped(what)}"
        problems.add(node.place, f"{what}'s `{path}` is outside the space", fix)
    else:
        values[path] = fixed.value


def _dropped(what: str) -> str:
    return f"--set {what}=null drops it"
