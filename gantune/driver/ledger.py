"""The books of a search: what the study is told, and what it proposes."""

import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from gantune.driver.books import NOTHING, Best, Books
from gantune.driver.study import Proposal, Study
from gantune.progress import Progress
from gantune.reports import LATEST, Key
from gantune.requests import Requests
from gantune.results import BUDGET, ENDED, RESTS, SCHEDULER, USER, Row
from gantune.run import Run
from gantune.space import SearchSpace

MOST_NAMED = 5  # trials in a message
GIVEN_UP = "its checkpoint was deleted to keep within keep.gb, so it cannot be continued"


class Halts(Protocol):
    """What stops trials. `rests`: whether those go on later."""

    @property
    def rests(self) -> bool:
        """Whether what is stopped may go on later."""

    def wakes(self, resting: Collection[int]) -> int | None:
        """Which of the trials at rest is to go on now, if any."""


class Ledger(Books):
    """Books of one search, carried on from its rows and study where it existed before.

    `halts` is what stops trials, to be set once it is built. What it stops may rest, its checkpoint kept, until it is
    woken or the search is at its end.
    """

    halts: Halts | None = None

    def __init__(self, run: Run, space: SearchSpace, study: Study) -> None:
        every = run.results.rows()
        super().__init__(run, space, every)
        self._study = study
        self._constraints = space.objective.constraints
        rows = [row for row in every if not row.repeat]
        self._last = {row.trial: row for row in rows}  # no others stay in memory: a search may be long
        self._lowest: dict[int, float] = {}
        self._measured: dict[int, dict[float | None, Mapping[str, float]]] = {}  # of open trials, by score
        self.ended.update(row.state for row in self._last.values() if row.state in ENDED)
        self._find_best()
        self._resting: dict[int, Proposal] = {}
        self._baseline = None if space.baseline is None else 0
        self._promoted = Requests(run).promoted()
        self._waiting = sorted(self._reconcile(rows), key=lambda proposal: self._priority(proposal.number))
        self.keeping.give_up = self._give_up
        self.heard: deque[Row] = deque()  # rows of other drivers that a scheduler has still to hear of

    def rows(self) -> list[Row]:
        """The search's own rows so far, read from the results."""
        return [row for row in self._run.results.rows() if not row.repeat]

    def _reconcile(self, rows: Sequence[Row]) -> list[Proposal]:
        """Tell the study what the rows know; what is then still open is to be trained on."""
        waiting = []
        for proposal in [*self._study.open_proposals(), *self._lost()]:
            self._repeat(proposal.number, rows)
            last = self._last.get(proposal.number)
            if last is not None and last.state in ENDED and last.state != "failed":
                self._tell(last)
            elif last is not None and last.state == RESTS and last.stopped_by != BUDGET:
                self._lay(proposal, last)
            else:
                waiting.append(proposal)
                self._study.wake(proposal.number)
            if last is not None and last.state == "failed":  # tried again, once a session: its cause may be mended
                self.ended["failed"] -= 1
        return waiting

    def _lost(self) -> list[Proposal]:
        """Trials that the study knows the end of, and the results do not: they are trained again from their seeds."""
        ends = {number for number, row in self._last.items() if row.ended}
        lost = [proposal for proposal in self._study.told() if proposal.number not in ends]
        if lost:
            numbers = ", ".join(f"#{proposal.number}" for proposal in lost[:MOST_NAMED])
            more = f" and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
            self.notices.append(f"the results lack the end of {numbers}{more}: trained again from the trial's seed")
        return lost

    def _priority(self, number: int) -> tuple[int, float, int]:
        """Sort key of what waits: the baseline, promoted trials, the best by their last score, what never began."""
        last = self._last.get(number)
        urgent = 0 if number == self._baseline else 1 if number in self._promoted else 2 if last is not None else 3
        return urgent, math.inf if last is None or last.score is None else last.score, number

    def _repeat(self, number: int, rows: Sequence[Row]) -> None:
        """Tell the study the reports of an open trial; what it has heard it passes over."""
        for row in rows:
            if row.trial == number:
                self._report(row)

    def next(self) -> Proposal | None:
        """The next trial to train: one cut off before, one woken, or a new one; None where no more are asked for."""
        if self.out_of_budget() or self.stuck():
            return None
        proposal = None
        if self._waiting:
            proposal = self._waiting.pop(0)
        elif (woken := self._woken()) is not None:
            proposal = woken
        elif self._study.proposed() < self._budget.trials:
            proposal = self._study.propose()
        return None if proposal is None else self._issue(proposal)

    def _lay(self, proposal: Proposal, row: Row) -> None:
        """To rest; the samplers are to see what it came to so far."""
        self._resting[proposal.number] = proposal
        self._study.pause(row.trial, *self._come_to(row))

    def _woken(self) -> Proposal | None:
        number = None if self.halts is None or not self._resting else self.halts.wakes(self._resting)
        if number is None:
            return None
        self._study.wake(number)
        return self._resting.pop(number)

    def retire(self) -> None:
        """End what rests, where nothing is to come in any more that could wake it."""
        out = self._waiting or self._proposals or self._study.proposed() < self._budget.trials
        if (not out or self.used_up()) and (self.halts is None or self.halts.wakes(self._resting) is None):
            self._end_resting()

    def _end_resting(self) -> None:
        for number, proposal in sorted(self._resting.items()):
            self._prune(proposal, self._last[number].cause)
        self._resting = {}

    def _prune(self, proposal: Proposal, cause: str, by: str = SCHEDULER) -> Row:
        """End an open trial that nobody trains."""
        self._proposals[proposal.number] = proposal
        row = self._end(proposal.number, "pruned", cause, by)
        self._tell(row)
        return row

    @property
    def resting(self) -> int:
        """How many trials rest."""
        return len(self._resting)

    def identity(self, number: int) -> tuple[int, int]:
        """A trial of the search is the first of its configuration."""
        return number, 0

    def record(self, number: int, progress: Progress, *, stopped: bool, by: str = "") -> Row | None:
        """Note a report, and whether the scheduler or somebody stopped it. Returns the row of an end or of a rest."""
        if number not in self._proposals:
            return None
        self._failures = []
        state, cause, stopped_by = progress.state, progress.verdict.cause, ""
        ended: str = state if state != "running" else "pruned" if stopped else "running"
        if ended == "pruned":
            stopped_by = USER if by else SCHEDULER
            cause = f"stopped by {by or 'the scheduler'} at {progress.samples_seen:,} samples"
            ended = RESTS if not by and self.halts is not None and self.halts.rests else ended
        last = self._last.get(number)
        if last is not None and progress.samples_seen < last.samples_seen:
            self._start_over(number, "its checkpoint could not be read")
        elif (
            ended == "running"
            and last is not None
            and progress.samples_seen == last.samples_seen
            and progress.best_score == last.best_score
        ):
            return None  # a trial that continues repeats its last report
        row = self._row(number, ended, progress, cause, stopped_by)
        self._note_row(row)
        self._report(row)
        if ended == "running":
            return None
        if ended == RESTS:
            self._leave(number)
            self._lay(self._proposals.pop(number), row)
            return row
        self._tell(row)
        return row

    def fail(self, number: int, cause: str) -> Row | None:
        """Note that a trial could not be trained. The study hears of it by `settle` or `close`."""
        self._failures.append(cause)
        if number not in self._proposals:
            return None
        row = self._end(number, "failed", cause)
        self._close(number, "failed")
        return row

    def settle(self) -> None:
        """Tell the study what failed, for good: the search is at its end, and tries nothing again."""
        for number, last in self._last.items():
            if last.state == "failed" and self._study.is_open(number):
                self._tell(last)

    def state_of(self, trial: int) -> str:
        """`running`, `waiting`, `paused` or how a trial ended; nothing where there is none."""
        if trial in self._proposals:
            return "running" if trial in self._training else "waiting"
        if trial in self._resting:
            return RESTS
        if any(proposal.number == trial for proposal in self._waiting):
            return "waiting"
        return self._last[trial].state if trial in self._last else ""

    def withdraw(self, number: int, cause: str) -> Row:
        """End a trial that waits, is paused, or has not reported yet."""
        if (proposal := self._resting.pop(number, None) or self._proposals.get(number)) is None:
            (proposal,) = (each for each in self._waiting if each.number == number)
            self._waiting.remove(proposal)
        return self._prune(proposal, cause, USER)

    def _give_up(self, number: int) -> bool:
        """End a paused trial whose checkpoint is to make room on the disk; False where it is not paused."""
        proposal = self._resting.pop(number, None)
        if proposal is not None:
            self._prune(proposal, GIVEN_UP)
        return proposal is not None

    def close(self, cause: str) -> None:
        """Pause all open trials, their checkpoints kept; one that never began is given back."""
        for proposal in self._waiting:
            last = self._last.get(proposal.number)
            if last is not None and last.state == "failed":
                self.ended["failed"] += 1
            else:
                self._proposals[proposal.number] = proposal
        self._waiting = []
        for proposal in list(self._proposals.values()):
            self._pause(proposal, cause)
        self.settle()

    def _pause(self, proposal: Proposal, cause: str) -> None:
        """Pause a trial that is out for want of budget. One without a report keeps its number for another session."""
        number = proposal.number
        del self._proposals[number]
        self._leave(number)
        last = self._last.get(number)
        if last is None:
            self._give_back(number)
            return
        if last.state != RESTS:
            last = replace(last, state=RESTS, cause=cause, stopped_by=BUDGET, run_seconds=self.seconds())
            self._note_row(last)
        self._lay(proposal, last)

    def _open_number(self, key: Key) -> int | None:
        number = key[0]
        for proposal in [each for each in self._waiting if each.number == number and not key[1]]:
            self._waiting.remove(proposal)
            self._proposals[number] = proposal
        return number if number in self._proposals and not key[1] else None

    def _is_own(self, key: Key) -> bool:
        last = self._last.get(key[0])
        return super()._is_own(key) and last is not None and (last.ended or key[0] in self._resting)

    def _issue(self, proposal: Proposal) -> Proposal:
        issued, last = super()._issue(proposal), self._last.get(proposal.number)
        if last is not None and last.samples_seen and not self._run.files.holds(self.folder(last.trial) / LATEST):
            self._start_over(last.trial, f"{LATEST} is gone")
        return issued

    def _again(self, number: int) -> None:
        self._leave(number)
        self._waiting.insert(0, self._proposals.pop(number))

    def _end(self, number: int, state: str, cause: str, stopped_by: str = "") -> Row:
        """Write the row with which a trial ends that did not end by itself."""
        last = self._last.get(number)
        if last is None:
            row = self._row(number, state, NOTHING, cause, stopped_by)
        else:
            row = replace(last, state=state, cause=cause, stopped_by=stopped_by, run_seconds=self.seconds())
        self._note_row(row)
        return row

    def _note_row(self, row: Row) -> None:
        self._write(row)
        self._note(row)

    def _note(self, row: Row) -> None:
        self._last[row.trial] = row
        self._note_best(row)

    def _report(self, row: Row) -> None:
        """Pass a report on to the study: the lowest score so far, for a trial is its best checkpoint."""
        if row.score is not None:
            lowest = min(row.score, self._lowest.get(row.trial, row.score))
            self._lowest[row.trial] = lowest
            self._measured.setdefault(row.trial, {})[row.score] = row.metrics
            self._study.report(row.trial, row.samples_seen, lowest)

    def _tell(self, row: Row) -> None:
        attributes = {"cause": row.cause, "samples_seen": row.samples_seen, "verdict": row.verdict}
        attributes |= self._history(row)
        score, violations, metrics = self._come_to(row)
        self._measured.pop(row.trial, None)
        self._study.tell(row.trial, row.state, score, attributes=attributes, violations=violations, metrics=metrics)
        if row.trial in self._proposals:
            self._close(row.trial, row.state)

    def _come_to(self, row: Row) -> tuple[float | None, dict[str, float], Mapping[str, float]]:
        """A trial's lowest score, how far it misses each constraint, and what else was measured at that score."""
        score = row.best_score if row.best_score is not None else self._lowest.get(row.trial)
        violations = {
            str(item): -1.0 if row.best_score is not None else item.violation(row.metrics[item.metric])
            for item in self._constraints
            if item.metric in row.metrics
        }
        return score, violations, self._measured.get(row.trial, {}).get(score, row.metrics)

    def _history(self, row: Row) -> dict[str, Any]:
        """What else the study is told of a trial that has ended."""
        return {}

    def _note_best(self, row: Row) -> None:
        alive = row.best_score is not None and row.state not in ("collapsed", "failed")
        if self.best is not None and self.best.trial == row.trial and not (alive and row.best_score == self.best.score):
            self._find_best()
        elif alive and row.best_score is not None and (self.best is None or row.best_score < self.best.score):
            self.best = Best(trial=row.trial, score=row.best_score)

    def _find_best(self) -> None:
        """The lowest score of all that are not lost; of equals the first trial's."""
        scores = [(row.best_score, row.trial) for row in self._survivors() if row.best_score is not None]
        score, trial = min(scores, default=(math.inf, -1))
        self.best = Best(trial=trial, score=score) if scores else None

    def _survivors(self) -> Iterator[Row]:
        return (row for row in self._last.values() if row.state not in ("collapsed", "failed"))

    @property
    def asked(self) -> int:
        """How many trials the budget asks for, or how many there can be."""
        return self._study.proposed() if self.used_up() else self._budget.trials

    def used_up(self) -> bool:
        """Whether the space holds no further configuration, though the budget asks for more."""
        return self._study.used_up() and self._study.proposed() < self._budget.trials

    def complete(self) -> bool:
        """Whether every asked trial has ended."""
        return sum(self.ended.values()) >= self.asked and not self._proposals and not self._waiting and not self.resting

    def out_of_budget(self) -> str:
        """Why nothing more is to be spent, or nothing."""
        target = self._budget.target
        if target is not None and self.best is not None and self.best.score <= target:
            return f"the target of {target:g} was reached by #{self.best.trial}"
        return super().out_of_budget()
