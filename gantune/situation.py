"""What people see of a search, from its rows and its manifest alone.

Its driver and anybody who reads the run draw the same picture; the driver knows a few things better.
"""

from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gantune.config import BUDGETS, SCHEDULERS, NoScheduler, Pb2, Pbt, Scheduler
from gantune.errors import RunError
from gantune.remaining import Begun, Rules
from gantune.reports import Key
from gantune.results import BUDGET, ENDED, RESTS, Row
from gantune.run import Run
from gantune.spending import Limit, Meter, Spending

CURVE = 24  # scores that a little curve shows at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A trial that trains or waits for a worker.

    `scores` are its last ones, the oldest first; `seconds_ago` None before it has reported. `place` is the machine,
    and its GPUs there. `gpu_utilization` and `gpu_memory` are shares, None where not known.
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

    `counts` are trials by state, `causes` the collapsed by verdict. `seconds` is the run's own clock; `seconds_left`
    a guess, None where there is nothing to guess from. `unfinished` counts the trials that the end of a budget
    paused, `unfinished_seconds` what finishing them takes at the pace so far. `waiting`: open trials without a
    worker. `baseline` is its score, `target` one at which the search ends.
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
    waiting: tuple[Running, ...]
    best: Lead | None
    baseline: float | None
    target: float | None
    seconds: float
    seconds_left: float | None
    limits: tuple[Limit, ...]
    spending: Spending
    cpus_per_trial: float | None
    unfinished: int = 0
    unfinished_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a run's manifest says of its search.

    `rules` decide how long trials train. `ended`: its last driver came to the search's end.
    """

    name: str
    score_name: str
    finalists: int
    seeds: int
    ended: bool
    rules: Rules
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
            finalists=confirm.get("top", 0),
            seeds=confirm.get("seeds", 0),
            ended=bool(manifest["sessions"][-1].get("ended")),
            rules=Rules(
                scheduler=_scheduler(space["search"]["scheduler"]),
                samples=budget["samples_per_trial"],
                reports=space["objective"]["reports"],
                asked=budget["trials"],
                baseline=space.get("baseline") is not None,
            ),
            limits=limits,
            target=budget.get("target"),
            price=budget.get("price_per_hour"),
            cpus=resources.get("cpus_per_trial"),
            gpus=resources.get("gpus_per_trial"),
        )

    @property
    def generations(self) -> list[int]:
        """The samples at which the generations of a population end; none of another search."""
        scheduler = self.rules.scheduler
        if not isinstance(scheduler, Pbt | Pb2):
            return []
        return scheduler.generations(self.rules.samples, self.rules.reports)


@dataclass(slots=True, kw_only=True)
class _Heard:
    """What the rows of one trial have come to."""

    state: str = ""
    stopped_by: str = ""
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

    @property
    def begun(self) -> Begun:
        """What is known of how much it still trains. A budget that has paused it may have been raised."""
        if self.state == "running" or (self.state == RESTS and self.stopped_by == BUDGET):
            return Begun(self.samples_seen, "open")
        states: dict[str, Literal["paused", "collapsed"]] = {RESTS: "paused", "collapsed": "collapsed"}
        return Begun(self.samples_seen, states.get(self.state, "ended"))


class Tally:
    """What the rows heard so far come to. They come in the order of the run's clock, and may come again."""

    def __init__(self) -> None:
        self._heard: dict[Key, _Heard] = {}
        self.meter = Meter()

    def hear(self, row: Row) -> None:
        """Take a row in."""
        self.meter.hear(row)
        trial = self._heard.setdefault((row.trial, row.repeat), _Heard())
        moment, known = (row.run_seconds, row.samples_seen), (trial.clock, trial.samples_seen)
        again = moment < known or (moment == known and row.state == trial.state)
        if again or trial.ended:
            return
        trial.best = row.best_score
        if row.score is not None and row.samples_seen != trial.samples_seen:
            trial.scores.append(row.score)
        trial.state, trial.verdict, trial.cause = row.state, row.verdict, row.cause
        trial.stopped_by = row.stopped_by
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

    def situation(
        self,
        outline: Outline,
        *,
        clock: float,
        out: Collection[Key],
        confirming: bool,
        waiting: Collection[Key] = (),
    ) -> Situation:
        """The picture at a time of the run's clock. `out`: who is trained, `waiting`: who waits, reported or not."""
        shown = {key: trial for key, trial in self._heard.items() if bool(key[1]) == confirming}
        states = Counter(trial.state for trial in shown.values())
        living = [
            Lead(trial=key[0], repeat=key[1], score=trial.best)
            for key, trial in shown.items()
            if trial.best is not None and trial.state not in ("collapsed", "failed")
        ]
        baseline = self._heard.get((0, 0)) if outline.rules.baseline else None
        spent = self._spent(outline, clock)
        cut = [key for key, trial in shown.items() if trial.state == RESTS and trial.stopped_by == BUDGET]
        asked = self._finalists(outline) * outline.seeds if confirming else outline.rules.asked
        return Situation(
            name=outline.name,
            score_name=outline.score_name,
            samples_per_trial=outline.rules.samples,
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
            waiting=tuple(self._running(key, clock) for key in sorted(waiting)),
            best=min(living, key=lambda lead: (lead.score, lead.trial), default=None),
            baseline=baseline.best if baseline else None,
            target=outline.target,
            seconds=clock,
            seconds_left=self._seconds_left(outline, spent, shown, {*out, *waiting}, asked if confirming else 0),
            limits=tuple(spent.within(outline.limits)),
            spending=spent,
            cpus_per_trial=outline.cpus,
            unfinished=len(cut),
            unfinished_seconds=self.meter.seconds_to_finish(cut, outline.rules.samples),
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
        enough = spent or reached or len(search) >= outline.rules.asked
        ends = sum(trial.ended for key, trial in self._heard.items() if key[1])
        return enough and (spent or ends >= self._finalists(outline) * outline.seeds)

    def _stage(self, outline: Outline) -> str:
        if not outline.generations:
            return ""
        least = min((trial.samples_seen for trial in self._heard.values() if not trial.ended), default=None)
        passed = len(outline.generations) if least is None else sum(end <= least for end in outline.generations)
        return f"generation {passed + 1} of {len(outline.generations) + 1}"

    def _seconds_left(
        self, outline: Outline, spent: Spending, shown: Mapping[Key, _Heard], out: Collection[Key], finalists: int
    ) -> float | None:
        """A guess from the pace so far: the time of what is still to be trained, or until a budget is used up."""
        begun = {key: trial.begun for key, trial in shown.items()}
        begun |= {key: Begun(begun[key].samples_seen if key in begun else 0, "open") for key in out}
        if finalists:  # they are never stopped early
            whole = replace(outline.rules, scheduler=NoScheduler(), asked=finalists)
            left = whole.remaining(dict(enumerate(begun.values())))
        else:
            left = outline.rules.remaining({number: trial for (number, _), trial in begun.items()})
        meter, ends = self.meter, list[float]()
        if left is None or not meter.pace:
            return None
        for limit in spent.within(outline.limits):
            rest = limit.limit - limit.spent
            ends.append(
                {
                    "hours": rest * 3600,
                    "cost": rest / (outline.price or 1.0) * 3600,
                    "samples": rest * meter.pace / meter.parallelism,
                    "gpu_hours": rest / (outline.gpus or 1.0) * 3600 / meter.parallelism,
                }[limit.name]
            )
        work = max(left.total / meter.parallelism, left.longest) * meter.pace - (spent.hours * 3600 - meter.clock)
        return max(0.0, min([work, *ends]))


def label(trial: int, repeat: int) -> str:
    """What people call a trial, or the run of a finalist."""
    return f"#{trial}.{repeat}" if repeat else f"#{trial}"


def machine(place: str) -> str:
    """A row's place without Ray's number of the node, which tells people nothing."""
    address, _, rest = place.partition(" ")
    gpus = rest.partition(" ")[2]
    return f"{address} {gpus}" if gpus else address


def _scheduler(written: Any) -> Scheduler:
    """The scheduler of a manifest."""
    ((name, options),) = written.items() if isinstance(written, dict) else [(written, {})]
    return SCHEDULERS[name](**(options or {}))
