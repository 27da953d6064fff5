"""MLflow, Weights & Biases and Aim, through Tune's own callbacks, and TensorBoard: all hear every row that is written.

To Tune a trial that is paused and woken, or continued by a later session, is another one, and its configuration is a
pickle; so the callbacks are not given to Tune, but told of our trials, each by one name. A thread tells them: whatever
keeps them waiting keeps no trial waiting. One that fails is told of once and then left alone.
"""

import functools
import importlib.util
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import ray

from gantune.driver.tensorboard import TensorBoard
from gantune.errors import SpecError
from gantune.plugins import did_you_mean
from gantune.results import ENDED, Row
from gantune.run import Run

PATIENCE_SECONDS = 60.0  # at a search's end, with what a tracker has not taken yet
INSTALL = {
    "mlflow": "pip install 'gantune[mlflow]'",
    "wandb": "pip install 'gantune[wandb]'",
    "aim": "pip install aim",
}
TRACKERS = tuple(INSTALL)


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """Each name once. Raises SpecError for one that is not known or not installed."""
    wanted = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    for name in wanted:
        if name not in TRACKERS:
            raise SpecError(f"--track: unknown tracker `{name}`{did_you_mean(name, TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise SpecError(f"--track {name}: it is not installed; {INSTALL[name]}")
    return wanted


class Tracker(Protocol):
    """What is told of rows. `fresh`: whether a row tells of samples that none before told of. May raise anything."""

    def note(self, row: Row, fresh: bool) -> None:
        """Hear of a row."""

    def close(self) -> None:
        """Hear that the session ends."""


class Trackers:
    """TensorBoard's files, written at once, and the trackers that were asked for."""

    def __init__(self, run: Run, names: Sequence[str], say: Callable[[str], None]) -> None:
        self._say = say
        self._board: TensorBoard | None = TensorBoard(run)
        self._telling = [_Telling(name, functools.partial(MAKE[name], run)) for name in names]

    def note(self, row: Row, fresh: bool) -> None:
        """A row has been written."""
        if self._board is not None:
            try:
                self._board.note(row, fresh)
            except Exception as error:  # how a search is watched must not end it
                self._board = None
                self._say(f"TensorBoard's files are not written any more: {error}; the results are")
        for telling in self._telling:
            telling.queue.put((row, fresh))
        self._complain()

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(0.0 if kind is KeyboardInterrupt else PATIENCE_SECONDS)

    def close(self, seconds: float) -> None:
        """Let the trackers have what they lack, for so long; they hear no more."""
        for telling in self._telling:
            telling.queue.put(None)
        for telling in self._telling:
            telling.join(seconds)
        self._complain()
        for telling in self._telling:
            if telling.is_alive():
                self._say(f"{telling.name} is slow and lacks the last reports; the results have them")
        self._telling = []

    def _complain(self) -> None:
        """Tell of those that failed, and let go of them."""
        for telling in [telling for telling in self._telling if telling.trouble]:
            self._telling.remove(telling)
            self._say(f"{telling.name} is not told any more: {telling.trouble}; the results have it all")


class _Telling(threading.Thread):
    """Tells one tracker, in a thread of its own."""

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        super().__init__(name=name, daemon=True)
        self.queue: queue.SimpleQueue[tuple[Row, bool] | None] = queue.SimpleQueue()
        self.trouble = ""
        self._make = make
        self.start()

    def run(self) -> None:
        try:
            tracker = self._make()
            while (told := self.queue.get()) is not None:
                tracker.note(*told)
            tracker.close()
        except BaseException as error:  # a library of somebody else's may even exit
            self.trouble = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Trial:
    """One of our trials as Tune's callbacks look at one of Tune's."""

    trial_id: str
    name: str
    config: Mapping[str, Any]
    experiment_dir_name: str
    local_path: str

    def __str__(self) -> str:
        return self.name

    @property
    def evaluated_params(self) -> Mapping[str, Any]:
        return self.config

    @property
    def path(self) -> str:
        return self.local_path

    @property
    def local_experiment_path(self) -> str:
        return self.local_path

    def init_local_path(self) -> None:
        """It is there: the books have made it."""

    def get_ray_actor_ip(self) -> None:
        """Rows tell where a trial trained."""


class _Followed:
    """A callback of Tune's that is told of our trials, one run of the tracker's for each."""

    def __init__(self, run: Run, callback: Any) -> None:
        self._run = run
        self._id: str = run.manifest()["id"]
        self._callback = callback
        self._open: dict[str, _Trial] = {}
        callback.setup()

    def note(self, row: Row, fresh: bool) -> None:
        """Begin a trial with its first row, and end it with its last."""
        folder = self._run.trial_folder(row.trial, row.repeat)
        name = f"{self._run.name}/{folder.name}"
        if name not in self._open:
            if not self._worth_beginning(fresh):
                return
            self._open[name] = trial = _Trial(
                trial_id=f"{self._id}-{folder.name.replace('.', '-')}",
                name=name,
                config=json.loads(row.config),
                experiment_dir_name=self._run.name,
                local_path=str(folder.resolve()),
            )
            self._begin(trial)
        trial = self._open[name]
        if fresh or self.tells_ends:
            self._callback.log_trial_result(0, trial, self._result(row))
        self._state(trial, row)
        if row.state in ENDED or (row.state != "running" and self.ends_at_rest):
            self._callback.log_trial_end(self._open.pop(name), failed=row.state == "failed")

    tells_ends = False  # in a result, too
    ends_at_rest = False

    def _worth_beginning(self, fresh: bool) -> bool:
        return True

    def _begin(self, trial: _Trial) -> None:
        self._callback.log_trial_start(trial)

    def _state(self, trial: _Trial, row: Row) -> None:
        """Tell what has become of a trial."""

    def _result(self, row: Row) -> dict[str, Any]:
        numbers = {"score": row.score, "best_score": row.best_score, "trial_seconds": row.trial_seconds, **row.metrics}
        steps = {"timesteps_total": row.samples_seen, "training_iteration": row.samples_seen}
        return {name: value for name, value in numbers.items() if value is not None} | steps

    def close(self) -> None:
        """What still trains goes on in another session."""


class _MLflow(_Followed):
    """The run of a trial is found again by the name that it has there."""

    def __init__(self, run: Run) -> None:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        named = os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.name
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells on the screen how it makes its database
        super().__init__(run, MLflowLoggerCallback(experiment_name=named, tags={"gantune_run": run.manifest()["id"]}))
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self._states: dict[str, str] = {}
        self._known: dict[str, str] = {}
        wanted = [self._callback.mlflow_util.experiment_id], f"tags.gantune_run = '{self._id}'"
        found = self._client.search_runs(*wanted, max_results=1000)
        while found:
            self._known |= {each.data.tags["trial_name"]: each.info.run_id for each in found}
            found = self._client.search_runs(*wanted, max_results=1000, page_token=found.token) if found.token else []

    def _begin(self, trial: _Trial) -> None:
        runs = self._callback._trial_runs
        if trial.name in self._known:
            runs[trial] = self._known[trial.name]
            self._client.update_run(runs[trial], status="RUNNING")
        else:
            super()._begin(trial)
            self._known[trial.name] = runs[trial]

    def _state(self, trial: _Trial, row: Row) -> None:
        if self._states.get(trial.name) != row.state:
            self._states[trial.name] = row.state
            for tag, value in (("state", row.state), ("cause", row.cause), ("place", row.place)):
                self._client.set_tag(self._known[trial.name], tag, value)


class _Wandb(_Followed):
    """Each trial that trains has a process that talks to the server; it ends where the trial rests."""

    tells_ends = True  # in the configuration there
    ends_at_rest = True

    def __init__(self, run: Run) -> None:
        from ray.air.integrations.wandb import WandbLoggerCallback

        named = os.environ.get("WANDB_PROJECT") or run.name
        # a cluster's Ray, which starts the processes, has another environment
        given = {"mode": os.environ.get("WANDB_MODE"), "entity": os.environ.get("WANDB_ENTITY")}
        callback = WandbLoggerCallback(
            project=named,
            group=os.environ.get("WANDB_RUN_GROUP") or run.name,
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or str(run.folder.resolve()),
            upload_timeout=0,  # it is waited for below
            **{name: value for name, value in given.items() if value},
        )
        super().__init__(run, callback)

    def note(self, row: Row, fresh: bool) -> None:
        """Tell the processes, as long as there are any; what one of them died of is raised."""
        if not ray.is_initialized():
            return
        super().note(row, fresh)
        working = list(self._callback._trial_logging_futures.values())
        for done in ray.wait(working, num_returns=len(working), timeout=0)[0] if working else []:
            ray.get(done)

    def _worth_beginning(self, fresh: bool) -> bool:
        return fresh  # a process is much for one word on a trial that has rested

    def _result(self, row: Row) -> dict[str, Any]:
        ended = {"state": row.state, "cause": row.cause, "place": row.place}
        return super()._result(row) | {"config": json.loads(row.config) | ended}

    def close(self) -> None:
        """Let the processes send what they have. Raises TimeoutError where some would take too long."""
        if not ray.is_initialized():
            return
        for trial in self._open.values():
            self._callback.log_trial_end(trial)
        working = list(self._callback._trial_logging_futures.values())
        slow = ray.wait(working, num_returns=len(working), timeout=0.9 * PATIENCE_SECONDS)[1] if working else []
        self._callback.on_experiment_end([])
        if slow:
            raise TimeoutError(f"{len(slow)} trials had not been sent whole when the search ended")


class _Aim(_Followed):
    """Aim names its runs itself: a trial that is woken goes on in its own, and another session begins another."""

    ends_at_rest = True  # an open run holds files

    def __init__(self, run: Run) -> None:
        from ray.tune.logger.aim import AimLoggerCallback

        super().__init__(run, AimLoggerCallback(repo=".", experiment_name=run.name))
        self._hashes: dict[str, str] = {}

    def _begin(self, trial: _Trial) -> None:
        known = self._hashes.get(trial.name)
        self._callback._aim_run_kwargs = {"run_hash": known} if known else {}
        super()._begin(trial)
        self._hashes[trial.name] = self._callback._trial_to_run[trial].hash

    def _state(self, trial: _Trial, row: Row) -> None:
        self._callback._trial_to_run[trial]["gantune"] = {"state": row.state, "cause": row.cause}

    def close(self) -> None:
        """Close what is open."""
        for trial in self._open.values():
            self._callback.log_trial_end(trial)


MAKE: dict[str, Callable[[Run], Tracker]] = {"mlflow": _MLflow, "wandb": _Wandb, "aim": _Aim}
