"""How long a search takes, and how many trials of what length fit a time: pure functions of a measured pace."""

import heapq
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gantune.config import Asha, Hyperband, Median, NoScheduler, Pb2, Pbt, Scheduler

FEWEST, USUAL, MOST = 4, 24, 64  # trials; the fewest are the baseline and three others
LEAST_SHARE = 0.2  # of enough samples, below which early scores tell little
LOOK_SHARE = 0.02  # of enough samples, below which no trial is planned however short the time is
FIRST_RUNG = 0.08
REDUCTION = 2.0
MARGIN = 1.15  # of training, for what other programs take of the machine meanwhile
INIT_SHARE = 0.1  # of the hours asked for that `gantune init` itself may take

# Seconds of a search besides its trials, measured on 2 CPU cores that did little else: 7 of imports, 3 of the audit of
# the space, 15 of Ray, its workers and their imports; at the end the last rows and the end of Ray.
STARTING = 25.0
ENDING = 5.0
IMPORTS = 2.5  # of `gantune init` on the same machine; where they take longer, starting does, too
SLOWEST = 2.0  # times as long, at most: a disk that is read for the first time slows down imports only once
START = 1.0  # of a trial, or of one that is resumed, on a worker that runs already

SCENARIOS = 5  # simulated searches, of which the longest counts
PROGRESS = 1.0  # standard deviations by which proposals become better during a search, so that more of them go on
NOISE = 0.5  # of a score at a rung, in standard deviations of what trials come to
UNIT = 1_000_000  # samples, to ask schedulers for shares


