"""What people see of a search, from its rows and its manifest alone.

Its driver and anybody who reads the run draw the same picture; the driver knows a few things better.
"""

from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gantune.config import BUDGETS, Pb2, Pbt
from gantune.errors import RunError
from gantune.records import ENDED, RESTS
from gantune.results import Row
from gantune.run import Run
from gantune.spending import Limit, Meter, Spending

CURVE = 24  # scores that a little curve shows at most
Key = tuple[int, int]  # a trial and a repeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A trial that is out. `scores` are its last ones, the oldest first; `seconds_ago` None before it has reported.

    `place` is the machine, and its GPUs there. `gpu_utilization` and `gpu_memory` are shares, None where not known.
    """

    trial: int
    repeat: int = 0
    samples_seen: int = 0
    score: float | None = None
    best_score: float | None = None
    scores: tuple[float, ...] = ()
    seconds_ago: float | None = None
    place: str = ""
    gpu_utilization: float | None = None
    gpu_memory: float | None = None

    @property
    def label(self) -> str:
        """What people call it."""
        return label(self.trial, self.repeat)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """The lowest score so far and whose it is."""

    trial: int
    repeat: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A trial that could not be trained, and why."""

    trial: int
    repeat: int
    samples_seen: int
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """A search at one moment. While finalists are confirmed, `done`, `asked`, counts and best are those of their runs.

    `counts` are trials by state, `causes` the collapsed by verdict. `seconds` is the run's own clock; `seconds_left` a
    guess, None where there is nothing to guess from. `baseline` is its score; `target` one at which the search ends.
    """

    name: str
    score_name: str
    samples_per_trial: int
    confirming: bool
    stage: str
    done: int
    asked: int
    counts: Mapping[str, int]
    causes: Mapping[str, int]
    failures: tuple[Failure, ...]
    running: tuple[Running, ...]
    best: Lead | None
    baseline: float | None
    target: float | None
    seconds: float
    seconds_left: float | None
    limits: tuple[Limit, ...]
    spending: Spending
    cpus_per_trial: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a run's manifest says of its search.

    `generations` are the samples at which those of a population end; `ended`: its last driver came to the search's end.
    """

    name: str
    score_name: str
    trials: int
    samples_per_trial: int
    finalists: int
    seeds: int
    has_baseline: bool
    ended: bool
    generations: tuple[int, ...]
    limits: Mapping[str, float]
    target: float | None
    price: float | None
    cpus: float | None
    gpus: float | None

    @staticmethod
    def of(run: Run) -> "Outline":
        """Read the manifest. Raises RunError where it cannot be read."""
        try:
            return Outline._read(run, run.manifest())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else f"holds what does not belong there: {error}"
            raise RunError(f"{run.folder / 'manifest.json'}: {what}; restore it, or start a new run") from error

    @staticmethod
    def _read(run: Run, manifest: Mapping[str, Any]) -> "Outline":
        space = manifest["space"]
        budget, confirm, resources = space["budget"], space.get("confirm") or {}, run.resources()
        limits = {name: budget[name] for name in BUDGETS if budget.get(name)}
        return Outline(
            name=run.name,
            score_name=manifest.get("protocol", {}).get("score", "score"),
            trials=budget["trials"],
            samples_per_trial=budget["samples_per_trial"],
            finalists=confirm.get("top", 0),
            seeds=confirm.get("seeds", 0),
            has_baseline=space.get("baseline") is not None,
            ended=bool(manifest["sessions"][-1].get("ended")),
            generations=_generations(space),
            limits=limits,
            target=budget.get("target"),
            price=budget.get("price_per_hour"),
            cpus=resources.get("cpus_per_trial"),
            gpus=resources.get("gpus_per_trial"),
        )


@dataclass(slots=True, kw_only=True)
class _Heard:
    """What the rows of one trial have come to."""

    state: str = ""
    verdict: str = ""
    cause: str = ""
    samples_seen: int = 0
    clock: float = 0.0
    score: float | None = None
    best: float | None = None
    scores: deque[float] = field(default_factory=lambda: deque(maxlen=CURVE))
    place: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """For good: what failed may be tried again."""
        return self.state in ENDED and self.state != "failed"


class Tally:
    """What the rows heard so far come to. They come in the order of the run's clock, and may come again."""

    def __init__(self) -> None:
        self._heard: dict[Key, _Heard] = {}
        self.meter = Meter()

    def hear(self, row: Row) -> None:
        """Take a row in."""
        self.meter.hear(row)
        trial = self._heard.setdefault((row.trial, row.repeat), _Heard())
        again = row.run_seconds < trial.clock or (row.run_seconds, row.state) == (trial.clock, trial.state)
        if again or trial.ended:
            return
        if row.reborn:
            trial.best = None
        elif row.best_score is not None:
            trial.best = row.best_score if trial.best is None else min(trial.best, row.best_score)
        if row.score is not None and row.samples_seen != trial.samples_seen:
            trial.scores.append(row.score)
        trial.state, trial.verdict, trial.cause = row.state, row.verdict, row.cause
        trial.samples_seen, trial.score, trial.place = row.samples_seen, row.score, row.place
        trial.clock = row.run_seconds
        trial.metrics = row.metrics
        if row.state in ENDED:
            trial.metrics = {}
            trial.scores.clear()

    @property
    def known(self) -> Collection[Key]:
        """Trials and repeats of which a row tells."""
        return self._heard.keys()

    def running(self) -> set[Key]:
        """Those that are neither ended nor at rest, going by their last rows."""
        return {key for key, trial in self._heard.items() if trial.state == "running"}

    @property
    def confirming(self) -> bool:
        """Whether finalists are being trained again."""
        return any(repeat for _, repeat in self._heard)

    def situation(self, outline: Outline, *, clock: float, out: Collection[Key], confirming: bool) -> Situation:
        """The picture at a time of the run's clock. `out`: who is being trained, whether it has reported or not."""
        shown = {key: trial for key, trial in self._heard.items() if bool(key[1]) == confirming}
        states = Counter(trial.state for trial in shown.values())
        living = [
            Lead(trial=key[0], repeat=key[1], score=trial.best)
            for key, trial in shown.items()
            if trial.best is not None and trial.state not in ("collapsed", "failed")
        ]
        baseline = self._heard.get((0, 0)) if outline.has_baseline else None
        spent = self._spent(outline, clock)
        asked = self._finalists(outline) * outline.seeds if confirming else outline.trials
        return Situation(
            name=outline.name,
            score_name=outline.score_name,
            samples_per_trial=outline.samples_per_trial,
            confirming=confirming,
            stage=self._stage(outline),
            done=sum(states[state] for state in (*ENDED, RESTS)),
            asked=asked,
            counts={state: states[state] for state in (*ENDED, RESTS) if states[state]},
            causes=dict(Counter(trial.verdict for trial in shown.values() if trial.state == "collapsed")),
            failures=tuple(
                Failure(trial=key[0], repeat=key[1], samples_seen=trial.samples_seen, cause=trial.cause)
                for key, trial in shown.items()
                if trial.state == "failed"
            ),
            running=tuple(self._running(key, clock) for key in sorted(out)),
            best=min(living, key=lambda lead: (lead.score, lead.trial), default=None),
            baseline=baseline.best if baseline else None,
            target=outline.target,
            seconds=clock,
            seconds_left=self._seconds_left(outline, spent, clock, asked, states),
            limits=tuple(spent.within(outline.limits)),
            spending=spent,
            cpus_per_trial=outline.cpus,
        )

    def _running(self, key: Key, clock: float) -> Running:
        trial = self._heard.get(key)
        if trial is None:
            return Running(trial=key[0], repeat=key[1])
        return Running(
            trial=key[0],
            repeat=key[1],
            samples_seen=trial.samples_seen,
            score=trial.score,
            best_score=trial.best,
            scores=tuple(trial.scores),
            seconds_ago=max(0.0, clock - trial.clock),
            place=machine(trial.place),
            gpu_utilization=trial.metrics.get("gpu_utilization"),
            gpu_memory=trial.metrics.get("gpu_memory"),
        )

    def _spent(self, outline: Outline, clock: float) -> Spending:
        return self.meter.spending(clock, outline.gpus, outline.price)

    def _finalists(self, outline: Outline) -> int:
        """How many there are: no more than survived."""
        living = (trial.best is not None and trial.state != "collapsed" for key, trial in self._heard.items())
        return min(outline.finalists, sum(alive for alive, key in zip(living, self._heard, strict=True) if not key[1]))

    def over(self, outline: Outline) -> bool:
        """Whether the search came to its end, by its rows alone: nothing is open, and enough was tried or spent."""
        limits = self._spent(outline, self.meter.clock).within(outline.limits)
        spent = any(limit.reached for limit in limits)
        search = {key: trial for key, trial in self._heard.items() if not key[1]}
        states = Counter(trial.state for trial in search.values())
        if not search or states["running"] or states[RESTS]:
            return False
        target = outline.target
        reached = target is not None and any(
            trial.best is not None and trial.best <= target for trial in search.values() if trial.state != "collapsed"
        )
        enough = spent or reached or len(search) >= outline.trials
        ends = sum(trial.ended for key, trial in self._heard.items() if key[1])
        return enough and (spent or ends >= self._finalists(outline) * outline.seeds)

    def _stage(self, outline: Outline) -> str:
        if not outline.generations:
            return ""
        least = min((trial.samples_seen for trial in self._heard.values() if not trial.ended), default=None)
        passed = len(outline.generations) if least is None else sum(end <= least for end in outline.generations)
        return f"generation {passed + 1} of {len(outline.generations) + 1}"

    def _seconds_left(
        self, outline: Outline, spent: Spending, clock: float, asked: int, states: Mapping[str, int]
    ) -> float | None:
        """A guess from the pace of the whole run so far."""
        ended = sum(states.get(state, 0) for state in ENDED)
        limits = (limit for limit in spent.within(outline.limits) if limit.spent)
        guesses = [clock / limit.spent * (limit.limit - limit.spent) for limit in limits]
        if outline.generations and spent.samples:
            guesses.append(clock / spent.samples * (asked * outline.samples_per_trial - spent.samples))
        elif ended and not outline.generations:
            guesses.append(clock / ended * (asked - ended - states.get(RESTS, 0)))
        return max(0.0, min(guesses)) if guesses and clock else None


def label(trial: int, repeat: int) -> str:
    """What people call a trial, or the run of a finalist."""
    return f"#{trial}.{repeat}" if repeat else f"#{trial}"


def machine(place: str) -> str:
    """A row's place without Ray's number of the node, which tells people nothing."""
    address, _, rest = place.partition(" ")
    gpus = rest.partition(" ")[2]
    return f"{address} {gpus}" if gpus else address


def _generations(space: Mapping[str, Any]) -> tuple[int, ...]:
    """When the generations of a population end; nothing where the scheduler is another."""
    kinds: dict[str, type[Pbt | Pb2]] = {"pbt": Pbt, "pb2": Pb2}
    scheduler = space["search"]["scheduler"]
    ((name, options),) = scheduler.items() if isinstance(scheduler, dict) else [(scheduler, {})]
    if name not in kinds:
        return ()
    population = kinds[name](**{key: value for key, value in (options or {}).items() if key == "interval"})
    return tuple(population.generations(space["budget"]["samples_per_trial"], space["objective"]["reports"]))
