"""What a search finds for its compute, replayed on full learning curves of GANs.

    python benchmarks/search.py --processes 2       # tables for RESULTS.md; some 25 minutes on two cores
    python benchmarks/search.py --family "mlp 8x8 digits" --workers 4 --seeds 3

Every contestant (contestants.py) proposes configurations of a family's space, is told the reports of the nearest
recorded run (simulation.py) and may stop it; nothing else is known to it. Compute is counted in full runs, and a search
has one for each of its workers at least: with fewer, none of its runs could come to an end. It is over early when a
trial ends with the best score recorded, for nothing better can be found.
"""

import argparse
import functools
import itertools
import logging
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from contestants import CONTESTANTS, SHIPPED, Setting
from learning_curves import FAMILIES, load_curves
from simulation import Search, Table, simulate

MOMENTS = (0.25, 0.5, 1.0)  # shares of the compute after which regret is told
NEAR = 0.05  # of the best recorded score, within which a search has found it
MANY = 64  # workers, beyond which a search is slow to simulate, and one seed differs little from another
FEWEST = 5  # seeds all the same
ALL = "All families"
MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Job:
    """Searches of all contestants under the same conditions."""

    family: str
    workers: int
    budget: float
    seed: int


@functools.cache
def table(family: str) -> Table:
    """The recorded runs of a family."""
    return Table(FAMILIES[family].load(None), [curve for curve in load_curves() if curve.family == family])


def compete(job: Job) -> tuple[Job, dict[str, Search], dict[str, float]]:
    """A search of every contestant, and its seconds of CPU time."""
    optuna.logging.set_verbosity(logging.ERROR)
    logging.getLogger("ray").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    recorded, found, seconds = table(job.family), {}, {}
    for name, build in CONTESTANTS.items():
        began = time.process_time()
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
            space = FAMILIES[job.family].load(None)
            setting = Setting(space=space, seed=job.seed, budget=job.budget, steps=recorded.steps, folder=Path(folder))
            found[name] = simulate(build(setting), recorded, job.workers, job.budget, recorded.best)
        seconds[name] = time.process_time() - began
    return job, found, seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """One search, in units that can be pooled: regret over the share of its compute."""

    search: Search
    budget: float
    best: float

    def regret(self, share: float) -> float:
        """How far the best score after a share of the compute lies above the best recorded."""
        return self.search.best_after(share * self.budget) / self.best - 1

    def reaches(self, regret: float) -> float:
        """The share of the compute after which the regret was first as low as this."""
        return self.search.reaches((1 + regret) * self.best) / self.budget


def share_of_shipped(outcomes: Sequence[Outcome], shipped: Sequence[Outcome]) -> float:
    """The compute until the median regret is the shipped combination's final one, over the compute that took it."""
    target = statistics.median(outcome.regret(1.0) for outcome in shipped)
    return _median_reaches(outcomes, target) / _median_reaches(shipped, target)


def _median_reaches(outcomes: Sequence[Outcome], target: float) -> float:
    """The share of the compute after which the median regret is first as low as `target`."""
    moments = sorted({when / one.budget for one in outcomes for when, _ in one.search.found})
    low = (moment for moment in moments if statistics.median(one.regret(moment) for one in outcomes) <= target)
    return next(low, math.inf)


def tell(title: str, played: Mapping[str, list[Outcome]]) -> None:
    """A table with a line for each contestant."""
    moments = [f"regret at {share:.0%}" for share in MOMENTS]
    columns = ["search", *moments, f"within {NEAR:.0%} after", "found by", "trials", "compute against Tune's"]
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, outcomes in played.items():
        regrets = [interval([outcome.regret(share) for outcome in outcomes]) for share in MOMENTS]
        reached = [outcome.reaches(NEAR) for outcome in outcomes]
        found_by = sum(math.isfinite(share) for share in reached) / len(reached)
        trials = statistics.median(outcome.search.trials for outcome in outcomes)
        against = shown(share_of_shipped(outcomes, played[SHIPPED]))
        after = shown(statistics.median(reached))
        print(f"| {name} | {' | '.join(regrets)} | {after} | {found_by:.0%} | {trials:.0f} | {against} |", flush=True)


def interval(values: Sequence[float]) -> str:
    """Median, and the middle 90%."""
    ordered = sorted(values)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.05, 0.95))
    return f"{shown(statistics.median(ordered))} ({shown(low)}..{shown(high)})"


def shown(value: float) -> str:
    """Two digits, or none of a large number; never is a dash."""
    return "-" if not math.isfinite(value) else f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def run(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, dict[str, Search]]]:
    """All searches, with progress and what they cost on stderr."""
    began, cost = time.monotonic(), dict.fromkeys(CONTESTANTS, 0.0)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, (job, found, seconds) in enumerate(pool.imap_unordered(compete, jobs), 1):
            cost = {name: cost[name] + seconds[name] for name in cost}
            took = time.monotonic() - began
            print(f"\r{done} of {len(jobs)}, {took:.0f} s ", end="", file=sys.stderr, flush=True)
            yield job, found
    told = ", ".join(f"{name} {seconds / len(jobs):.2f}" for name, seconds in cost.items())
    print(f"\nseconds of CPU time a search: {told}", file=sys.stderr)


def main() -> None:
    """Search and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 16, 64, 256])
    parser.add_argument("--seeds", type=int, default=30, help=f"fewer in proportion beyond {MANY} workers")
    parser.add_argument("--budget", type=float, default=32, help="full runs; never fewer than workers")
    parser.add_argument("--processes", type=int, default=1)
    chosen = parser.parse_args()
    curves = load_curves()
    families = [family for family in chosen.family or FAMILIES if any(curve.family == family for curve in curves)]
    jobs = [
        Job(family, workers, max(chosen.budget, workers), seed)
        for workers in sorted(set(chosen.workers), reverse=True)  # the longest first
        for seed in range(seeds_for(workers, chosen.seeds))
        for family in families
    ]
    searches = dict(run(jobs, chosen.processes))
    for family in families:
        scores = [curve.best for curve in curves if curve.family == family]
        near = sum(score <= (1 + NEAR) * min(scores) for score in scores)
        print(f"{family}: {len(scores)} recorded runs, {near} within {NEAR:.0%} of the best")
    for workers, part in itertools.product(chosen.workers, [*families, ALL] if len(families) > 1 else families):
        members = [job for job in jobs if job.workers == workers and part in (job.family, ALL)]
        title = f"{part}: {workers} workers, {members[0].budget:g} full runs, {len(members)} searches each"
        played = {
            name: [Outcome(searches[job][name], job.budget, table(job.family).best) for job in members]
            for name in CONTESTANTS
        }
        tell(title, played)


def seeds_for(workers: int, seeds: int) -> int:
    """How many seeds a search by this many workers is given."""
    return seeds if workers <= MANY else min(seeds, max(FEWEST, seeds * MANY // workers))


if __name__ == "__main__":
    main()
