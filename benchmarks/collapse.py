"""Full learning curves of GANs, and what early stopping makes of them.

    python benchmarks/collapse.py record [--family NAME] [--minutes 60] [--workers 2] [--mnist PATH]
    python benchmarks/collapse.py replay [--held-out]

`record` trains random configurations of the search spaces to the end, two seeds each, with nothing stopped, and adds
the curves to benchmarks/learning_curves.parquet; it continues where it stopped. `replay` runs detectors and schedulers
over the curves and prints tables for RESULTS.md: by default on the half of the configurations that settings are fitted
on, with --held-out on the other half.
"""

import argparse
import json
import logging
import math
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gantune.collapse import CollapseMonitor
from gantune.compatibility import conflict
from gantune.config import Asha, CollapseConfig, TrialConfig, derive_seed
from gantune.data.data_set import open_data
from gantune.domains import RandomDraw
from gantune.metrics.reference import load_reference, prepare_reference
from gantune.search.schedulers import RememberingAsha
from gantune.space import SearchSpace, load_space
from gantune.trial import train_trial

HERE = Path(__file__).parent
CORPUS = HERE / "learning_curves.parquet"
REPORTS = 24
SEEDS = 2
TOP = 8
WORKERS = 4  # that the replay of a scheduler trains on at a time
BOOTSTRAPS = 100
MODES_ALIVE = 0.7  # of the classes, below which a run is poor
FAR_FROM_GOOD = 10.0  # times the distance of a family's good runs, beyond which it is poor
LAST = 0.25  # of a run, by which its outcome is judged
STILL_IMPROVING = 0.9  # of the best score before, which the last quarter of a slow run beats
AUTOGAN_WINDOW, AUTOGAN_VARIANCE = 3, 1e-3

