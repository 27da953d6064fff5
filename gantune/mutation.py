"""Which parameters may change while a trial trains: open numbers that are values, not structure."""

from collections.abc import Mapping, Sequence

from gantune.config import STRUCTURE, ConfirmConfig, Pb2, Pbt, SearchConfig
from gantune.document import Node, Problems
from gantune.domains import Branch, Choice, Domain, Uniform
from gantune.plugins import did_you_mean


def mutable(searched: Mapping[str, Domain], chosen: Sequence[str] = ()) -> dict[str, Choice | Uniform]:
    """Of the open parameters of a space, those that may change while a trial trains; of these the chosen, if any."""
    return {
        path: domain
        for path, domain in searched.items()
        if isinstance(domain, Choice | Uniform) and not _hindrance(path, domain) and (not chosen or path in chosen)
    }


def check_population(
    root: Node,
    search: SearchConfig | None,
    confirm: ConfirmConfig | None,
    searched: Mapping[str, Domain],
    problems: Problems,
) -> None:
    """Note what a population cannot do with a space."""
    if search is None or not isinstance(search.scheduler, Pbt | Pb2):
        return
    if confirm is not None and confirm.top:
        section = root.entries["confirm"]
        problems.add(
            section.entries.get("top", section).place,
            "finalists of pbt and pb2 cannot be confirmed: their configurations changed while they trained",
            "take `confirm` out, or use another search.scheduler",
        )
    node = root.entries["search"].entries["scheduler"]
    block = next(iter(node.entries.values()), node)
    given = block.entries.get("mutate")
    if given is None or not search.scheduler.mutate:
        if not mutable(searched):
            problems.add(node.place, "no open parameter may change while a trial trains", "open one, such as lr_g")
        return
    items = given.value if isinstance(given.value, list) else [given]
    for item, path in zip(items, search.scheduler.mutate, strict=True):
        if path not in searched:
            known = did_you_mean(path, mutable(searched))[2:]
            problems.add(item.place, f"`mutate` names `{path}`, which is no open parameter of the space", known)
        elif hindrance := _hindrance(path, searched[path]):
            fix = f"these can: {', '.join(mutable(searched)) or 'none'}"
            problems.add(item.place, f"`{path}` cannot change while a trial trains: {hindrance}", fix)


def _hindrance(path: str, domain: Domain) -> str:
    """Why an open parameter stays as it is while a trial trains, or nothing."""
    if any(path == part or path.startswith(f"{part}.") for part in STRUCTURE):
        return "it is structure, and the weights would not fit"
    if isinstance(domain, Branch):
        return "it chooses a component"
    if isinstance(domain, Choice) and not all(type(value) in (int, float) for value in domain.values):
        return "it is not a number"
    return ""
