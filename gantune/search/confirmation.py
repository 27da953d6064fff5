"""Finalists trained again under fresh seeds: the lowest score of a search is a lucky one."""

from dataclasses import replace
from pathlib import Path

from gantune.config import derive_seed
from gantune.results import Row
from gantune.run import ENDED, Run
from gantune.search.ledger import NOTHING, Best, Books
from gantune.search.study import Proposal
from gantune.space import SearchSpace, load_trial
from gantune.trial import Progress


class Confirmation(Books):
    """Books of the finalists' runs, carried on from the rows. Its trials are numbered in the order they are asked for.

    The finalists are the survivors of the lowest scores; every run gets its whole budget, whatever the others show.
    """

    def __init__(self, run: Run, space: SearchSpace) -> None:
        rows = run.results.rows()
        super().__init__(run, space.budget, rows)
        survivors = [trial for trial in run.trials() if trial.survived]
        finalists = sorted(survivors, key=lambda trial: (trial.best_score, trial.number))[: space.confirm.top]
        self._runs = [(trial.number, seed + 1) for seed in range(space.confirm.seeds) for trial in finalists]
        self._seed = space.search.seed
        self._last = {(row.trial, row.repeat): row for row in rows}
        self._known = {(row.trial, row.repeat, row.samples_seen) for row in rows}
        ends = {key: row.state for key, row in self._last.items() if row.state in ENDED}
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
        index = self._waiting.pop(0)
        number, repeat = self._runs[index]
        config = load_trial(self._run.trial_folder(number) / "config.yaml")
        return self._issue(Proposal(index, replace(config, seed=derive_seed(self._seed, "confirm", number, repeat))))

    def folder(self, number: int) -> Path:
        """Where a run keeps its configuration and checkpoints."""
        return self._run.trial_folder(*self._runs[number])

    def record(self, number: int, progress: Progress, *, stopped: bool) -> Row | None:
        """Note a report. Returns the row where it ended the run."""
        key = self._runs[number]
        self._failures = []
        if number not in self._proposals or (
            progress.state == "running" and (*key, progress.samples_seen) in self._known
        ):
            return None
        return self._note(number, progress.state, progress, progress.verdict.cause)

    def fail(self, number: int, cause: str) -> Row | None:
        """Note that a run could not be trained."""
        self._failures.append(cause)
        return self._note(number, "failed", NOTHING, cause) if number in self._proposals else None

    def _note(self, number: int, state: str, progress: Progress, cause: str) -> Row | None:
        trial, repeat = self._runs[number]
        row = self._row(self._proposals[number].config, trial, state, progress, cause, repeat)
        self._run.results.append(row)
        self._known.add((trial, repeat, row.samples_seen))
        if row.best_score is not None and (self.best is None or row.best_score < self.best.score):
            self.best = Best(trial=trial, score=row.best_score)
        if state not in ENDED:
            return None
        del self._proposals[number]
        self.ended[state] += 1
        self.ended_here += 1
        return row
