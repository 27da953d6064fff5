"""What a space forbids beyond what components refuse: combinations of its own parameters, each with a reason."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gantune import plugins
from gantune.config import COMPONENTS, Bounds, Scalar, TrialConfig
from gantune.document import Node, Problems
from gantune.domains import Branch, Choice, Constant, Domain, Uniform, contains, overlap, read_domain
from gantune.plugins import Option, did_you_mean, shown

EXAMPLE = "for example - {forbid: {batch_size: 256, lr_g: 1e-3..1e-2}, why: ...}"
DROP = "--set rules=null drops all rules"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forbidden:
    """A configuration is forbidden where every path exists and its value lies in the domain given for it."""

    where: Mapping[str, Domain]
    why: str

    def reason(self, values: Mapping[str, Scalar]) -> str | None:
        """Why values by full path are forbidden, or None where they are not."""
        if not all(path in values and contains(domain, values[path]) for path, domain in self.where.items()):
            return None
        named = " and ".join(f"{path}: {shown(values[path])}" for path in self.where)
        return f"a rule forbids {named}: {self.why}"

    def __str__(self) -> str:
        conditions = " and ".join(f"{path}: {domain}" for path, domain in self.where.items())
        return f"{conditions}: {self.why}"


def read_rules(node: Node | None, parameters: Mapping[str, Domain] | None, problems: Problems) -> tuple[Forbidden, ...]:
    """The rules of a space; `parameters` None checks their form alone, where the space itself is wrong."""
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, list):
        problems.add(node.place, f"`rules` must be a list, got {node.got()}", EXAMPLE)
        return ()
    known = None if parameters is None else _known(parameters)
    rules = [_read_rule(item, known, problems) for item in node.value]
    return tuple(rule for rule in rules if rule is not None)


def _read_rule(node: Node, known: Mapping[str, tuple[Option, Domain]] | None, problems: Problems) -> Forbidden | None:
    if not isinstance(node.value, dict):
        problems.add(node.place, f"a rule must be a block, got {node.got()}", EXAMPLE)
        return None
    for key, child in node.entries.items():
        if key not in ("forbid", "why"):
            fix = did_you_mean(key, ("forbid", "why")).removeprefix("; ")
            problems.add(child.key or child.place, f"unknown setting `{key}` in a rule", fix)
    why = node.entries.get("why")
    if why is None or not isinstance(why.value, str) or not why.value.strip():
        got = "nothing" if why is None else why.got()
        place = node.place if why is None else why.place
        problems.add(place, f"a rule needs `why`, its reason in words, got {got}", "what it rejects will name it")
    forbid = node.entries.get("forbid")
    if forbid is None or not forbid.entries:
        place = node.place if forbid is None else forbid.place
        problems.add(place, "a rule needs `forbid`, a block of parameters and values", EXAMPLE)
        return None
    if known is None:
        return None
    read = {path: _read_condition(path, child, known, problems) for path, child in forbid.entries.items()}
    where = {path: domain for path, domain in read.items() if domain is not None}
    return Forbidden(where=where, why=str(why.value).strip()) if why is not None else None


def _read_condition(
    path: str, node: Node, known: Mapping[str, tuple[Option, Domain]], problems: Problems
) -> Constant | Choice | Uniform | None:
    """The values that a condition speaks of; noted as a problem where the parameter can have none of them."""
    if path not in known:
        place = node.key or node.place
        problems.add(place, f"a rule names `{path}`, which the space does not have", did_you_mean(path, known)[2:])
        return None
    option, whole = known[path]
    if isinstance(node.value, dict):
        problems.add(node.place, f"`{path}`: expected a value, a list or a range", "write options by their full path")
        return None
    before = len(problems.found)
    domain = read_domain(node, replace(option, name=path), problems)
    if domain is None or len(problems.found) > before:
        return None
    if isinstance(domain, Uniform):
        if not overlap(domain, whole):
            problems.add(node.place, f"`{path}` is never in {domain}", f"the space has {whole}; {DROP}")
    else:
        values = domain.values if isinstance(domain, Choice) else (domain.value,)
        items = node.value if isinstance(node.value, list) else [node]
        for item, value in zip(items, values, strict=True):
            if not contains(whole, value):
                problems.add(item.place, f"`{path}` is never {shown(value)}", f"the space has {whole}; {DROP}")
    return domain


def _known(parameters: Mapping[str, Domain]) -> dict[str, tuple[Option, Domain]]:
    """Every parameter of a space by full path, open or constant, with what declares it and what it may be."""
    numbers = plugins.options(TrialConfig)
    found: dict[str, tuple[Option, Domain]] = {}
    for name, domain in parameters.items():
        if not isinstance(domain, Branch):
            found[name] = numbers[name], domain
            continue
        found[name] = _choice_of_components(name, tuple(domain.options)), domain
        for component, block in domain.options.items():
            declared = plugins.options(plugins.resolve(COMPONENTS[name], component))
            found.update({f"{name}.{component}.{key}": (declared[key], inner) for key, inner in block.items()})
    return found


def _choice_of_components(name: str, components: tuple[str, ...]) -> Option:
    return Option(
        name=name, kind=str, optional=False, choices=components, bounds=Bounds(), default=None, annotation=str
    )