SCHEMA = pa.schema(
    [
        ("family", pa.string()),
        ("config", pa.int32()),
        ("seed", pa.int32()),
        ("samples_seen", pa.int64()),
        ("share", pa.float32()),
        ("finite", pa.bool_()),
        ("score", pa.float32()),
        ("seconds", pa.float32()),
        ("values", pa.map_(pa.string(), pa.float32())),
        ("parameters", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Random configurations of one space: which, with what in place of its own, how many."""

    space: str
    overrides: tuple[str, ...]
    configs: int

    def load(self, mnist: str | None) -> SearchSpace:
        """The space, with every report and nothing that would end a run early."""
        data = [f"data.dataset={mnist}"] if mnist and self.space == "mnist.yaml" else []
        always = [f"objective.reports={REPORTS}", "collapse.enabled=false", "objective.constraints=[]", "baseline=null"]
        return load_space(HERE.parent / "search_spaces" / self.space, [*self.overrides, *data, *always])


FAMILIES = {
    "mlp 8x8 digits": Family(
        space="dcgan.yaml",
        overrides=(
            "data.size=8",
            "space.architecture={mlp: {hidden: [64, 128, 256], depth: int 2..4}}",
            "budget.samples_per_trial=60000",
        ),
        configs=64,
    ),
    "dcgan 16x16 digits": Family(
        space="dcgan.yaml",
        overrides=(
            "space.architecture={dcgan: {width: [16, 24], norm_d: [layer, spectral, none]}}",
            "budget.samples_per_trial=90000",
        ),
        configs=48,
    ),
    "dcgan 28x28 MNIST": Family(
        space="mnist.yaml",
        overrides=(
            "space.architecture.dcgan.width=[8, 16]",
            "budget.samples_per_trial=100000",
            "objective.samples.report=1000",
        ),
        configs=40,
    ),
}


# Recording


@dataclass(frozen=True, slots=True)
class Job:
    """One run to be recorded."""

    family: str
    config: int
    seed: int


def record(families: Sequence[str], minutes: float, workers: int, mnist: str | None) -> None:
    """Train what is missing until the time is over, and add it to the corpus."""
    until = time.monotonic() + 60 * minutes
    known = {(curve.family, curve.config, curve.seed) for curve in load_curves()} if CORPUS.exists() else set()
    wanted = [
        Job(name, config, seed)
        for config in range(max(FAMILIES[name].configs for name in families))
        for name in families
        for seed in range(SEEDS)
        if config < FAMILIES[name].configs and (name, config, seed) not in known
    ]
    print(f"{len(known)} runs are recorded, {len(wanted)} are missing", flush=True)
    for name in dict.fromkeys(job.family for job in wanted):
        space = FAMILIES[name].load(mnist)
        prepare_reference(open_data(space.data), space.objective.features, print)
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        jobs = ((job, mnist, until) for job in wanted)
        for done, table in enumerate(filter(None, pool.imap_unordered(_record_one, jobs)), 1):
            _add(table)
            first = table.slice(0, 1).to_pylist()[0]
            took = table["seconds"].to_pylist()[-1]
            print(f"{done}: {first['family']} #{first['config']}.{first['seed']} {took:.0f}s", flush=True)


def _add(table: pa.Table) -> None:
    """Write the corpus anew with one run more, under a temporary name first."""
    whole = pa.concat_tables([pq.read_table(CORPUS, schema=SCHEMA), table]) if CORPUS.exists() else table
    partial = CORPUS.with_suffix(".partial")
    pq.write_table(whole, partial, compression="zstd", compression_level=19)
    os.replace(partial, CORPUS)


def _record_one(wish: tuple[Job, str | None, float]) -> pa.Table | None:
    job, mnist, until = wish
    if time.monotonic() > until:
        return None
    logging.disable(logging.WARNING)
    space = FAMILIES[job.family].load(mnist)
    config = configuration(space, job)
    images = open_data(config.data)
    reference = load_reference(prepare_reference(images, config.objective.features))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for progress in train_trial(config, images, reference, Path(folder), torch.device("cpu")):
            rows.append(
                {
                    "family": job.family,
                    "config": job.config,
                    "seed": job.seed,
                    "samples_seen": progress.samples_seen,
                    "share": progress.samples_seen / config.samples,
                    "finite": progress.score is not None,
                    "score": math.nan if progress.score is None else progress.score,
                    "seconds": progress.seconds,
                    "values": list(progress.metrics.items()),
                    "parameters": json.dumps(config.parameters()),
                }
            )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def configuration(space: SearchSpace, job: Job) -> TrialConfig:
    """The configuration of a job: the first valid draw of its own stream, under the seed of the run."""
    for attempt in range(1000):
        draw = RandomDraw(derive_seed(0, job.family, job.config, attempt))
        config = space.draw(draw, seed=derive_seed(job.seed, job.family, job.config))
        if conflict(config) is None:
            return config
    raise RuntimeError(f"{job}: no valid configuration")


# Curves


@dataclass(frozen=True, slots=True)
class Report:
    """What one report said."""

    samples_seen: int
    share: float
    finite: bool
    score: float
    values: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One run from its first report to its last."""

    family: str
    config: int
    seed: int
    parameters: str
    reports: tuple[Report, ...]

    @property
    def best(self) -> float:
        """The lowest score, which is that of the checkpoint that would be kept."""
        return self.best_until(len(self.reports))

    def best_until(self, count: int) -> float:
        """The lowest score of the first `count` reports; infinite where there is none."""
        return min((report.score for report in self.reports[:count] if report.finite), default=math.inf)

    @property
    def held_out(self) -> bool:
        """Whether settings must not be fitted on it; both seeds of a configuration lie on one side."""
        return derive_seed(0, "split", self.family, self.config) % 2 == 1


def load_curves() -> list[Curve]:
    """The corpus. 300 curves and more, in the order of families, configurations and seeds."""
    grouped: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in pq.read_table(CORPUS).to_pylist():
        grouped.setdefault((row["family"], row["config"], row["seed"]), []).append(row)
    return [
        Curve(
            *key,
            rows[0]["parameters"],
            tuple(
                Report(row["samples_seen"], row["share"], row["finite"], row["score"], dict(row["values"]))
                for row in sorted(rows, key=lambda row: row["samples_seen"])
            ),
        )
        for key, rows in sorted(grouped.items())
    ]


Outcome = Literal["good", "slow", "dead"]


class Outcomes:
    """How runs end, from their last quarter alone and from nothing that a detector decides by.

    A run is poor where a classifier finds few of the classes among its samples, or where its distance is far above that
    of its family's good runs. A poor run is slow where it still improves, and dead where it does not.
    """

    def __init__(self, curves: Sequence[Curve]) -> None:
        self._good: dict[str, float] = {}
        for family in dict.fromkeys(curve.family for curve in curves):
            best = sorted(curve.best for curve in curves if curve.family == family)
            self._good[family] = best[min(TOP, len(best)) - 1]

    def of(self, curve: Curve) -> Outcome:
        """How a run ends."""
        last = [report for report in curve.reports if report.share > 1 - LAST]
        if not last or not curve.reports[-1].finite:
            return "dead"
        modes = statistics.median(report.values["modes"] for report in last)
        score = statistics.median(report.score for report in last)
        if modes >= MODES_ALIVE and score <= FAR_FROM_GOOD * self._good[curve.family]:
            return "good"
        before = curve.best_until(len(curve.reports) - len(last))
        return "slow" if curve.best < STILL_IMPROVING * before else "dead"


# Detectors: the report at which a run is stopped, by what it alone has shown

Detector = Callable[[Curve], int | None]


def nothing(curve: Curve) -> int | None:
    """Every run goes to its end, even one whose weights are no longer finite."""
    return None


def nan_only(curve: Curve) -> int | None:
    """A value that is not finite."""
    return next((index for index, report in enumerate(curve.reports) if not report.finite), None)


def loss_variance(curve: Curve) -> int | None:
    """Losses of both networks that no longer vary. Gong et al. 2019, AutoGAN, section 3.3: below 1e-3."""
    for index in range(AUTOGAN_WINDOW - 1, len(curve.reports)):
        window = curve.reports[index - AUTOGAN_WINDOW + 1 : index + 1]
        if not window[-1].finite:
            return index
        varying = [np.var([report.values.get(name, math.nan) for report in window]) for name in ("loss_d", "loss_g")]
        if max(varying) < AUTOGAN_VARIANCE:
            return index
    return nan_only(curve)


def d_accuracy(curve: Curve) -> int | None:
    """A discriminator that is right in more than 95% of cases, twice in a row."""
    row = 0
    for index, report in enumerate(curve.reports):
        if not report.finite:
            return index
        row = row + 1 if report.values["d_accuracy"] > 0.95 else 0
        if row == 2:
            return index
    return None


def monitor(config: CollapseConfig) -> Detector:
    """Gantune's own."""

    def detect(curve: Curve) -> int | None:
        total = round(curve.reports[-1].samples_seen / curve.reports[-1].share)
        judge = CollapseMonitor(config, total)
        for index, report in enumerate(curve.reports):
            values = report.values
            if judge.observe(report.samples_seen, report.score, values, values, report.finite).dead:
                return index
        return None

    return detect


# Policies: a detector, and a scheduler that compares runs


class Scheduler:
    """Stops nothing."""

    def stops(self, number: int, curve: Curve, index: int) -> bool:
        """Whether run `number`, whose curve this is, is stopped at its report `index`."""
        return False


class Median(Scheduler):
    """Stops a run whose best is above the median of the others' running means. Golovin et al. 2017, section 3.2.1."""

    def __init__(self, grace: float = 0.25) -> None:
        self._grace = grace
        self._means: dict[int, dict[int, float]] = {}
        self._scores: dict[int, list[float]] = {}

    def stops(self, number: int, curve: Curve, index: int) -> bool:
        """After the grace, with at least three others that have come as far."""
        scores = self._scores.setdefault(number, [])
        scores.append(curve.reports[index].score)
        others = [mean for other, mean in self._means.setdefault(index, {}).items() if other != number]
        self._means[index][number] = statistics.fmean(scores)
        if curve.reports[index].share < self._grace or len(others) < 3:
            return False
        return min(scores) > statistics.median(others)


class Halving(Scheduler):
    """gantune's own ASHA."""

    def __init__(self, config: Asha) -> None:
        self._config = config
        self._asha: RememberingAsha | None = None

    def stops(self, number: int, curve: Curve, index: int) -> bool:
        """At a rung that the run does not pass."""
        report = curve.reports[index]
        if self._asha is None:
            self._asha = RememberingAsha(self._config, round(report.samples_seen / report.share), [])
        return self._asha.decide(number, report.samples_seen, report.score) == "STOP"


@dataclass(frozen=True, slots=True)
class Policy:
    """What decides in a search."""

    name: str
    detector: Detector
    scheduler: Callable[[], Scheduler] = Scheduler


@dataclass(frozen=True, slots=True)
class Stopped:
    """How far one run came, in reports; its share of the budget; whether it was the detector that stopped it."""

    reports: int
    share: float
    cut: bool
    by_detector: bool


def play(policy: Policy, curves: Sequence[Curve], kills: Sequence[int | None]) -> list[Stopped]:
    """A search over the curves in their order, several at a time; a run takes as long as it has samples."""
    scheduler = policy.scheduler()
    found: dict[int, Stopped] = {}
    waiting = list(range(len(curves)))
    running: dict[int, tuple[float, int]] = {}  # when it began, and the report that comes next
    now = 0.0
    while waiting or running:
        while waiting and len(running) < WORKERS:
            running[waiting.pop(0)] = (now, 0)
        number = min(running, key=lambda run: (running[run][0] + curves[run].reports[running[run][1]].share, run))
        began, index = running[number]
        report, last = curves[number].reports[index], index == len(curves[number].reports) - 1
        now = began + report.share
        killed = kills[number] == index
        if killed and not (last and report.finite):
            found[number] = Stopped(index + 1, report.share, True, True)
        elif last:  # a run that goes on without a finite value spends its whole budget
            found[number] = Stopped(index + 1, 1.0, False, False)
        elif report.finite and scheduler.stops(number, curves[number], index):
            found[number] = Stopped(index + 1, report.share, True, False)
        else:
            running[number] = (began, index + 1)
            continue
        del running[number]
    return [found[number] for number in range(len(curves))]


# Figures

FIGURES = ("precision", "recall", "stopped at", "saved", "top stopped", "regret")


def figures(curves: Sequence[Curve], ends: Sequence[Stopped], outcomes: Sequence[Outcome]) -> dict[str, float]:
    """What a policy made of one family's curves.

    precision: share of the detector's stops that hit dead runs; recall: share of dead runs that it stopped; stopped at:
    median share of the budget at which; saved: share of all samples not spent; top stopped: how many of the eight best
    runs were cut short; regret: how far the best checkpoint found lies above the best there was.
    """
    by_detector = [outcome for outcome, end in zip(outcomes, ends, strict=True) if end.by_detector]
    caught = [end for outcome, end in zip(outcomes, ends, strict=True) if outcome == "dead" and end.by_detector]
    ranked = sorted(range(len(curves)), key=lambda number: curves[number].best)
    best = curves[ranked[0]].best
    reached = min(curve.best_until(end.reports) for curve, end in zip(curves, ends, strict=True))
    dead = outcomes.count("dead")
    return {
        "precision": by_detector.count("dead") / len(by_detector) if by_detector else math.nan,
        "recall": len(caught) / dead if dead else math.nan,
        "stopped at": statistics.median(end.share for end in caught) if caught else math.nan,
        "saved": 1 - statistics.fmean(end.share for end in ends),
        "top stopped": sum(ends[number].cut for number in ranked[:TOP]),
        "regret": reached / best - 1,
    }


def bootstrapped(policy: Policy, curves: Sequence[Curve], outcomes: Outcomes) -> dict[str, list[float]]:
    """Figures over resampled configurations in random orders; both seeds of a configuration come together."""
    stream = random.Random(0)
    kills = {curve: policy.detector(curve) for curve in curves}
    names = {curve: outcomes.of(curve) for curve in curves}
    grouped: dict[int, list[Curve]] = {}
    for curve in curves:
        grouped.setdefault(curve.config, []).append(curve)
    found: dict[str, list[float]] = {name: [] for name in FIGURES}
    for _ in range(BOOTSTRAPS):
        drawn = [curve for config in stream.choices(list(grouped), k=len(grouped)) for curve in grouped[config]]
        stream.shuffle(drawn)
        ends = play(policy, drawn, [kills[curve] for curve in drawn])
        for name, value in figures(drawn, ends, [names[curve] for curve in drawn]).items():
            found[name].append(value)
    return found


def policies() -> list[Policy]:
    """Everything that is compared."""
    ours = monitor(CollapseConfig())
    return [
        Policy("nothing", nothing),
        Policy("values not finite", nan_only),
        Policy("loss variance (AutoGAN)", loss_variance),
        Policy("D accuracy > 0.95 twice", d_accuracy),
        Policy("median rule", nan_only, Median),
        Policy("ASHA", nan_only, lambda: Halving(Asha(spared=0.0))),
        Policy("ours", ours),
        Policy("ours + ASHA", ours, lambda: Halving(Asha(spared=0.0))),
        Policy("ours + ASHA, a tenth spared", ours, lambda: Halving(Asha())),
    ]


def replay(*, held_out: bool) -> None:
    """Print a table for each family."""
    every = load_curves()
    outcomes = Outcomes(every)
    half = [curve for curve in every if curve.held_out == held_out]
    print(f"{len(every)} curves, {len(half)} in the {'held-out' if held_out else 'fitting'} half")
    for family in FAMILIES:
        curves = [curve for curve in half if curve.family == family]
        if not curves:
            continue
        counts = Counter(outcomes.of(curve) for curve in curves)
        told = ", ".join(f"{counts[name]} {name}" for name in ("good", "slow", "dead"))
        print(f"\n### {family}: {len(curves)} runs, {told}; seeds alone part the best by {seed_noise(curves):.0%}\n")
        print("| policy | " + " | ".join(FIGURES) + " |")
        print("|---" * (len(FIGURES) + 1) + "|")
        for policy in policies():
            found = bootstrapped(policy, curves, outcomes)
            print(f"| {policy.name} | " + " | ".join(_interval(found[name]) for name in FIGURES) + " |", flush=True)


def seed_noise(curves: Sequence[Curve]) -> float:
    """How far the two seeds of a configuration differ in their best score, the median over the better half."""
    pairs: dict[int, list[float]] = {}
    for curve in curves:
        pairs.setdefault(curve.config, []).append(curve.best)
    whole = sorted((sorted(pair) for pair in pairs.values() if len(pair) == SEEDS), key=lambda pair: pair[0])
    gaps = [pair[1] / pair[0] - 1 for pair in whole[: max(1, len(whole) // 2)]]
    return statistics.median(gaps) if gaps else math.nan


def _interval(values: Sequence[float]) -> str:
    """Median, and the middle 90%."""
    known = sorted(value for value in values if math.isfinite(value))
    if not known:
        return "-"
    low, middle, high = (known[round(share * (len(known) - 1))] for share in (0.05, 0.5, 0.95))
    return f"{middle:.2f} ({low:.2f}..{high:.2f})"


def main() -> None:
    """Record or replay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    recording = verbs.add_parser("record")
    recording.add_argument("--family", choices=FAMILIES, action="append")
    recording.add_argument("--minutes", type=float, default=60)
    recording.add_argument("--workers", type=int, default=2)
    recording.add_argument("--mnist", help="a local Parquet file or folder of MNIST")
    replaying = verbs.add_parser("replay")
    replaying.add_argument("--held-out", action="store_true")
    chosen = parser.parse_args()
    if chosen.verb == "replay":
        replay(held_out=chosen.held_out)
        return
    record(chosen.family or list(FAMILIES), chosen.minutes, chosen.workers, chosen.mnist)


if __name__ == "__main__":
    main()
