"""How fast trials of a space go on this machine, and how many of what length fit a time."""

import itertools
import time
from dataclasses import dataclass

import torch

from gantune.config import Asha, TrialConfig
from gantune.data.data_set import BatchSource, DataSet
from gantune.domains import FixedDraw, RandomDraw
from gantune.metrics.reference import Reference
from gantune.space import SearchSpace
from gantune.trainer import GANTrainer

TRIALS = (8, 24, 64)  # fewest, usual, most
LEAST_SHARE = 0.2  # of enough samples, below which early scores tell little
TIMED, TIMED_SECONDS = 8, 0.5  # configurations, the baseline among them, and the time that each is stepped
OVERHEAD = 1.25  # start-up, checkpoints, final scores, and trials that share one memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast trials of a space go on this machine: seconds a sample and a report, and bytes of a checkpoint."""

    sample: float
    report: float
    checkpoint: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """So many trials of so many samples, and the seconds that they are expected to take."""

    trials: int
    samples: int
    seconds: float


def fit_budget(pace: Pace, enough: int, parallel: int, hours: float, reports: int) -> Budget:
    """Trials and samples that fill the time: enough samples before more trials, and fewer trials before too few."""
    share = OVERHEAD * share_trained() / parallel

    def seconds(trials: int, samples: int) -> float:
        return trials * share * (samples * pace.sample + reports * pace.report)

    fewest, usual, most = TRIALS
    fitting = (hours * 3600 / (usual * share) - reports * pace.report) / pace.sample
    samples = _rounded(max(LEAST_SHARE * enough, min(enough, fitting)))
    trials = int(hours * 3600 / seconds(1, samples))
    if LEAST_SHARE * enough < fitting < enough:
        trials = usual
    trials = max(fewest, min(most, trials))
    return Budget(trials=trials, samples=samples, seconds=seconds(trials, samples))


def share_trained() -> float:
    """The share of all trials' samples that is trained where ASHA stops at every rung what it may."""
    scheduler, total, left, before = Asha(), 0.0, 1.0, 0.0
    for rung in [*(at / 1000 for at in scheduler.rungs(1000)), 1.0]:
        total += left * (rung - before)
        left, before = left / scheduler.reduction, rung
    return total + scheduler.spared * (1 - total)


def _rounded(count: float) -> int:
    """Two digits that a person can read, never more than the count."""
    unit: int = 10 ** max(0, len(str(int(count))) - 2)
    return int(count) // unit * unit


def measure_pace(space: SearchSpace, images: DataSet, reference: Reference, device: torch.device) -> Pace:
    """The mean pace of the slower half of some configurations: a search comes to prefer the larger networks.

    The baseline and random ones are stepped for half a second each, on one thread as trials are.
    """
    draws = (space.draw(RandomDraw(seed), seed=seed) for seed in itertools.count())
    configs = [space.draw(FixedDraw(space.baseline or {}), seed=0)]
    configs += itertools.islice((config for config in draws if space.conflict(config) is None), TIMED - 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        paces = [_pace(config, images, reference, device) for config in configs]
    finally:
        torch.set_num_threads(threads)
    slower = sorted(paces, key=lambda pace: pace.sample)[len(paces) // 2 :]
    return Pace(
        sample=sum(pace.sample for pace in slower) / len(slower),
        report=sum(pace.report for pace in slower) / len(slower),
        checkpoint=max(pace.checkpoint for pace in paces),
    )


def _pace(config: TrialConfig, images: DataSet, reference: Reference, device: torch.device) -> Pace:
    trainer = GANTrainer(config, images.shape, device)
    batches = BatchSource(images, device, seed=0)
    trainer.step(batches.draw)  # the first one is slow, and shows nothing
    trainer.take_signals()  # waits for the device
    seen, started = trainer.samples_seen, time.monotonic()
    while time.monotonic() - started < TIMED_SECONDS:
        for _ in range(4):
            trainer.step(batches.draw)
        trainer.finite()  # waits for the device
    sample = (time.monotonic() - started) / (trainer.samples_seen - seen)
    started = time.monotonic()
    counts = images.class_counts if trainer.conditional else ()
    reference.evaluate(trainer.ema_generator, trainer.z_dim, config.objective.samples.report, class_counts=counts)
    report = time.monotonic() - started
    return Pace(sample=sample, report=report, checkpoint=sum(value.nbytes for value in trainer.state().values()))
