"""What a sampler must know of a space, and which sampler suits it."""

import math

from gantune.domains import Branch, Choice, Constant, Domain
from gantune.space import SearchSpace

FEW_TRIALS = 250  # beyond, a Gaussian process costs more than it tells, and an evolution has its generations
FEW_PARAMETERS = 20
FEW_OBJECTIVES = 3  # beyond, the volume below a front costs a Gaussian process too much: a fourth doubles its time


def shared(space: SearchSpace) -> dict[str, Domain]:
    """The open parameters that every configuration has: those of no branch that may be left out."""
    found = {}
    for path, domain in space.searched().items():
        name, inside, _ = path.partition(".")
        branch = space.parameters[name]
        if not (inside and isinstance(branch, Branch) and len(branch.options) > 1):
            found[path] = domain
    return found


def size(space: SearchSpace) -> float:
    """How many configurations there are, those included that cannot be trained; infinite where a range has no steps."""
    return math.prod(map(_size, space.parameters.values()))


def _size(domain: Domain) -> float:
    if isinstance(domain, Constant):
        return 1
    if isinstance(domain, Choice):
        return len(domain.values)
    if isinstance(domain, Branch):
        return sum(math.prod(map(_size, inner.values())) for inner in domain.options.values())
    return domain.high - domain.low + 1 if domain.integer else math.inf


def sampler_of(space: SearchSpace) -> str:
    """The sampler that a space is searched with. `auto` stands for the first of these that holds.

    grid, where the budget holds every configuration; tpe, where parameters exist in some branches only, or most are
    choices, of which no distance is known; gp, for few trials of few parameters and few objectives; cmaes, for many
    trials of numbers alone and one objective; tpe.
    """
    if space.search.sampler != "auto":
        return space.search.sampler
    if size(space) <= space.budget.trials:
        return "grid"
    searched = space.searched()
    choices = sum(isinstance(domain, Choice | Branch) for domain in searched.values())
    if len(shared(space)) < len(searched) or 2 * choices > len(searched):
        return "tpe"
    objectives = len(space.objective.names)
    if space.budget.trials <= FEW_TRIALS and len(searched) <= FEW_PARAMETERS and objectives <= FEW_OBJECTIVES:
        return "gp"
    return "cmaes" if not choices and objectives == 1 else "tpe"
