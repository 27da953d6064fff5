"""What the report's page is made of, read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gantune.errors import NoSurvivorError
from gantune.pictures import moments
from gantune.records import TrialRecord, standings_of, trials_and_repeats
from gantune.report.study import outcome
from gantune.results import Row
from gantune.run import Run
from gantune.space import SearchSpace, load_space
from gantune.spending import Spending, spending
from gantune.standings import Standing
from gantune.winner import Winner, find_winner


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A run at one moment. `winner` is None where no trial survived, and `reasons` tells why."""

    run: Run
    space: SearchSpace
    manifest: Mapping[str, Any]
    rows: Sequence[Row]
    trials: Sequence[TrialRecord]
    repeats: Sequence[TrialRecord]
    winner: Winner | None
    reasons: str

    @staticmethod
    def of(run: Run) -> "Contents":
        """Read a run. Raises RunError where it cannot be read."""
        manifest = run.manifest()
        run.files.refresh()
        rows = run.rows()
        trials, repeats = trials_and_repeats(rows)
        winner, reasons = None, ""
        try:
            winner = find_winner(run, rows=rows)
        except NoSurvivorError as error:
            reasons = str(error)
        return Contents(
            run=run,
            space=load_space(manifest["space"]),
            manifest=manifest,
            rows=rows,
            trials=trials,
            repeats=repeats,
            winner=winner,
            reasons=reasons,
        )

    @cached_property
    def baseline(self) -> TrialRecord | None:
        """The baseline's trial, where there is one."""
        return self.run.baseline(self.trials)

    @cached_property
    def standings(self) -> list[Standing]:
        """Of confirmed finalists."""
        return standings_of(self.repeats)

    @cached_property
    def spent(self) -> Spending:
        """What the run has cost."""
        return spending(self.run, self.rows)

    @cached_property
    def outcomes(self) -> dict[int, str]:
        """What became of every trial."""
        return {trial.number: outcome(trial) for trial in self.trials}

    @cached_property
    def ranked(self) -> list[TrialRecord]:
        """All trials, the best first; then those that met no constraints, without a score, and dead."""
        return sorted(
            self.trials,
            key=lambda trial: (
                *(not trial.survived, trial.best_score is None, trial.lowest_score is None),
                *(trial.best_score or trial.lowest_score or 0.0, trial.number),
            ),
        )

    def moments(self, trial: TrialRecord) -> dict[int, Path]:
        """The pictures of a trial's reports, brought here."""
        folder = self.run.trial_folder(trial.number)
        self.run.files.bring_pictures(folder)
        return moments(folder)
