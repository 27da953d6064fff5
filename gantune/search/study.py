"""The one place that knows Optuna: proposes configurations and is told what became of them.

The study lives in a journal file in the run directory, which optuna-dashboard opens. A collapsed trial is told as a
complete one with the worst finite value so far, and as infeasible: TPE ranks every complete trial before every pruned
one, so the value alone would place a dead run above one that was stopped while it learned. A stopped trial is told as
pruned, with the step at which it stopped.
"""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gantune.config import TrialConfig, derive_seed
from gantune.errors import RunError
from gantune.space import SearchSpace

MOST_REJECTIONS = 100


@dataclass(frozen=True, slots=True)
class Proposal:
    """A numbered configuration to be trained."""

    number: int
    config: TrialConfig


class Study:
    """The study of one run, opened by the one driver that holds the run.

    `floor` is the value told for a collapse while no trial has a finite score yet.
    """

    def __init__(self, path: Path, space: SearchSpace, floor: float) -> None:
        optuna.logging.set_verbosity(logging.WARNING)
        self._space = space
        self._floor = floor
        try:
            journal = path.resolve()  # the lock is a link to it, and a link with a relative target points elsewhere
            _mend(journal)
            storage = JournalStorage(JournalFileBackend(str(journal)))
            names = optuna.get_all_study_names(storage)  # a run that was renamed keeps its study
            name = names[0] if names else path.parent.name
            self._study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be opened as a study: {error}") from error
        self._study.sampler = _sampler(space, sessions=len(self._study.trials))
        self._open = {
            frozen.number: optuna.Trial(self._study, frozen._trial_id)
            for frozen in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        }
        known = self._study.get_trials(deepcopy=False)
        if all(trial.state == TrialState.WAITING for trial in known):  # a driver may be killed while it enqueues
            for values in space.given()[len(known) :]:
                self._study.enqueue_trial(dict(values))

    def open_proposals(self) -> list[Proposal]:
        """What was proposed before and not told yet, in order; the same values as the first time."""
        drawn = [self._draw_valid(number, trial) for number, trial in sorted(self._open.items())]
        return [proposal for proposal in drawn if proposal is not None]

    def propose(self) -> Proposal:
        """A new configuration; draws whose parts do not go together are told as failed and drawn again.

        Raises RunError where the space seems to hold no valid configuration.
        """
        for _ in range(MOST_REJECTIONS):
            trial = self._study.ask()
            self._open[trial.number] = trial
            proposal = self._draw_valid(trial.number, trial)
            if proposal is not None:
                return proposal
        reason = self._study.get_trials(deepcopy=False)[-1].user_attrs["rejected"]
        raise RunError(f"{MOST_REJECTIONS} draws in a row were invalid, the last because: {reason}")

    def _draw_valid(self, number: int, trial: optuna.Trial) -> Proposal | None:
        """The configuration of an open trial; None where its parts do not go together, and the trial is closed."""
        seed = derive_seed(self._space.search.seed, "trial", number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            config = self._space.draw(trial, seed=seed)
        reason = self._space.conflict(config)
        if reason is None:
            return Proposal(number, config)
        trial.set_user_attr("rejected", reason)
        self._study.tell(trial, state=TrialState.FAIL)
        del self._open[number]
        return None

    def proposed(self) -> int:
        """How many trials have been proposed so far, rejected draws left out."""
        trials = self._study.get_trials(deepcopy=False)
        return sum(trial.state != TrialState.WAITING and "rejected" not in trial.user_attrs for trial in trials)

    def knows(self, number: int) -> bool:
        """Whether a trial of this number was ever proposed."""
        return number < len(self._study.get_trials(deepcopy=False))

    def is_open(self, number: int) -> bool:
        """Whether a trial is still to be told."""
        return number in self._open

    def report(self, number: int, samples_seen: int, score: float) -> None:
        """An intermediate score of an open trial; one already known is left as it is."""
        trial = self._open[number]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            trial.report(score, step=samples_seen)

    def tell(
        self,
        number: int,
        state: str,
        score: float | None,
        *,
        attributes: Mapping[str, Any],
        violations: Mapping[str, float],
    ) -> None:
        """How a trial ended: finished | pruned | collapsed | failed; `score` is its lowest, where it has one.

        violations: by constraint, how far it is missed; zero or less where it is met.
        """
        trial = self._open[number]
        for key, value in {**violations, "collapsed": 1.0 if state == "collapsed" else -1.0}.items():
            if key not in trial.constraints:
                trial.set_constraint(key, value)
        for key, value in {"state": state, **attributes}.items():
            trial.set_user_attr(key, value)
        if state == "failed":
            self._study.tell(trial, state=TrialState.FAIL)
        elif state == "collapsed":
            self._study.tell(trial, self._worst())
        elif state == "pruned":
            self._study.tell(trial, state=TrialState.PRUNED)
        elif score is not None:
            self._study.tell(trial, score)
        else:
            self._study.tell(trial, self._worst())
        del self._open[number]

    def _worst(self) -> float:
        """The worst finite score that any trial has shown."""
        seen = [
            value
            for trial in self._study.get_trials(deepcopy=False)
            for value in [*trial.intermediate_values.values(), *(trial.values or [])]
        ]
        return max(seen, default=self._floor)


def _mend(journal: Path) -> None:
    """Take away what a driver leaves that is killed while it writes: its lock, and the line that it did not end."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if journal.exists():
        with journal.open("rb+") as stream:
            content = stream.read()
            stream.truncate(content.rfind(b"\n") + 1)


def _sampler(space: SearchSpace, sessions: int) -> BaseSampler:
    """The configured sampler; its seed differs after every restart, or a restart would repeat its draws."""
    seed = derive_seed(space.search.seed, "sampler", sessions) % 2**32
    if space.search.sampler == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
