"""Finalists trained again under fresh seeds: the lowest score of a search is a lucky one."""

from dataclasses import replace

from gantune.config import derive_seed
from gantune.driver.books import NOTHING, Best, Books
from gantune.driver.study import Proposal
from gantune.progress import Progress
from gantune.reports import LATEST, Key
from gantune.results import BUDGET, ENDED, RESTS, Row
from gantune.run import Run
from gantune.space import SearchSpace, load_trial
from gantune.writing import moved


class Confirmation(Books):
    """Books of the finalists' runs, carried on from the rows. Its trials are numbered in the order they are asked for.

    The finalists are the survivors of the lowest scores; every run gets its whole budget, whatever the others show.
    """

    confirming = True

    def __init__(self, run: Run, space: SearchSpace) -> None:
        rows = run.results.rows()
        super().__init__(run, space, rows)
        trials = run.trials()
        self._searched = {trial.number: trial.state for trial in trials}
        survivors = [trial for trial in trials if trial.survived]
        finalists = sorted(survivors, key=lambda trial: (trial.best_score, trial.number))[: space.confirm.top]
        self._runs = [(trial.number, seed + 1) for seed in range(space.confirm.seeds) for trial in finalists]
        self._seed = space.search.seed
        self._dataset = space.data.dataset
        self._last = {(row.trial, row.repeat): row for row in rows if row.repeat}
        ends = {key: row.state for key, row in self._last.items() if row.ended and row.state != "failed"}
        self._waiting = [index for index, key in enumerate(self._runs) if key not in ends]
        self.ended.update(ends[key] for key in self._runs if key in ends)

    @property
    def asked(self) -> int:
        """How many runs the finalists get together."""
        return len(self._runs)

    def complete(self) -> bool:
        """Whether every run has ended."""
        return not self._waiting and not self._proposals

    def next(self) -> Proposal | None:
        """The next run; None where none is left."""
        if not self._waiting or self.out_of_budget() or self.stuck():
            return None
        return self._issue(self._proposal(self._waiting.pop(0)))

    def _proposal(self, index: int) -> Proposal:
        trial, repeat = self.identity(index)
        config = load_trial(self._run.trial_folder(trial) / "config.yaml", moved(self._dataset))
        return Proposal(index, replace(config, seed=derive_seed(self._seed, "confirm", trial, repeat)))

    def identity(self, number: int) -> tuple[int, int]:
        """The finalist, and which of its runs it is."""
        return self._runs[number]

    def state_of(self, trial: int) -> str:
        """How a trial of the search ended; its finalists' runs are not ended one by one."""
        return self._searched.get(trial, "")

    def record(self, number: int, progress: Progress, *, stopped: bool, by: str = "the scheduler") -> Row | None:
        """Note a report. Returns the row where it ended the run."""
        if number not in self._proposals:
            return None
        self._failures = []
        last = self._last.get(self.identity(number))
        if last is not None and progress.samples_seen < last.samples_seen:
            self._start_over(number, "its checkpoint could not be read")
        elif (
            last is not None
            and progress.state == "running"
            and (progress.samples_seen, progress.best_score) == (last.samples_seen, last.best_score)
        ):
            return None  # a run that continues repeats its last report
        return self._note(number, progress.state, progress, progress.verdict.cause)

    def fail(self, number: int, cause: str) -> Row | None:
        """Note that a run could not be trained."""
        self._failures.append(cause)
        return self._note(number, "failed", NOTHING, cause) if number in self._proposals else None

    def _again(self, number: int) -> None:
        del self._proposals[number]
        self._leave(number)
        self._waiting.insert(0, number)

    def _open_number(self, key: Key) -> int | None:
        number = self._runs.index(key) if key in self._runs else -1
        if number in self._waiting:
            self._waiting.remove(number)
            self._proposals[number] = self._proposal(number)
        return number if number in self._proposals else None

    def close(self, cause: str) -> None:
        """Pause the runs that are out; one that never began leaves no trace."""
        for number in sorted(self._proposals):
            last = self._last.get(self.identity(number))
            if last is None:
                self._give_back(number)
            elif last.state != RESTS:
                self._note_row(replace(last, state=RESTS, cause=cause, stopped_by=BUDGET, run_seconds=self.seconds()))
            self._again(number)

    def _issue(self, proposal: Proposal) -> Proposal:
        issued, last = super()._issue(proposal), self._last.get(self.identity(proposal.number))
        lost = last is not None and last.samples_seen > 0
        if lost and not self._run.files.holds(self.folder(proposal.number) / LATEST):
            self._start_over(proposal.number, f"{LATEST} is gone")
        return issued

    def _note(self, number: int, state: str, progress: Progress, cause: str) -> Row | None:
        row = self._row(number, state, progress, cause)
        self._note_row(row)
        if row.best_score is not None and (self.best is None or row.best_score < self.best.score):
            self.best = Best(trial=row.trial, score=row.best_score)
        if state not in ENDED:
            return None
        self._close(number, state)
        return row

    def _note_row(self, row: Row) -> None:
        self._write(row)
        self._last[row.trial, row.repeat] = row
