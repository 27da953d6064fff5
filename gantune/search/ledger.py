"""The driver's books: which trials are asked for, open and ended. The only writer of results and study.

A row is written before the study is told, so after a kill the rows tell what the study must still hear.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gantune.errors import RunError
from gantune.results import Row
from gantune.run import ENDED, Run
from gantune.search.study import Proposal, Study
from gantune.space import SearchSpace
from gantune.trial import Progress
from gantune.writing import dump, trial_document

MOST_FAILURES = 3  # in a row, with no report between them
NOTHING = Progress(samples_seen=0, score=None, best_score=None, metrics={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The lowest score so far and whose it is."""

    trial: int
    score: float


class Books:
    """What the driver notes while trials train, be it a search or the confirmation of its finalists."""

    def __init__(self, run: Run, space: SearchSpace, rows: Sequence[Row]) -> None:
        self._run = run
        self._budget = space.budget
        self._gpus = 1.0 if space.resources.gpus_per_trial is None else space.resources.gpus_per_trial
        self._started = time.monotonic()
        self._seconds_before = max((row.run_seconds for row in rows), default=0.0)
        self._trained: dict[tuple[int, int], tuple[int, float]] = {}  # samples and seconds, by trial and repeat
        for row in rows:
            self._count(row)
        self._spent_before = {name: spent for name, spent, _ in self._limits()}
        self._failures: list[str] = []
        self._proposals: dict[int, Proposal] = {}
        self.ended: Counter[str] = Counter()
        self.ended_here = 0
        self.best: Best | None = None

    @property
    def asked(self) -> int:
        """How many trials there are to be."""
        raise NotImplementedError

    @property
    def running(self) -> int:
        """How many trials are out."""
        return len(self._proposals)

    def next(self) -> Proposal | None:
        """The next trial to train, its folder made; None where no more are asked for."""
        raise NotImplementedError

    def record(self, number: int, progress: Progress, *, stopped: bool) -> Row | None:
        """Note a report; `stopped` is the scheduler's decision. Returns the row where it ended the trial."""
        raise NotImplementedError

    def fail(self, number: int, cause: str) -> Row | None:
        """Note that a trial could not be trained. Returns the row that says so."""
        raise NotImplementedError

    def identity(self, number: int) -> tuple[int, int]:
        """The trial and the repeat that a proposal's number stands for."""
        raise NotImplementedError

    def folder(self, number: int) -> Path:
        """Where a trial keeps its configuration and checkpoints."""
        return self._run.trial_folder(*self.identity(number))

    def complete(self) -> bool:
        """Whether every asked trial has ended."""
        raise NotImplementedError

    def stuck(self) -> str:
        """The last cause where trials fail one after another and none reports, which no further trial would mend."""
        return self._failures[-1] if len(self._failures) >= MOST_FAILURES else ""

    def out_of_budget(self) -> str:
        """Why nothing more is to be spent, or nothing."""
        for name, spent, limit in self._limits():
            if spent >= limit:
                return f"budget.{name} is used up: {_amount(spent)} of {_amount(limit)}"
        return ""

    def _limits(self) -> list[tuple[str, float, float]]:
        """Every budget that is set: its name, what all sessions have spent of it, and all of it."""
        budget, hours = self._budget, self.seconds() / 3600
        samples = sum(samples for samples, _ in self._trained.values())
        # GPUs are not in the rows: earlier sessions count at this session's share of them
        gpu_hours = sum(seconds for _, seconds in self._trained.values()) * self._gpus / 3600
        limits = [
            ("samples", samples, budget.samples),
            ("hours", hours, budget.hours),
            ("gpu_hours", gpu_hours, budget.gpu_hours),
            ("cost", hours * (budget.price_per_hour or 0.0), budget.cost),
        ]
        return [(name, spent, limit) for name, spent, limit in limits if limit is not None]

    def seconds(self) -> float:
        """The run's own clock: seconds of search over all sessions."""
        return self._seconds_before + time.monotonic() - self._started

    def seconds_left(self) -> float | None:
        """A guess from the pace at which this session ends trials and spends budgets."""
        if not self.ended_here:
            return None
        elapsed = time.monotonic() - self._started
        guesses = [elapsed / self.ended_here * (self.asked - sum(self.ended.values()))]
        for name, spent, limit in self._limits():
            if spent > self._spent_before[name]:
                guesses.append(elapsed / (spent - self._spent_before[name]) * (limit - spent))
        return max(0.0, min(guesses))

    def _issue(self, proposal: Proposal) -> Proposal:
        """Write a trial's configuration where its worker finds it."""
        folder = self.folder(proposal.number)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(dump(trial_document(proposal.config)), encoding="utf-8")
        except OSError as error:
            raise RunError(f"{folder}: cannot be written: {error.strerror or error}; nothing is lost") from error
        self._proposals[proposal.number] = proposal
        return proposal

    def _write(self, row: Row) -> None:
        """Add a row to the results, and what it tells of spending to the books."""
        self._run.results.append(row)
        self._count(row)

    def _count(self, row: Row) -> None:
        samples, seconds = self._trained.get((row.trial, row.repeat), (0, 0.0))
        self._trained[row.trial, row.repeat] = max(samples, row.samples_seen), max(seconds, row.trial_seconds)

    def _close(self, number: int, state: str) -> None:
        """An open proposal has ended."""
        del self._proposals[number]
        self.ended[state] += 1
        self.ended_here += 1

    def _row(self, number: int, state: str, progress: Progress, cause: str) -> Row:
        config = self._proposals[number].config
        trial, repeat = self.identity(number)
        return Row(
            trial=trial,
            repeat=repeat,
            state=state,
            samples_seen=progress.samples_seen,
            score=progress.score,
            best_score=progress.best_score,
            metrics=progress.metrics,
            seed=config.seed,
            config=json.dumps(config.parameters()),
            cause=cause,
            verdict=progress.verdict.state,
            evidence=progress.verdict.evidence,
            trial_seconds=progress.seconds,
            run_seconds=self.seconds(),
        )


