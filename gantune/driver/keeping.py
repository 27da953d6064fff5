"""Which checkpoints of trials that have ended stay on the disk; what is open keeps all of its own.

What goes follows from the rows and from what is there. So it may be done again at any moment, and by any of several
drivers: an ended trial never begins again and never rises in rank, so what one driver lets go of, all would.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from gantune.config import Pb2, Pbt
from gantune.records import ENDED, TrialRecord
from gantune.run import Run
from gantune.space import SearchSpace

LATEST, BEST = "latest.safetensors", "best.safetensors"  # as trial.py writes them; it needs torch
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
        started, self.trouble = time.monotonic(), ""
        there = self._run.files.checkpoints()
        if self._bounded or any(path.name == LATEST for path in there):
            trials, repeats = self._run.trials(), self._run.repeats()
            self._drop_latest([*trials, *repeats], there)
            if self._bounded:
                self._drop_best(trials, {record.number for record in repeats}, there)
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
                excess -= self._delete(paths[loose.pop()])
            if excess > 0:
                taken = self._gb + excess / 1e9
                self.trouble = self.trouble or f"checkpoints take {taken:.3g} GB, for what is left of them is to stay"

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
