"""How fast the configurations of a space train on this machine, and how long a search of it takes."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gantune.config import NoScheduler, Pb2, Pbt, TrialConfig
from gantune.data.data_set import BatchSource, DataSet, open_data
from gantune.domains import FixedDraw, RandomDraw
from gantune.errors import SpecError
from gantune.metrics.reference import Reference
from gantune.metrics.reference_file import check_reference, load_reference, prepare_reference
from gantune.plan import MARGIN, Clock, Pace, Paces, Preparation, Work, makespan
from gantune.space import SearchSpace
from gantune.survey import Machine, look_at_machine
from gantune.threads import on_threads
from gantune.trainer import GANTrainer, choose_device

TIMED, LEAST_TIMED = 8, 3  # configurations, the baseline among them; no fewer however short the time is
TIMED_SECONDS, LEAST_SECONDS = 0.5, 0.1  # that each is stepped
DRAWS = 1000  # at most, to find those that are timed
BEST_SHARE = 0.3  # of a whole checkpoint: `best` holds one network, and `latest` the optimizers, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a search takes on this machine. `preparation`: the part of `seconds` in which nothing is trained."""

    seconds: float
    preparation: float
    disk: float
    at_once: int
    machine: Machine
    timed: int


def forecast(space: SearchSpace, report: Callable[[str], None]) -> Forecast:
    """Return how long a search takes here, from some seconds of training; data and features are prepared first.

    Raises DataError where the data are missing or do not suit, SpecError where no draw can be trained.
    """
    images, device = open_data(space.data, report), choose_device()
    reference = load_reference(prepare_reference(images, space.objective.features, report, device))
    check_reference(images, space.objective, reference)
    report("timing a few configurations")
    paces = measure_pace(space, images, reference.to(device), device)
    machine, budget, confirm = look_at_machine(), space.budget, space.confirm
    work = Work(machine.at_once(space.resources), space.objective.reports, space.baseline is not None)
    trained = makespan(space.search.scheduler, budget.trials, budget.samples_per_trial, paces, work)
    repeats = confirm.seeds * min(budget.trials, confirm.top)
    trained += makespan(NoScheduler(), repeats, budget.samples_per_trial, paces, work)
    preparation = Preparation().total
    return Forecast(
        seconds=preparation + MARGIN * trained,
        preparation=preparation,
        disk=disk(space, work.at_once, paces.checkpoint),
        at_once=work.at_once,
        machine=machine,
        timed=len(paces.timed),
    )


def disk(space: SearchSpace, at_once: int, checkpoint: int) -> float:
    """Return the bytes that checkpoints take at most: `latest` of what may go on, and `best` of what `keep` keeps."""
    trials, keep, confirm = space.budget.trials, space.keep, space.confirm
    population = isinstance(space.search.scheduler, Pbt | Pb2)
    ongoing = trials if population else min(trials, at_once)
    always = trials if space.objective.others else 1 + max(1, confirm.top)  # a front may hold them all

    def whole(kept: int) -> float:
        best = min(trials, kept + ongoing) + confirm.seeds * min(trials, confirm.top)
        return checkpoint * (ongoing + BEST_SHARE * best)

    wanted = whole(trials if keep.top == "all" else max(always, keep.top + 1))
    return wanted if keep.gb is None else min(wanted, max(keep.gb * 1e9, whole(always)))


def measure_pace(
    space: SearchSpace,
    images: DataSet,
    reference: Reference,
    device: torch.device,
    clock: Clock | None = None,
    synthetic: float = 0.0,
) -> Paces:
    """Return the paces of some configurations: the first that the space gives, which is the baseline, and random ones.

    Each is stepped on one thread as trials are: for half a second, or for less where the clock says so, which may leave
    some configurations out. synthetic: seconds of the classifier that a conditional generator's final score trains.
    Raises SpecError where no configuration is found.
    """
    clock = clock or Clock()
    draws = (space.draw(RandomDraw(seed), seed=seed) for seed in range(DRAWS))
    configs = [space.draw(FixedDraw(values), seed=0) for values in space.given()[:1]]
    configs += itertools.islice((config for config in draws if space.conflict(config) is None), TIMED - len(configs))
    if not configs:
        raise SpecError(f"{space.name}: of {DRAWS} draws not one can be trained; see what its parts and rules forbid")
    seconds = max(LEAST_SECONDS, min(TIMED_SECONDS, clock.left / 3 / TIMED))
    timed: list[Pace] = []
    longest = 0.0
    with on_threads(1):
        for config in configs:
            before = clock.spent
            if len(timed) >= LEAST_TIMED and longest > clock.left:
                break
            timed.append(_pace(config, images, reference, device, seconds, synthetic))
            longest = max(longest, clock.spent - before)
    return Paces(timed=tuple(timed))


def seconds_a_sample(config: TrialConfig, images: DataSet, device: torch.device) -> float:
    """Return the seconds of training that a sample takes, from half a second of it."""
    return _stepped(GANTrainer(config, images.shape, device), images, device, TIMED_SECONDS)


def _stepped(trainer: GANTrainer, images: DataSet, device: torch.device, seconds: float) -> float:
    batches = BatchSource(images, device, seed=0)
    trainer.step(batches.draw)  # the first one is slow, and shows nothing
    trainer.take_signals()  # waits for the device
    seen, started = trainer.samples_seen, time.monotonic()
    while time.monotonic() - started < seconds:
        for _ in range(4):
            trainer.step(batches.draw)
        trainer.finite()  # waits for the device
    return (time.monotonic() - started) / (trainer.samples_seen - seen)


def _pace(
    config: TrialConfig,
    images: DataSet,
    reference: Reference,
    device: torch.device,
    seconds: float,
    synthetic: float,
) -> Pace:
    trainer = GANTrainer(config, images.shape, device)
    sample = _stepped(trainer, images, device, seconds)
    started = time.monotonic()
    counts, samples = images.class_counts if trainer.conditional else (), config.objective.samples
    reference.evaluate(trainer.ema_generator, trainer.z_dim, samples.report, class_counts=counts)
    report = time.monotonic() - started
    return Pace(
        sample=sample,
        report=report,
        final=report * samples.final / samples.report + synthetic * trainer.conditional,
        checkpoint=sum(value.nbytes for value in trainer.state().values()),
    )