class Ledger(Books):
    """Books of one search, carried on from its rows and study where it existed before."""

    def __init__(self, run: Run, space: SearchSpace, study: Study) -> None:
        every = run.results.rows()
        super().__init__(run, space, every)
        self._study = study
        self._constraints = space.objective.constraints
        rows = [row for row in every if not row.repeat]
        self._last = {row.trial: row for row in rows}
        self._known = {(row.trial, row.samples_seen) for row in rows}
        self.rows = rows
        if rows and not study.knows(max(self._last)):
            raise RunError(f"{run.study_path}: lacks trials that the results hold; put it back, or use --name")
        self._lowest: dict[int, float] = {}
        self.ended.update(row.state for row in self._last.values() if row.state in ENDED)
        for row in rows:
            self._note_best(row)
        self._waiting = self._reconcile()

    def _reconcile(self) -> list[Proposal]:
        """Tell the study what the rows know; what is then still open is to be trained on."""
        waiting = []
        for proposal in self._study.open_proposals():
            for row in self.rows:
                if row.trial == proposal.number:
                    self._report(row)
            last = self._last.get(proposal.number)
            if last is not None and last.state in ENDED:
                self._tell(last)
            else:
                waiting.append(proposal)
        return waiting

    def next(self) -> Proposal | None:
        """The next trial to train: one that was cut off before, or a new one; None where no more are asked for."""
        if self.out_of_budget() or self.stuck():
            return None
        proposal = None
        if self._waiting:
            proposal = self._waiting.pop(0)
        elif self._study.proposed() < self._budget.trials:
            proposal = self._study.propose()
        return None if proposal is None else self._issue(proposal)

    def identity(self, number: int) -> tuple[int, int]:
        """A trial of the search is the first of its configuration."""
        return number, 0

    def record(self, number: int, progress: Progress, *, stopped: bool) -> Row | None:
        """Note a report; `stopped` is the scheduler's decision. Returns the row where it ended the trial."""
        if not self._study.is_open(number):
            return None
        self._failures = []
        state, cause = progress.state, progress.verdict.cause
        ended: str = state if state != "running" else "pruned" if stopped else "running"
        if ended == "pruned":
            cause = f"stopped by the scheduler at {progress.samples_seen:,} samples"
        if ended == "running" and (number, progress.samples_seen) in self._known:
            return None  # a trial that continues repeats its last report
        row = self._row(number, ended, progress, cause)
        self._append(row)
        self._report(row)
        if ended == "running":
            return None
        self._tell(row)
        return row

    def fail(self, number: int, cause: str) -> Row | None:
        """Note that a trial could not be trained."""
        self._failures.append(cause)
        return self._end(number, "failed", cause)

    def close(self, cause: str) -> None:
        """End all open trials: no more is to be spent on this run."""
        for proposal in list(self._proposals.values()):
            self._end(proposal.number, "pruned", cause)
        for proposal in self._waiting:
            self._proposals[proposal.number] = proposal
            self._end(proposal.number, "pruned", cause)
        self._waiting = []

    def _end(self, number: int, state: str, cause: str) -> Row | None:
        if not self._study.is_open(number):
            return None
        last = self._last.get(number)
        if last is None:
            row = self._row(number, state, NOTHING, cause)
        else:
            row = replace(last, state=state, cause=cause, run_seconds=self.seconds())
        self._append(row)
        self._tell(row)
        return row

    def _append(self, row: Row) -> None:
        self._write(row)
        self.rows.append(row)
        self._last[row.trial] = row
        self._known.add((row.trial, row.samples_seen))
        self._note_best(row)

    def _report(self, row: Row) -> None:
        """Pass a report on to the study: the lowest score so far, for a trial is its best checkpoint."""
        if row.score is not None:
            lowest = min(row.score, self._lowest.get(row.trial, row.score))
            self._lowest[row.trial] = lowest
            self._study.report(row.trial, row.samples_seen, lowest)

    def _tell(self, row: Row) -> None:
        attributes = {"cause": row.cause, "samples_seen": row.samples_seen, "verdict": row.verdict}
        score = row.best_score if row.best_score is not None else self._lowest.get(row.trial)
        violations = {
            str(item): -1.0 if row.best_score is not None else item.violation(row.metrics[item.metric])
            for item in self._constraints
            if item.metric in row.metrics
        }
        self._study.tell(row.trial, row.state, score, attributes=attributes, violations=violations)
        if row.trial in self._proposals:
            self._close(row.trial, row.state)

    def _note_best(self, row: Row) -> None:
        if row.state in ("collapsed", "failed"):
            if self.best is not None and self.best.trial == row.trial:
                self.best = None
                for other in self._survivors():
                    self._note_best(other)
        elif row.best_score is not None and (self.best is None or row.best_score < self.best.score):
            self.best = Best(trial=row.trial, score=row.best_score)

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
        return sum(self.ended.values()) >= self.asked and not self._proposals and not self._waiting

    def out_of_budget(self) -> str:
        """Why nothing more is to be spent, or nothing."""
        target = self._budget.target
        if target is not None and self.best is not None and self.best.score <= target:
            return f"the target of {target:g} was reached by #{self.best.trial}"
        return super().out_of_budget()


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
