"""The books of a population: members train a generation, then the worst take over from the best and explore.

Generations are synchronous, and everything follows from the rows and the seed: a search that was killed reads its rows
again, comes to the same decisions, and carries out those that it did not live to note. Members that have ended a
generation rest; they are issued again for the next one. A member that collapses is not lost while any other lives: its
row says what it died of, and at the generation's end it takes over a living one. The baseline never takes over.
"""

import json
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gantune.config import Pb2, Pbt, Scalar, TrialConfig, derive_seed
from gantune.domains import FixedDraw
from gantune.driver.exploration import Situation, Stretch, explore
from gantune.driver.ledger import Ledger
from gantune.driver.study import Proposal, Study
from gantune.driver.transplant import moved, transplant
from gantune.plugins import shown
from gantune.progress import Progress
from gantune.reports import Key
from gantune.results import ENDED, RESTS, TAKES_OVER, Row
from gantune.run import Run
from gantune.space import SearchSpace
from gantune.trial import meets


class Population(Ledger):
    """Books of a search whose trials are the members of a population."""

    def __init__(self, run: Run, space: SearchSpace, study: Study) -> None:
        super().__init__(run, space, study)
        assert isinstance(space.search.scheduler, Pbt | Pb2)
        self._space = space
        self._quantile = space.search.scheduler.quantile
        self._configs = {proposal.number: proposal.config for proposal in self._waiting}
        self._waiting = []
        self._numbers = {*self._configs, *self._last}
        self._members: dict[int, Row] = {}  # the last row of each
        self._scored: dict[int, tuple[int, float]] = {}  # samples seen and score of each one's weights
        self._stretches: list[Stretch] = []
        self._failed: set[int] = set()  # in this session, so not to be issued in it again
        self._plan: dict[int, int | None] = {}  # who is still to take over whom; None: nobody is left
        self._ends = space.rungs()
        self._border = next(iter(self._ends), None)  # the samples seen at which the present generation ends
        self._known: set[tuple[int, int]] = set()
        for row in self.rows():
            self._follow(row)

    @property
    def stage(self) -> str:
        """The present generation."""
        return f"generation {self._generation() + 1} of {len(self._ends) + 1}"

    def _generation(self) -> int:
        return len(self._ends) if self._border is None else self._ends.index(self._border)

    def rests(self, samples_seen: int) -> bool:
        """Whether a member of so many samples waits for the generation's end."""
        return self._border is not None and samples_seen >= self._border

    def next(self) -> Proposal | None:
        """The next member to train on; None where all are out, rest or have ended."""
        if self.out_of_budget() or self.stuck():
            return None
        self._propose_all()
        self._turn()
        for number, donor in sorted(self._plan.items()):
            self._take_over(number, donor)
        for number, config in sorted(self._configs.items()):
            row = self._members.get(number)
            resting = row is not None and (_dead(row) or self.rests(row.samples_seen))
            if not resting and number not in self._failed | {*self._proposals} and self._study.is_open(number):
                return self._issue(Proposal(number, config))
        return None

    def _propose_all(self) -> None:
        """The whole population, before any member trains: what is proposed depends on no speed and no kill."""
        while not self._whole() and (proposal := self._study.propose()) is not None:
            self._numbers.add(proposal.number)
            self._configs[proposal.number] = proposal.config

    def record(self, number: int, progress: Progress, *, stopped: bool, by: str = "") -> Row | None:
        """Note a report; `by` a person, who stops a member for good. Returns the row where it ended the trial."""
        if number not in self._proposals:
            return None
        self._failures = []
        if progress.state == "running" and by:
            return super().record(number, progress, stopped=stopped, by=by)
        if progress.state == "running" and (number, progress.samples_seen) in self._known:
            return None  # a trial that continues repeats its last report
        saved = progress.state == "collapsed" and self._border is not None and number != self._baseline
        state = "running" if saved else progress.state
        row = self._row(number, state, progress, progress.verdict.cause)
        if saved or (state == "running" and self.rests(progress.samples_seen)):
            del self._proposals[number]
        self._note_row(row)
        self._report(row)
        if state == "running":
            return None
        self._tell(row)
        return row

    def fail(self, number: int, cause: str) -> Row | None:
        """Note that a member could not be trained."""
        self._failed.add(number)
        return super().fail(number, cause)

    def _again(self, number: int) -> None:
        del self._proposals[number]  # it does not rest

    def close(self, cause: str) -> None:
        """Pause all members, but for those that wait to be replaced."""
        for number, config in sorted(self._configs.items()):
            row = self._members.get(number)
            if self._study.is_open(number) and not (row is not None and _dead(row)):
                self._proposals[number] = Proposal(number, config)
                self._pause(self._proposals[number], cause)

    def _open_number(self, key: Key) -> int | None:
        number = key[0]
        if key[1] or number not in self._configs or not self._study.is_open(number):
            return None
        self._proposals.setdefault(number, Proposal(number, self._configs[number]))
        return number

    def _note_row(self, row: Row) -> None:
        super()._note_row(row)
        self._follow(row)

    def _follow(self, row: Row) -> None:
        """Know a row, be it new or of an earlier session."""
        if row.starts_over:
            self._known = {key for key in self._known if key[0] != row.trial}
        planned, donor = row.trial in self._plan, self._plan.pop(row.trial, None)
        if row.donor is not None:
            self._configs[row.trial] = self._space.draw(FixedDraw(json.loads(row.config)), seed=row.seed)
            self._known = {key for key in self._known if key[0] != row.trial}
            if donor is not None:
                self._scored[row.trial] = self._scored[donor]
        elif row.score is not None:
            self._learn(row, row.score)
        self._known.add((row.trial, row.samples_seen))
        self._members[row.trial] = row
        if planned and not self._plan:
            self._advance()
        self._turn()

    def _learn(self, row: Row, score: float) -> None:
        samples, before = self._scored.get(row.trial, (0, math.nan))
        if 0 < samples < row.samples_seen:
            gain = (before - score) / (row.samples_seen - samples)
            values = json.loads(row.config)
            self._stretches.append(Stretch(samples_seen=samples, score=before, gain=gain, values=values))
        self._scored[row.trial] = row.samples_seen, score

    def _whole(self) -> bool:
        """Whether every member has been proposed."""
        return self._study.proposed() >= self._budget.trials or self._study.used_up()

    def _passed(self, number: int) -> bool:
        row = self._members.get(number)
        return row is not None and (row.state in ENDED or _dead(row) or self.rests(row.samples_seen))

    def _open(self) -> list[Row]:
        return [row for _, row in sorted(self._members.items()) if row.state not in ENDED]

    def _turn(self) -> None:
        """Where all have passed a generation's end, decide who takes over whom."""
        while self._border is not None and not self._plan and self._whole() and all(map(self._passed, self._numbers)):
            self._plan = self._decide()
            if not self._plan:
                self._advance()

    def _decide(self) -> dict[int, int | None]:
        dead = [row for row in self._open() if _dead(row)]
        living = sorted((row for row in self._open() if not _dead(row)), key=self._rank)
        count = min(math.ceil(self._quantile * len(living)), len(living) // 2)
        best, worst = living[: max(1, count)], living[len(living) - count :]
        plan: dict[int, int | None] = {}
        for number in sorted(row.trial for row in [*worst, *dead] if row.trial != self._baseline):
            luck = random.Random(derive_seed(self._space.search.seed, "donor", self._generation(), number))
            plan[number] = luck.choice(best).trial if best else None
        return plan

    def _rank(self, row: Row) -> tuple[bool, float, int]:
        """By the latest score; what misses a constraint comes last."""
        return not meets(self._constraints, row.metrics), self._scored[row.trial][1], row.trial

    def _advance(self) -> None:
        """The next generation ends where all that live still have something to train."""
        least = min((row.samples_seen for row in self._open()), default=self._budget.samples_per_trial)
        self._border = next((end for end in self._ends if end > least), None)

    def _take_over(self, number: int, donor: int | None) -> None:
        """Carry out a decision: the weights first, then the row that tells of it."""
        own = self._members[number]
        if donor is None:
            self._proposals[number] = Proposal(number, self._configs[number])
            self._tell(self._end(number, "collapsed", own.cause))
            return
        given, (samples, score) = self._config_of(donor), self._scored[donor]
        others = [self._configs[row.trial].parameters() for row in self._open() if row.trial not in self._plan]
        situation = Situation(samples_seen=samples, score=score, history=self._stretches, others=others)
        seed = derive_seed(self._space.search.seed, "explore", self._generation(), number)
        config = explore(self._space, replace(given, seed=own.seed), situation, seed)
        best = None if _dead(own) else own.best_score
        with moved(self._run.files, self.folder(donor), self.folder(number)):
            transplant(self.folder(donor), self.folder(number), config, best, own.trial_seconds)
        row = replace(
            own,
            samples_seen=samples,
            score=None,
            best_score=best,
            metrics={},
            config=json.dumps(config.parameters()),
            cause=f"{TAKES_OVER}{donor} at {samples:,} samples: {_changes(given, config)}",
            verdict="healthy",
            evidence={},
            run_seconds=self.seconds(),
        )
        self._note_row(row)

    def _config_of(self, number: int) -> TrialConfig:
        """Also of a donor that a driver ended before it was killed: it is open no more."""
        if number in self._configs:
            return self._configs[number]
        row = self._members[number]
        return self._space.draw(FixedDraw(json.loads(row.config)), seed=row.seed)

    def _history(self, row: Row) -> dict[str, Any]:
        """The configuration of the last weights, and where they come from, the latest first."""
        lineage, member = [], row.trial
        for other in reversed(self.rows()):
            if other.trial == member and other.donor is not None:
                lineage.append(f"#{other.donor} at {other.samples_seen:,} samples")
                member = other.donor
        return {"configuration": json.loads(row.config), "lineage": lineage}


def _dead(row: Row) -> bool:
    """Whether a member collapsed, and waits to be replaced."""
    return row.state in ("running", RESTS) and row.verdict != "healthy"


def _changes(given: TrialConfig, config: TrialConfig) -> str:
    before: Mapping[str, Scalar] = given.parameters()
    after = config.parameters()
    changed = [f"{path} {shown(before[path])} -> {shown(after[path])}" for path in after if before[path] != after[path]]
    return ", ".join(changed) or "nothing changed"
