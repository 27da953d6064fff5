"""Full learning curves of GANs: how they are recorded, read, and what became of each run.

learning_curves.parquet has a row for each report of each run: family, config and seed name the run; samples_seen and
share of the budget; finite, score and seconds of training; values is a map of all metrics and signals; parameters is
the configuration as JSON.
"""

import json
import logging
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gantune.compatibility import conflict
from gantune.config import ObjectiveConfig, TrialConfig, derive_seed
from gantune.data.data_set import open_data
from gantune.domains import RandomDraw
from gantune.metrics.reference_file import load_reference, prepare_reference
from gantune.space import SearchSpace, load_space
from gantune.trial import train_trial

HERE = Path(__file__).parent
CORPUS = HERE / "learning_curves.parquet"
REPORTS = 24
SEEDS = 2
TOP = 8
MODES_ALIVE = 0.7  # of the classes, below which a run is poor
FAR_FROM_GOOD = 10.0  # times the distance of a family's good runs, beyond which it is poor
LAST = 0.25  # of a run, by which its outcome is judged
STILL_IMPROVING = 0.9  # of the best score before, which the last quarter of a slow run beats

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
            "space.lr_g=log 5e-5..1e-2",  # slower, and five runs in six have not begun to learn by the end
            "budget.samples_per_trial=180000",
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
    """The corpus by family, configuration and seed, with as many reports as a search makes of a run."""
    grouped: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in pq.read_table(CORPUS).to_pylist():
        grouped.setdefault((row["family"], row["config"], row["seed"]), []).append(row)
    return [
        Curve(
            *key,
            rows[0]["parameters"],
            tuple(
                Report(row["samples_seen"], row["share"], row["finite"], row["score"], dict(row["values"]))
                for number, row in enumerate(sorted(rows, key=lambda row: row["samples_seen"]), 1)
                if number % (REPORTS // ObjectiveConfig().reports) == 0 or not row["finite"]
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
