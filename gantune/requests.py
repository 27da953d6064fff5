"""What people ask of a search that runs elsewhere, as small files in its run's directory.

requests/ID.json is written by who asks, and stays until it has been carried out or refused; requests/ID.answer.json is
written by the driver. A request that a driver did not live to carry out is met by the next one.
"""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from gantune.errors import RunError
from gantune.results import ENDED
from gantune.run import Run
from gantune.whole import whole

Verb = Literal["stop", "kill", "promote"]
State = Literal["accepted", "done", "refused"]
PROMOTED = "promoted.json"  # trials that no scheduler stops any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked: `stop` the search, `kill` a trial, or `promote` one to its whole budget."""

    id: str
    verb: Verb
    trial: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a request. What is accepted is carried out later, and answered again."""

    state: State
    text: str


class Requests:
    """The requests of one run: any number of people ask, its one driver answers."""

    def __init__(self, run: Run) -> None:
        self._folder = run.folder / "requests"
        self._files = run.files

    def ask(self, verb: Verb, trial: int | None = None) -> Request:
        """Leave a request for the driver. Raises RunError where it cannot be written."""
        request = Request(id=f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}", verb=verb, trial=trial)
        self._write(self._asked(request), {"verb": verb, "trial": trial})
        return request

    def asked(self, request: Request) -> bool:
        """Whether a request has still to be carried out."""
        self._files.look(self._folder)
        return self._asked(request).exists()

    def answer(self, request: Request) -> Answer | None:
        """What the driver has said so far."""
        self._files.look(self._folder)
        found = _read(self._answered(request))
        return None if found is None else Answer(state=found["state"], text=found["text"])

    def forget(self, request: Request) -> None:
        """Take a request back, or away once its answer has been read."""
        for path in (self._asked(request), self._answered(request)):
            self._unlink(path)

    def begin(self) -> None:
        """A driver begins: nobody reads old answers, and whoever asked its forerunner to stop has his will."""
        for path in self._folder.glob("*.answer.json"):
            self._unlink(path)
        for request in self.pending():
            if request.verb == "stop":
                self.reply(request, "refused", "was asked before this search began")

    def pending(self) -> list[Request]:
        """What is asked and not yet carried out, the oldest first; what is no request is taken away."""
        self._files.look(self._folder)
        found = []
        for path in sorted(self._folder.glob("[0-9]*.json")):
            if path.name.endswith(".answer.json"):
                continue
            values = _read(path)
            if values is None or values.get("verb") not in get_args(Verb):
                self._unlink(path)
            else:
                found.append(Request(id=path.stem, verb=values["verb"], trial=values.get("trial")))
        return found

    def reply(self, request: Request, state: State, text: str) -> None:
        """Answer as the driver; what is done or refused is asked no longer."""
        self._write(self._answered(request), {"state": state, "text": text})
        if state != "accepted":
            self._unlink(self._asked(request))

    def promote(self, trial: int, samples_seen: int) -> None:
        """Note that no scheduler is to stop a trial after so many samples; what it decided before stands."""
        self._write(self._folder / PROMOTED, {str(trial): samples_seen} | (_read(self._folder / PROMOTED) or {}))

    def promoted(self) -> dict[int, int]:
        """The promoted trials, and the samples that each had seen."""
        return {int(trial): samples for trial, samples in (_read(self._folder / PROMOTED) or {}).items()}

    def _asked(self, request: Request) -> Path:
        return self._folder / f"{request.id}.json"

    def _answered(self, request: Request) -> Path:
        return self._folder / f"{request.id}.answer.json"

    def _write(self, path: Path, values: Mapping[str, Any]) -> None:
        try:
            with whole(path) as partial:
                partial.write_text(json.dumps(values), encoding="utf-8")
                self._files.send(path, partial.read_bytes())  # first: what is not there is taken away here
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error

    def _unlink(self, path: Path) -> None:
        self._files.drop([path])
        path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """A whole file's values; None where there is none, or something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def check_open(run: Run, number: int) -> None:
    """Raise RunError where a run has no such trial, or where the trial has ended, with its state."""
    trials = {trial.number: trial for trial in run.trials()}
    if number in trials and trials[number].state in ENDED:
        trial = trials[number]
        cause = f" ({trial.cause.splitlines()[0]})" if trial.cause else ""
        raise RunError(
            f"{run.shown}: #{number} has ended already: {trial.state} at {trial.samples_seen:,} samples{cause}"
        )
    if number not in trials and not _was_issued(run, number):
        still = [f"#{trial.number}" for trial in trials.values() if trial.state not in ENDED]
        open_ones = (
            f"its open trials that have reported: {', '.join(still)}" if still else "none is open that has reported"
        )
        raise RunError(f"{run.shown}: there is no trial #{number}; {open_ones}")


def _was_issued(run: Run, number: int) -> bool:
    folder = run.trial_folder(number)
    return folder.is_dir() or run.files.holds(folder / "config.yaml")
