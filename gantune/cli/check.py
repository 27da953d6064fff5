"""gantune check"""

import json
import math
from collections import Counter
from pathlib import Path

import click

from gantune.cli import options
from gantune.config import Hyperband, Median, NoScheduler, Pb2, Pbt
from gantune.domains import Branch, RandomDraw
from gantune.driver.auto import sampler_of
from gantune.mutation import mutable
from gantune.objectives import direction_of
from gantune.space import SearchSpace, load_space

DRAWS = 300  # to estimate how many of them are rejected


@click.command("check")
@click.argument("space", type=click.Path(path_type=Path))
@options.overrides
@click.option("--json", "as_json", is_flag=True, help="Print the resolved space as JSON.")
@click.option("--time", "timed", is_flag=True, help="Train a few configurations for some seconds; say time and disk.")
def command(space: Path, overrides: tuple[str, ...], as_json: bool, timed: bool) -> None:
    """Check SPACE and say what a search would run. Nothing is started.

    \b
    gantune check search_spaces/dcgan.yaml
    gantune check search_spaces/dcgan.yaml --time
    """
    loaded = load_space(space, overrides)
    if as_json:
        click.echo(json.dumps(loaded.document(), indent=1))
        return
    searched = loaded.searched()
    branches = [domain for domain in loaded.parameters.values() if isinstance(domain, Branch)]
    combinations = 1
    for branch in branches:
        combinations *= len(branch.options)
    size = f" at {loaded.data.size}x{loaded.data.size}" if loaded.data.size else ""
    budget = loaded.budget
    click.echo(f"{space}: {len(searched)} parameters are searched, {combinations} combinations of branches")
    width = max((len(name) for name in searched), default=0)
    for name, domain in searched.items():
        click.echo(f"  {name:<{width}}  {domain}")
    click.echo(f"data: {loaded.data.dataset}{size}")
    limits = [
        f", {budget.samples:,} samples in all" if budget.samples else "",
        f", {budget.hours:g} h" if budget.hours else "",
        f", {budget.gpu_hours:g} GPU h" if budget.gpu_hours else "",
        f", a cost of {budget.cost:g} at {budget.price_per_hour:g} an hour" if budget.cost else "",
        f", until a score of {budget.target:g}" if budget.target else "",
    ]
    click.echo(f"budget: {budget.trials} trials of {budget.samples_per_trial:,} samples{''.join(limits)}")
    if loaded.objective.others:
        aims = [f"{name} ({direction_of(name)} is better)" for name in loaded.objective.names]
        click.echo(f"objectives: {', '.join(aims)}")
    sampler = sampler_of(loaded)
    click.echo(f"sampler: {sampler}{', chosen by auto' if sampler != loaded.search.sampler else ''}")
    stops_by = ", by the front" if loaded.objective.others and loaded.rungs() else ""
    click.echo(_generations(loaded) or f"early stops: {_early_stops(loaded)}{stops_by}")
    confirm = loaded.confirm
    if confirm.top:
        click.echo(f"confirmed: the {confirm.top} best, with {confirm.seeds} fresh seeds each")
    keep = loaded.keep
    if keep.top != "all" or keep.gb is not None:
        whose = "of every trial" if keep.top == "all" else f"of the {keep.top} best"
        click.echo(f"kept: weights {whose}{f', at most {keep.gb:g} GB of checkpoints' if keep.gb is not None else ''}")
    for rule in loaded.rules:
        click.echo(f"forbidden: {rule}")
    rejected = _rejected(loaded)
    if rejected:
        click.echo(f"rejected: about {rejected:.0%} of draws at random")
    click.echo(f"baseline: {'trial 0' if loaded.baseline is not None else 'none'}")
    if loaded.first:
        numbers = range(len(loaded.given()))[-len(loaded.first) :]
        click.echo(f"first: trials {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"first: trial {numbers[0]}")
    if timed:
        click.echo(_cost(loaded))
    click.echo("OK. Nothing was started.")


def _cost(space: SearchSpace) -> str:
    """What a search takes on this machine."""
    from gantune.pace import TIMED_SECONDS, forecast
    from gantune.spending import duration

    found = forecast(space, lambda text: click.echo(text, err=True))
    free = found.machine.free / 1e9
    return (
        f"time: about {duration(found.seconds)} on {found.machine}, {duration(found.preparation)} of it preparation; "
        f"{found.at_once} trials at once, measured on {found.timed} configurations of {TIMED_SECONDS:g} s each\n"
        f"disk: up to {found.disk / 1e9:.2g} GB, and {free:.3g} GB are free"
    )


def _rejected(space: SearchSpace) -> float:
    """The share of draws at random that components or rules do not let pass."""
    drawn = [space.draw(RandomDraw(seed), seed=0) for seed in range(DRAWS)]
    return sum(space.conflict(config) is not None for config in drawn) / DRAWS


def _generations(space: SearchSpace) -> str:
    """What a population does, where the scheduler is one."""
    scheduler, members, ends = space.search.scheduler, space.budget.trials, space.rungs()
    if not isinstance(scheduler, Pbt | Pb2):
        return ""
    if not ends:
        return f"population: {members} members, one generation; nothing is ever taken over"
    count = min(math.ceil(scheduler.quantile * members), members // 2)
    changing = ", ".join(mutable(space.searched(), scheduler.mutate))
    last = f", ..., {ends[-1]:,}" if len(ends) > 1 else ""
    return (
        f"population: {members} members, {len(ends) + 1} generations; at {ends[0]:,}{last} samples the {count} worst, "
        f"and what has collapsed, take over from the {count} best ({count * len(ends)} times in all)\n"
        f"  what may change then: {changing}"
    )


def _early_stops(space: SearchSpace) -> str:
    scheduler, budget = space.search.scheduler, space.budget
    if isinstance(scheduler, NoScheduler | Pbt | Pb2):
        return "collapse only"
    if isinstance(scheduler, Median):
        first = next(iter(space.rungs()), budget.samples_per_trial)
        return f"collapse, and the median of {scheduler.min_trials} others or more, from {first:,} samples on"
    if isinstance(scheduler, Hyperband):
        dealt = Counter(scheduler.bracket(number, budget.samples_per_trial) for number in range(budget.trials))
        brackets = scheduler.split(budget.samples_per_trial)
        parts = [
            f"{dealt[at]} from {rungs[0]:,}" if rungs else f"{dealt[at]} never" for at, rungs in enumerate(brackets)
        ]
        parts[0] = f"{parts[0].replace(' from', ' halved from')} samples on"
        return f"collapse, and Hyperband: of {budget.trials} trials {', '.join(parts)}"
    left, steps = float(budget.trials), [f"{budget.trials} trials"]
    for rung in space.rungs():
        left /= scheduler.reduction
        steps.append(f"about {max(1, round(left))} beyond {rung:,} samples")
    return f"collapse, and ASHA: {' -> '.join(steps)}"
