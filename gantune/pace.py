"""How fast trials of a space go on this machine, how long a search takes, and how many of what length fit a time."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gantune.config import Hyperband, Median, NoScheduler, Pb2, Pbt, TrialConfig
from gantune.data.data_set import BatchSource, DataSet, open_data
from gantune.domains import FixedDraw, RandomDraw
from gantune.errors import SpecError
from gantune.metrics.reference import Reference
from gantune.metrics.reference_file import check_reference, load_reference, prepare_reference
from gantune.space import SearchSpace
from gantune.survey import Machine, look_at_machine
from gantune.threads import on_threads
from gantune.trainer import GANTrainer, choose_device

TRIALS = (8, 24, 64)  # fewest, usual, most
LEAST_SHARE = 0.2  # of enough samples, below which early scores tell little
TIMED, TIMED_SECONDS = 8, 0.5  # configurations, the baseline among them, and the time that each is stepped
DRAWS = 1000  # at most, to find those that are timed
BEST_SHARE = 0.3  # of a whole checkpoint: `best` holds one network, and `latest` the optimizers, too
OVERHEAD = 1.25  # start-up, checkpoints, final scores, and trials that share one memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast trials of a space go on this machine: seconds a sample and a report, and bytes of a checkpoint."""

    sample: float
    report: float
    checkpoint: int

    def trial(self, samples: int, reports: int) -> float:
        """Seconds of a trial with its whole budget."""
        return samples * self.sample + reports * self.report

    def disk(self, space: SearchSpace, at_once: int) -> float:
        """Bytes that checkpoints take at most: the `latest` of what may go on, and the `best` that `keep` keeps."""
        trials, keep, confirm = space.budget.trials, space.keep, space.confirm
        population = isinstance(space.search.scheduler, Pbt | Pb2)
        ongoing = trials if population else min(trials, at_once)
        always = trials if space.objective.others else 1 + max(1, confirm.top)  # a front may hold them all

        def whole(kept: int) -> float:
            best = min(trials, kept + ongoing) + confirm.seeds * min(trials, confirm.top)
            return self.checkpoint * (ongoing + BEST_SHARE * best)

        wanted = whole(trials if keep.top == "all" else max(always, keep.top + 1))
        return wanted if keep.gb is None else min(wanted, max(keep.gb * 1e9, whole(always)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """So many trials of so many samples, and the seconds that they are expected to take."""

    trials: int
    samples: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a search takes on this machine."""

    seconds: float
    disk: float
    at_once: int
    machine: Machine


def forecast(space: SearchSpace, report: Callable[[str], None]) -> Forecast:
    """How long a search takes here, from some seconds of training; the data and their features are made ready first.

    Raises DataError where the data are missing or do not suit, SpecError where no draw can be trained.
    """
    images, device = open_data(space.data, report), choose_device()
    reference = load_reference(prepare_reference(images, space.objective.features, report, device))
    check_reference(images, space.objective, reference)
    report("timing a few configurations")
    pace, machine, budget = measure_pace(space, images, reference.to(device), device), look_at_machine(), space.budget
    at_once = machine.at_once(space.resources)
    whole = budget.trials * pace.trial(budget.samples_per_trial, space.objective.reports)
    seconds = whole * OVERHEAD * share_trained(space) / at_once
    return Forecast(seconds=seconds, disk=pace.disk(space, at_once), at_once=at_once, machine=machine)


def fit_budget(pace: Pace, enough: int, parallel: int, hours: float, reports: int, trained: float) -> Budget:
    """Trials and samples that fill the time: enough samples before more trials, and fewer trials before too few.

    trained: the share of all trials' samples that is.
    """
    share = OVERHEAD * trained / parallel

    def seconds(trials: int, samples: int) -> float:
        return trials * share * pace.trial(samples, reports)

    fewest, usual, most = TRIALS
    fitting = (hours * 3600 / (usual * share) - reports * pace.report) / pace.sample
    samples = _rounded(max(LEAST_SHARE * enough, min(enough, fitting)))
    trials = int(hours * 3600 / seconds(1, samples))
    if LEAST_SHARE * enough < fitting < enough:
        trials = usual
    trials = max(fewest, min(most, trials))
    return Budget(trials=trials, samples=samples, seconds=seconds(trials, samples))


def share_trained(space: SearchSpace) -> float:
    """The share of all trials' samples that is trained where the scheduler stops what it may."""
    scheduler, budget = space.search.scheduler, space.budget
    if isinstance(scheduler, NoScheduler | Pbt | Pb2):
        return 1.0
    if isinstance(scheduler, Median):
        share = (1 + scheduler.grace) / 2  # half is stopped, at the first report that it may be
    elif isinstance(scheduler, Hyperband):
        brackets = [_halved(rungs, scheduler.reduction, space) for rungs in scheduler.split(budget.samples_per_trial)]
        numbers = range(budget.trials)
        share = statistics.fmean(brackets[scheduler.bracket(n, budget.samples_per_trial)] for n in numbers)
    else:
        share = _halved(space.rungs(), scheduler.reduction, space)
    return share + scheduler.spared * (1 - share)


def _halved(rungs: Sequence[int], reduction: float, space: SearchSpace) -> float:
    """The share of samples that is trained where every rung lets one in `reduction` pass."""
    total, left, before = 0.0, 1.0, 0
    for rung in [*rungs, space.budget.samples_per_trial]:
        total += left * (rung - before)
        left, before = left / reduction, rung
    return total / space.budget.samples_per_trial


def _rounded(count: float) -> int:
    """Two digits that a person can read, never more than the count."""
    unit: int = 10 ** max(0, len(str(int(count))) - 2)
    return int(count) // unit * unit


def measure_pace(space: SearchSpace, images: DataSet, reference: Reference, device: torch.device) -> Pace:
    """The mean pace of the slower half of some configurations: a search comes to prefer the larger networks.

    The first that the space gives and random ones are stepped for half a second each, on one thread as trials are.
    Raises SpecError where none is found.
    """
    draws = (space.draw(RandomDraw(seed), seed=seed) for seed in range(DRAWS))
    configs = [space.draw(FixedDraw(values), seed=0) for values in space.given()[:1]]
    configs += itertools.islice((config for config in draws if space.conflict(config) is None), TIMED - len(configs))
    if not configs:
        raise SpecError(f"{space.name}: of {DRAWS} draws not one can be trained; see what its parts and rules forbid")
    with on_threads(1):
        paces = [_pace(config, images, reference, device) for config in configs]
    slower = sorted(paces, key=lambda pace: pace.sample)[len(paces) // 2 :]
    return Pace(
        sample=sum(pace.sample for pace in slower) / len(slower),
        report=sum(pace.report for pace in slower) / len(slower),
        checkpoint=max(pace.checkpoint for pace in paces),
    )


def seconds_a_sample(config: TrialConfig, images: DataSet, device: torch.device) -> float:
    """Seconds of training that a sample takes, from half a second of it."""
    return _stepped(GANTrainer(config, images.shape, device), images, device)


def _stepped(trainer: GANTrainer, images: DataSet, device: torch.device) -> float:
    batches = BatchSource(images, device, seed=0)
    trainer.step(batches.draw)  # the first one is slow, and shows nothing
    trainer.take_signals()  # waits for the device
    seen, started = trainer.samples_seen, time.monotonic()
    while time.monotonic() - started < TIMED_SECONDS:
        for _ in range(4):
            trainer.step(batches.draw)
        trainer.finite()  # waits for the device
    return (time.monotonic() - started) / (trainer.samples_seen - seen)


def _pace(config: TrialConfig, images: DataSet, reference: Reference, device: torch.device) -> Pace:
    trainer = GANTrainer(config, images.shape, device)
    sample = _stepped(trainer, images, device)
    started = time.monotonic()
    counts = images.class_counts if trainer.conditional else ()
    reference.evaluate(trainer.ema_generator, trainer.z_dim, config.objective.samples.report, class_counts=counts)
    report = time.monotonic() - started
    return Pace(sample=sample, report=report, checkpoint=sum(value.nbytes for value in trainer.state().values()))