class Clock:
    """The seconds that a command has taken, and those that are left of what it may take."""

    def __init__(self, limit: float = math.inf, before: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._now = now
        self._started = now() - before

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self._now() - self._started

    @property
    def left(self) -> float:
        """Seconds until the limit; negative after it."""
        return self.limit - self.spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a configuration trains here: seconds of a sample, a report and a final score; bytes of a checkpoint."""

    sample: float
    report: float
    final: float = 0.0
    checkpoint: int

    def trial(self, samples: int, reports: int) -> float:
        """Seconds of a whole trial without its final score."""
        return samples * self.sample + reports * self.report


@dataclass(frozen=True, slots=True, kw_only=True)
class Paces:
    """The paces of some configurations of a space: the baseline's, or the first one's, and those of random ones."""

    timed: tuple[Pace, ...]

    @property
    def slower(self) -> tuple[Pace, ...]:
        """The slower half: a search comes to prefer the larger networks."""
        return tuple(sorted(self.timed, key=lambda pace: pace.sample)[len(self.timed) // 2 :])

    @property
    def sample(self) -> float:
        """Mean seconds of a sample in the slower half."""
        return sum(pace.sample for pace in self.slower) / len(self.slower)

    @property
    def report(self) -> float:
        """Mean seconds of a report in the slower half."""
        return sum(pace.report for pace in self.slower) / len(self.slower)

    @property
    def checkpoint(self) -> int:
        """Bytes of the largest checkpoint."""
        return max(pace.checkpoint for pace in self.timed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """Seconds that a search takes besides its trials.

    `starting`: imports, the audit of the space, Ray; `data`, `features`: what the cache does not hold yet.
    """

    starting: float = STARTING
    data: float = 0.0
    features: float = 0.0

    @property
    def total(self) -> float:
        """Seconds before the first trial and after the last one."""
        return self.starting + self.data + self.features + ENDING


def starting(imports: float) -> float:
    """Return the seconds until a search begins with what is particular to it, from those of imports just made."""
    return STARTING * min(SLOWEST, max(1.0, imports / IMPORTS))


@dataclass(frozen=True, slots=True)
class Work:
    """What trials share: workers that train at once, reports of a trial, and whether trial 0 is a baseline."""

    at_once: int
    reports: int
    baseline: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Trials of so many samples each, their first rung, and the seconds of training that are expected.

    `fits`: whether that is within the time asked for.
    """

    trials: int
    samples: int
    first_rung: float = FIRST_RUNG
    seconds: float = 0.0
    fits: bool = True

    @property
    def scheduler(self) -> Asha:
        """The early stops that suit the number of trials."""
        return Asha(first_rung=self.first_rung, reduction=REDUCTION)


def fit_budget(paces: Paces, enough: int, work: Work, seconds: float) -> Budget:
    """Return the trials and samples that fill so many seconds of training.

    The usual number of trials comes first, as long as each has samples enough to tell something; where the time is
    longer, trials become longer and then more, and where it is shorter, fewer and at last shorter. The baseline gets
    its whole budget in any case.
    """
    least = LEAST_SHARE * enough
    if not _budget(paces, FEWEST, least, work, seconds).fits:
        return _longest(paces, FEWEST, LOOK_SHARE * enough, least, work, seconds)
    if not _budget(paces, USUAL, least, work, seconds).fits:
        return _most(paces, FEWEST, USUAL, least, work, seconds)
    if not _budget(paces, USUAL, enough, work, seconds).fits:
        return _longest(paces, USUAL, least, enough, work, seconds)
    return _most(paces, USUAL, MOST + 1, enough, work, seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A budget, the preparation of its search, and the hours and the budget that would give it a real chance."""

    budget: Budget
    preparation: Preparation
    chance_hours: float = 0.0
    chance: Budget | None = None


def make_plan(paces: Paces, enough: int, work: Work, preparation: Preparation, hours: float) -> Plan:
    """Return the budget that fits the time that preparation leaves of so many hours.

    A real chance is the usual number of trials with the fewest samples from which early scores tell something.
    """
    better = _budget(paces, USUAL, LEAST_SHARE * enough, work, math.inf)
    needed = (preparation.total + better.seconds) / 3600
    unit = 10 ** (math.floor(math.log10(needed)) - 1)
    return Plan(
        budget=fit_budget(paces, enough, work, hours * 3600 - preparation.total),
        preparation=preparation,
        chance_hours=math.ceil(needed / unit) * unit,
        chance=better,
    )


def first_rung(trials: int) -> float:
    """Return the share of a trial at which halving begins, so that one or two of so many trials go on to the end."""
    halvings = max(1, math.floor(math.log2(trials / 1.5)))
    return max(FIRST_RUNG, REDUCTION**-halvings)


def makespan(scheduler: Scheduler, trials: int, samples: int, paces: Paces, work: Work) -> float:
    """Return the seconds of training until the last of so many trials has ended: the longest of some simulations."""
    return max(_Simulation(scheduler, trials, samples, paces, work, seed).run() for seed in range(SCENARIOS))


def _budget(paces: Paces, trials: int, samples: float, work: Work, seconds: float) -> Budget:
    """The budget of so many trials, and whether it fits."""
    draft = Budget(trials=trials, samples=_rounded(samples), first_rung=first_rung(trials))
    needed = MARGIN * makespan(draft.scheduler, trials, draft.samples, paces, work)
    return Budget(
        trials=trials, samples=draft.samples, first_rung=draft.first_rung, seconds=needed, fits=needed <= seconds
    )


def _longest(paces: Paces, trials: int, low: float, high: float, work: Work, seconds: float) -> Budget:
    """The budget with the most samples between two counts that fits; with the fewest where none does."""
    found = _budget(paces, trials, low, work, seconds)
    for _ in range(10 if found.fits else 0):
        middle = (low + high) / 2
        budget = _budget(paces, trials, middle, work, seconds)
        low, high = (middle, high) if budget.fits else (low, middle)
        found = budget if budget.fits else found
    return found


def _most(paces: Paces, low: int, high: int, samples: float, work: Work, seconds: float) -> Budget:
    """The budget with the most trials from `low`, which fits, to below `high`."""
    found = _budget(paces, low, samples, work, seconds)
    while high - low > 1:
        middle = (low + high) // 2
        budget = _budget(paces, middle, samples, work, seconds)
        low, high = (middle, high) if budget.fits else (low, middle)
        found = budget if budget.fits else found
    return found


def _rounded(count: float) -> int:
    """Two digits that a person can read, never more than the count."""
    unit: int = 10 ** max(0, len(str(int(count))) - 2)
    return max(1, int(count) // unit * unit)


def stops_at(scheduler: Scheduler, number: int, reports: int) -> tuple[float, ...]:
    """Return the shares of its budget at which a trial may be stopped: those of the reports that decide."""
    rungs: Sequence[float] = []
    if isinstance(scheduler, Median):
        rungs = [scheduler.grace * UNIT]  # what is stopped is mostly stopped at once
    elif isinstance(scheduler, Hyperband):
        rungs = scheduler.split(UNIT)[scheduler.bracket(number, UNIT)]
    elif not isinstance(scheduler, NoScheduler | Pbt | Pb2):
        rungs = scheduler.rungs(UNIT)
    due = {math.ceil(rung * reports / UNIT) for rung in rungs}
    return tuple(report / reports for report in sorted(due) if report < reports)


class _Simulation:
    """One search with invented scores, by the rules of driver/halving.py and driver/schedulers.py."""

    def __init__(self, scheduler: Scheduler, trials: int, samples: int, paces: Paces, work: Work, seed: int) -> None:
        self._draw = random.Random(seed)
        self._trials, self._work = trials, work
        self._marks = [(*stops_at(scheduler, number, work.reports), 1.0) for number in range(trials)]
        self._reduction = getattr(scheduler, "reduction", REDUCTION)
        self._spared: float = getattr(scheduler, "spared", 0.0)
        self._resumes = not isinstance(scheduler, Median)
        self._paces = [paces.timed[0], *(self._draw.choice(paces.slower) for _ in range(trials - 1))]
        self._whole = [pace.trial(samples, work.reports) for pace in self._paces]
        self._worth = [self._draw.gauss(-PROGRESS * number / trials, 1) for number in range(trials)]
        self._unstoppable = {0} if work.baseline else set[int]()
        self._came: dict[tuple[tuple[float, ...], int], dict[int, float]] = {}  # by marks and rung, a trial's score
        self._best: dict[tuple[tuple[float, ...], int], set[int]] = {}  # the upper part of those
        self._paused: dict[int, int] = {}  # by trial, the rung at which it was paused
        self._begun = self._stops = 0

    def run(self) -> float:
        """Return the seconds until no trial runs and none is left to begin or to resume."""
        clock, running = 0.0, list[tuple[float, int, int]]()  # when each trial comes to which of its marks
        while True:
            while len(running) < self._work.at_once and (ready := self._next()) is not None:
                heapq.heappush(running, (clock + START + self._until(*ready), *ready))
            if not running:
                return clock
            clock, trial, rung = heapq.heappop(running)
            if self._goes_on(trial, rung):
                heapq.heappush(running, (clock + self._until(trial, rung + 1), trial, rung + 1))

    def _next(self) -> tuple[int, int] | None:
        """The trial for a free worker and the mark that it comes to next: a paused one that may go on, or a new one."""
        for trial, rung in sorted(self._paused.items(), key=lambda item: -self._marks[item[0]][item[1]]):
            if self._resumes and trial in self._best[self._marks[trial], rung]:
                del self._paused[trial]
                return trial, rung + 1
        if self._begun == self._trials:
            return None
        self._begun += 1
        return self._begun - 1, 0

    def _until(self, trial: int, rung: int) -> float:
        """Seconds of training from the mark before to this one."""
        marks = self._marks[trial]
        share = marks[rung] - (marks[rung - 1] if rung else 0.0)
        return share * self._whole[trial] + (self._paces[trial].final if marks[rung] == 1 else 0.0)

    def _goes_on(self, trial: int, rung: int) -> bool:
        """Note that a trial came to a mark; say whether it goes on at once."""
        if self._marks[trial][rung] == 1:
            return False
        place = self._marks[trial], rung
        came = self._came.setdefault(place, {})
        came[trial] = self._worth[trial] + self._draw.gauss(0, NOISE)
        upper = max(1, int(len(came) / self._reduction))
        self._best[place] = set(sorted(came, key=came.__getitem__)[:upper])
        if trial in self._unstoppable or trial in self._best[place]:
            return True
        self._stops += 1
        if round(self._stops * self._spared) > round((self._stops - 1) * self._spared):
            self._unstoppable.add(trial)
            return True
        self._paused[trial] = rung
        return False
