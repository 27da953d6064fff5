"""Where in a space trials die, and of what."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gantune.config import Scalar
from gantune.domains import Branch, Choice, Domain, Uniform
from gantune.plugins import shown
from gantune.records import TrialRecord

BINS = 5  # of a range


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A trial and what became of it, dead or not: `outcome` is its state, or what it collapsed of."""

    number: int
    outcome: str
    dead: bool
    parameters: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """The trials of one value, or of one part of a range, and how many of them died of what."""

    value: str
    trials: int
    dead: Mapping[str, int]

    @property
    def share(self) -> float:
        """Of the trials that died."""
        return sum(self.dead.values()) / self.trials if self.trials else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What one parameter tells of collapse. `information`: between its value and whether a trial dies, in bits, beyond
    chance; 0 or less where it tells nothing.
    """

    path: str
    information: float
    regions: Sequence[Region]

    def __str__(self) -> str:
        worst = max(self.regions, key=lambda region: (region.share, region.trials))
        return f"{self.path} {worst.value}: {sum(worst.dead.values())} of {worst.trials} trials died"


def told(trials: Sequence[TrialRecord], outcomes: Mapping[int, str]) -> list[Death]:
    """Every trial with its outcome."""
    return [
        Death(
            number=trial.number,
            outcome=outcomes[trial.number],
            dead=trial.state == "collapsed",
            parameters=trial.parameters,
        )
        for trial in trials
    ]


def collapse_map(domains: Mapping[str, Domain], found: Sequence[Death]) -> list[Telling]:
    """What each open parameter that varies tells of collapse, the most telling first."""
    telling = []
    for path, domain in domains.items():
        having = [one for one in found if path in one.parameters]
        grouped: dict[int, list[Death]] = {}
        for one in having:
            grouped.setdefault(_bin(domain, one.parameters[path]), []).append(one)
        regions = [_region(domain, at, members) for at, members in sorted(grouped.items())]
        if len(regions) > 1:
            telling.append(Telling(path=path, information=_information(regions, len(found)), regions=regions))
    return sorted(telling, key=lambda one: -one.information)


def _bin(domain: Domain, value: Scalar) -> int:
    """Which value of a choice, or which part of a range."""
    if not isinstance(domain, Uniform):
        names = _names(domain)
        return names.index(value) if value in names else len(names)
    assert isinstance(value, int | float)
    if _counted(domain):
        return int(value - domain.low)
    low, high, at = domain.low, domain.high, float(value)
    if domain.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return min(BINS - 1, max(0, int(BINS * (at - low) / (high - low)))) if high > low else 0


def _names(domain: Domain) -> list[Scalar]:
    if isinstance(domain, Choice):
        return list(domain.values)
    return list(domain.options) if isinstance(domain, Branch) else []


def _counted(domain: Uniform) -> bool:
    """Whether its values are so few that each stands by itself."""
    return domain.integer and domain.high - domain.low < BINS


def _region(domain: Domain, at: int, members: Sequence[Death]) -> Region:
    return Region(
        value=_label(domain, at),
        trials=len(members),
        dead=Counter(one.outcome for one in members if one.dead),
    )


def _label(domain: Domain, at: int) -> str:
    if not isinstance(domain, Uniform):
        names = _names(domain)
        return shown(names[at]) if at < len(names) else "other"
    if _counted(domain):
        return f"{domain.low + at:g}"
    shares = (at / BINS, (at + 1) / BINS)
    if domain.log:
        ends = [domain.low * (domain.high / domain.low) ** share for share in shares]
    else:
        ends = [domain.low + share * (domain.high - domain.low) for share in shares]
    return "..".join(f"{end:.2g}" for end in ends)


def _information(regions: Sequence[Region], everything: int) -> float:
    """Between region and death, in bits, over the share of all trials that have the parameter.

    Less what chance alone would show among so few. Miller 1955, Note on the bias of information estimates.
    """
    total = sum(region.trials for region in regions)
    whole = _entropy(sum(sum(region.dead.values()) for region in regions) / total)
    inside = sum(region.trials / total * _entropy(region.share) for region in regions)
    chance = (len(regions) - 1) / (2 * total * math.log(2))
    return (whole - inside - chance) * total / everything


def _entropy(share: float) -> float:
    return -sum(part * math.log2(part) for part in (share, 1 - share) if part > 0)
