"""Which checkpoints stay on the disk: those of ended trials by their rank, then as many of paused ones as fit.

What goes follows from the rows and from what is there. So it may be done again at any moment, and by any of several
drivers: an ended trial never begins again and never rises in rank, so what one driver lets go of, all would.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gantune.config import Pb2, Pbt
from gantune.records import TrialRecord
from gantune.reports import BEST, LATEST
from gantune.requests import Requests
from gantune.results import ENDED, RESTS
from gantune.run import Run
from gantune.space import SearchSpace

FOR_GOOD = tuple(state for state in ENDED if state != "failed")  # what failed is tried again
IDLE = 100  # times as long as a sweep took, until trials that end bring the next: it reads all rows


class Keeping:
    """Lets go of a run's checkpoints by its `keep`. `trouble`: what the last sweep could not let go of, and why."""

    def __init__(self, run: Run, space: SearchSpace) -> None:
        self._run = run
        self._top, self._gb = space.keep.top, space.keep.gb
        self._finalists = space.confirm.top
        self._population = isinstance(space.search.scheduler, Pbt | Pb2)
        self._next = 0.0
        self.trouble = ""
        self.give_up: Callable[[int], bool] = lambda number: False  # ends a paused trial, if it may be ended

    @property
    def _bounded(self) -> bool:
        return self._top != "all" or self._gb is not None

    def ended(self, folder: Path, state: str) -> None:
        """A trial has ended, and its row is written."""
        if state in FOR_GOOD and not self._population:
            self._delete(folder / LATEST)
        if self._bounded and time.monotonic() >= self._next:
            self.sweep()

    def sweep(self) -> None:
        """Let go of whatever the rows allow. Raises RunError where they cannot be read."""
        started, self.trouble, self._next = time.monotonic(), "", math.inf  # trials that it ends bring no other
        there = self._run.files.checkpoints()
        if self._bounded or any(path.name == LATEST for path in there):
            trials, repeats = self._run.trials(), self._run.repeats()
            self._drop_latest([*trials, *repeats], there)
            if self._bounded:
                self._drop_best(trials, {record.number for record in repeats}, there)
            if self._gb is not None:
                self._give_up_paused(trials, sum(there.values()) - self._gb * 1e9, there)
        self._next = time.monotonic() + IDLE * (time.monotonic() - started)

    def _drop_latest(self, records: Sequence[TrialRecord], there: dict[Path, int]) -> None:
        if self._population and any(record.state == "running" for record in records):
            return  # a decision that was made before a member ended may still take over from it
        for record in records:
            path = self._run.trial_folder(record.number, record.repeat) / LATEST
            if record.state in FOR_GOOD and path in there:
                there[path] -= self._delete(path)

    def _drop_best(self, trials: Sequence[TrialRecord], confirmed: set[int], there: dict[Path, int]) -> None:
        """Against each other only the ended are ranked: one that still runs may collapse, and then was never good."""
        ended = sorted((trial for trial in trials if trial.state in FOR_GOOD), key=_rank)
        survivors = [trial.number for trial in ended if trial.survived]
        always = {*confirmed, *survivors[: max(1, self._finalists)]}
        if self._run.others:
            always |= {trial.number for trial in self._run.front(ended)}
        if (baseline := self._run.baseline(ended)) is not None:
            always.add(baseline.number)
        paths = {trial.number: self._run.trial_folder(trial.number) / BEST for trial in ended}
        loose = [number for number, path in paths.items() if number not in always and path in there]
        if self._top != "all":
            for number in set(loose) - set(survivors[: self._top]):
                there[paths[number]] -= self._delete(paths[number])
        if self._gb is not None:
            excess = sum(there.values()) - self._gb * 1e9
            while loose and excess > 0:
                path = paths[loose.pop()]
                there[path] -= (freed := self._delete(path))
                excess -= freed

    def _give_up_paused(self, trials: Sequence[TrialRecord], excess: float, there: Mapping[Path, int]) -> None:
        """End the worst of the paused trials until the checkpoints fit; never the baseline or a promoted one."""
        spared = {*Requests(self._run).promoted(), *([] if self._run.baseline(trials) is None else [0])}
        paused = [trial for trial in trials if trial.state == RESTS and trial.number not in spared]
        for trial in sorted(paused, key=_rank, reverse=True):
            path = self._run.trial_folder(trial.number) / LATEST
            if excess <= 0:
                return
            if path in there and self.give_up(trial.number):
                excess -= there[path]
                self._delete(path)
        if excess > 0:
            taken = (self._gb or 0.0) + excess / 1e9
            self.trouble = self.trouble or f"checkpoints take {taken:.3g} GB, for what is left of them is to stay"

    def let_go(self, path: Path) -> None:
        """Delete a checkpoint that does not count."""
        self._delete(path)

    def _delete(self, path: Path) -> int:
        """The bytes that it gave back. A file that stays costs room, and nothing else."""
        try:
            return self._run.files.delete(path)
        except FileNotFoundError:
            return 0
        except OSError as error:
            self.trouble = f"{path}: could not be deleted: {error.strerror or error}"
            return 0


def _rank(trial: TrialRecord) -> tuple[bool, float, int]:
    """The best first, what may not win last."""
    score = float("inf") if trial.best_score is None else trial.best_score
    return not trial.survived, score, trial.number
