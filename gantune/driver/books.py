"""The driver's books: which trials are asked for, open and ended. The only writer of results and study.

A row is written before the study is told, so after a kill the rows tell what the study must still hear.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gantune.accumulation import fewer
from gantune.config import BUDGETS
from gantune.driver.attempts import FILE as ATTEMPTS
from gantune.driver.attempts import Attempts, read_attempts, write_attempts
from gantune.driver.keeping import Keeping
from gantune.driver.study import Proposal
from gantune.errors import RunError
from gantune.progress import Progress
from gantune.reports import Key, missing_reports, row_of
from gantune.results import RESTS, Row
from gantune.run import Run
from gantune.situation import Outline, Situation, Tally, label
from gantune.space import SearchSpace
from gantune.spending import Limit
from gantune.stage import TRAINING, write_training
from gantune.whole import partial_files
from gantune.writing import dump, trial_document

MOST_FAILURES = 3  # in a row, with no report between them
MOST_MOVES = 20  # of a trial whose machines are lost
NOTHING = Progress(samples_seen=0, score=None, best_score=None, metrics={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The lowest score so far and whose it is."""

    trial: int
    score: float


class Books:
    """What the driver notes while trials train, be it a search or the confirmation of its finalists."""

    confirming = False

    def __init__(self, run: Run, space: SearchSpace, rows: Sequence[Row]) -> None:
        self._run = run
        self._budget = space.budget
        gpus = space.resources.gpus_per_trial
        self._gpus = run.resources().get("gpus_per_trial", 1.0) if gpus == "auto" else 1.0 if gpus is None else gpus
        self._clock = run.clock
        self._clock.catch_up(max((row.run_seconds for row in rows), default=0.0))
        self._tally = Tally()
        self._outline: Outline | None = None
        for row in rows:
            self._tally.hear(row)
        self._failures: list[str] = []
        self._retries = space.search.retries
        self.halted = ""  # by what is not a trial's fault
        self._proposals: dict[int, Proposal] = {}
        self.ended: Counter[str] = Counter()
        self.best: Best | None = None
        self.keeping = Keeping(run, space)
        self.watch: Callable[[Row, bool], None] = lambda row, fresh: None
        self.notices: list[str] = []  # what a person is to be told of how the run was found
        self._training: set[int] = set()  # of what is out, what has a worker

    def crash(self, number: int, cause: str) -> Row | None:
        """Note that a trial's worker died; the trial is issued again, until it has cost too many."""
        if number not in self._proposals:
            return None
        tried = read_attempts(self.folder(number))
        self._note_attempts(number, replace(tried, crashes=tried.crashes + 1))
        if tried.crashes >= self._retries:
            return self.fail(number, f"{cause} (after {tried.crashes} retries; see ray.log)")
        self._again(number)
        return None

    def move(self, number: int, cause: str) -> Row | None:
        """Note that a trial's machine is gone, as rented ones go; it is issued again, up to twenty times."""
        if number not in self._proposals:
            return None
        tried = read_attempts(self.folder(number))
        self._note_attempts(number, replace(tried, moves=tried.moves + 1))
        if tried.moves >= MOST_MOVES:
            return self.fail(number, f"{cause} (with {tried.moves} others before, under this trial; see ray.log)")
        self._again(number)
        return None

    def lack_memory(self, number: int, cause: str) -> Row | None:
        """Note that a trial's batches did not fit; it is issued again with smaller chunks, while there are any."""
        if number not in self._proposals:
            return None
        tried = read_attempts(self.folder(number))
        chunks = fewer(tried.micro_batches, self._proposals[number].config.batch_size)
        if chunks is None:
            return self.fail(number, cause)
        self._note_attempts(number, replace(tried, micro_batches=chunks))
        self._again(number)
        return None

    def _note_attempts(self, number: int, attempts: Attempts) -> None:
        write_attempts(self.folder(number), attempts)
        self._run.files.send(self.folder(number) / ATTEMPTS)

    def halt(self, cause: str) -> None:
        """Note what no trial is to blame for, and a person must mend: no more is issued, what is out stays open."""
        self.halted = self.halted or cause

    def recall(self) -> None:
        """Take back what is out, for those who trained it are gone; it is issued again first."""
        for number in sorted(self._proposals, reverse=True):
            self._again(number)

    def _again(self, number: int) -> None:
        """Issue an open proposal once more, before any other."""
        raise NotImplementedError

    @property
    def asked(self) -> int:
        """How many trials there are to be."""
        raise NotImplementedError

    @property
    def stage(self) -> str:
        """How far all trials have come together, where that is what counts."""
        return ""

    @property
    def running(self) -> int:
        """How many trials are out."""
        return len(self._proposals)

    def train(self, number: int) -> None:
        """Note that a worker trains a trial from now on; until then it waits for one."""
        self._training.add(number)
        self._tell_whom_it_trains()

    def _leave(self, number: int) -> None:
        """Note that a trial has no worker any more."""
        if number in self._training:
            self._training.discard(number)
            self._tell_whom_it_trains()

    def train_nobody(self) -> None:
        """Note that no trial has a worker, as before and after Ray trains."""
        self._training.clear()
        (self.scratch.parent / TRAINING).unlink(missing_ok=True)

    def _tell_whom_it_trains(self) -> None:
        """Let readers tell trials that train from those that wait; nothing is lost where this cannot be written."""
        with contextlib.suppress(OSError):
            write_training(self.scratch.parent, map(self.identity, self._training))

    def taken_notices(self) -> list[str]:
        """What a person is to be told since the last call."""
        told, self.notices = self.notices, []
        return told

    def is_out(self, number: int) -> bool:
        """Whether a trial has been issued and has not ended since."""
        return number in self._proposals

    def together(self) -> contextlib.AbstractContextManager[object]:
        """While other drivers of the run wait; there are none."""
        return contextlib.nullcontext()

    @property
    def resting(self) -> int:
        """How many trials were stopped that may go on later."""
        return 0

    @property
    def scratch(self) -> Path:
        """Where Ray puts what nobody reads."""
        return self._run.folder / "ray"

    def hear(self) -> None:
        """Take in what other drivers of this run have written; there are none."""

    def more(self) -> bool:
        """Whether another trial may be there later, though there is none now: one that is out may come back."""
        return bool(self._proposals)

    def next(self) -> Proposal | None:
        """The next trial to train, its folder made; None where no more are asked for."""
        raise NotImplementedError

    def record(self, number: int, progress: Progress, *, stopped: bool, by: str = "the scheduler") -> Row | None:
        """Note a report; `stopped`: whether it was stopped, and `by` whom. Returns the row of an end, or of a rest."""
        raise NotImplementedError

    def fail(self, number: int, cause: str) -> Row | None:
        """Note that a trial could not be trained. Returns the row that says so."""
        raise NotImplementedError

    def record_kept(self, stops: Callable[[int, Progress], bool]) -> None:
        """Record the reports that workers wrote and nobody heard of, once no worker writes any more.

        stops: what the scheduler decides on a report. After this, what every checkpoint says is a row. A report of a
        trial that had been ended before does not count, and goes.
        """
        for kept in missing_reports(self._run.files, self._run.results.rows()):
            number = self._open_number(kept.key)
            if kept.late:
                self.keeping.let_go(kept.path)
            elif number is not None and kept.progress.samples_seen > self._tally.meter.seen(*kept.key):
                stopped = kept.progress.state == "running" and stops(number, kept.progress)
                self.record(number, kept.progress, stopped=stopped)
            elif self._is_own(kept.key):
                self._write(kept.row)

    def _open_number(self, key: Key) -> int | None:
        """The number of a trial that is out or waits, which then counts as being out; None for any other."""
        raise NotImplementedError

    def _is_own(self, key: Key) -> bool:
        """Whether a row of a trial that is not open is for these books to write."""
        return bool(key[1]) == self.confirming

    def close(self, cause: str) -> None:
        """Pause what is open: a budget is used up, and more of it continues them."""
        raise NotImplementedError

    def _give_back(self, number: int) -> None:
        """Leave no trace of a trial that never began: it is proposed again, the same, when the search goes on."""
        folder = self.folder(number)
        left = [folder / "config.yaml", *folder.glob("*.png")]
        self._run.files.drop(left)
        with contextlib.suppress(OSError):
            for path in [*left, *partial_files(folder)]:  # its worker may have been killed before its first report
                path.unlink(missing_ok=True)
            folder.rmdir()

    def occupy(self, gpus: float) -> None:
        """Count a trial's time on so many GPUs from now on, and what was spent before, too."""
        self._gpus = gpus
        self._outline = None

    def state_of(self, trial: int) -> str:
        """`running`, `waiting` or how a trial of the search ended; nothing where there is none."""
        raise NotImplementedError

    def samples_seen(self, trial: int) -> int:
        """How far a trial of the search has reported."""
        return self._tally.meter.seen(trial)

    def withdraw(self, number: int, cause: str) -> Row:
        """End a trial that waits to be continued."""
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
        """Why no further trial would help: the machine's fault, or the last of failures in a row with no report."""
        if self.halted:
            return f"{self.halted}; nothing is lost: mend it, and the same command continues"
        if len(self._failures) >= MOST_FAILURES:
            return f"trials fail one after another: {self._failures[-1]}"
        return ""

    def out_of_budget(self) -> str:
        """Why nothing more is to be spent, or nothing."""
        for limit in self._limits():
            if limit.reached:
                return f"budget.{limit.name} is used up: {_amount(limit.spent)} of {_amount(limit.limit)}"
        return ""

    def _limits(self) -> list[Limit]:
        """Every budget that is set, with what all sessions have spent of it."""
        budget = self._budget
        limits = {name: getattr(budget, name) for name in BUDGETS if getattr(budget, name) is not None}
        # GPUs are not in the rows: earlier sessions count at this one's
        return self._tally.meter.spending(self.seconds(), self._gpus, budget.price_per_hour).within(limits)

    def seconds(self) -> float:
        """The run's own clock: seconds of search over all sessions."""
        return self._clock.seconds()

    def situation(self) -> Situation:
        """What people see of the search now."""
        self._outline = self._outline or Outline.of(self._run)
        out = self._out()
        waiting = {self.identity(number) for number in self._proposals} - out
        seen = self._tally.situation(
            self._outline, clock=self.seconds(), out=out, waiting=waiting, confirming=self.confirming
        )
        return replace(
            seen,
            stage=self.stage,
            done=sum(self.ended.values()) + self.resting,
            asked=self.asked,
            counts=dict(self.ended | Counter({RESTS: self.resting})),
            limits=tuple(self._limits()),
        )

    def _out(self) -> set[Key]:
        """Who is being trained."""
        return {self.identity(number) for number in self._training & self._proposals.keys()}

    def _issue(self, proposal: Proposal) -> Proposal:
        """Write a trial's configuration beside its results to come."""
        folder = self.folder(proposal.number)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(dump(trial_document(proposal.config)), encoding="utf-8")
        except OSError as error:
            raise RunError(f"{folder}: cannot be written: {error.strerror or error}; nothing is lost") from error
        self._run.files.send(folder / "config.yaml")
        self._proposals[proposal.number] = proposal
        return proposal

    def _write(self, row: Row) -> None:
        """Add a row to the results, and to the picture of the search; `watch` hears whether it is news."""
        before = self._tally.meter.seen(row.trial, row.repeat)
        self._run.results.append(row)
        self._tally.hear(row)
        self.watch(row, row.samples_seen > before)

    def _start_over(self, number: int, why: str) -> None:
        """Note that a trial begins again: what it reported before, and its best weights, do not count any more."""
        row = self._row(number, "running", NOTHING, f"starts over from its seed: {why}")
        self.notices.append(f"{label(row.trial, row.repeat)} is trained again from its seed: {why}")
        self._note_row(row)

    def _note_row(self, row: Row) -> None:
        """Write a row, and know it as its trial's last."""
        raise NotImplementedError

    def _close(self, number: int, state: str) -> None:
        """An open proposal has ended."""
        del self._proposals[number]
        self._leave(number)
        self.ended[state] += 1
        self.keeping.ended(self.folder(number), state)

    def _row(self, number: int, state: str, progress: Progress, cause: str, stopped_by: str = "") -> Row:
        config = self._proposals[number].config
        return row_of(
            progress,
            self.identity(number),
            seed=config.seed,
            parameters=config.parameters(),
            run_seconds=self.seconds(),
            state=state,
            cause=cause,
            stopped_by=stopped_by,
        )


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
