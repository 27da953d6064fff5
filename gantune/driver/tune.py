"""Ray Tune executes what the books ask for. Tune's own experiment state is never relied upon."""

import contextlib
import functools
import logging
import math
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from gantune.data.data_set import DataSet
from gantune.driver.attempts import read_attempts
from gantune.driver.books import Books
from gantune.driver.connection import gone, joined
from gantune.driver.control import Control
from gantune.driver.deaths import error_of
from gantune.driver.interrupts import Interrupts
from gantune.driver.room import Room, check_room, placed
from gantune.driver.screen import Screen
from gantune.driver.sharing import shipped
from gantune.driver.study import Proposal
from gantune.driver.trainable import GanTrainable
from gantune.driver.workers import Workers
from gantune.errors import RunError
from gantune.packing import Share
from gantune.progress import Progress
from gantune.results import Row
from gantune.run import Run
from gantune.space import SearchSpace
from gantune.spending import duration

MOST_PENDING = 1_000_000
SECONDS_TO_START = 60.0  # a worker


class RayGoneError(RunError):
    """The Ray that we started has ended under us."""


class _Gone(BaseException):
    """Leaves Tune's loop without its cleaning up, which would wait for every worker of a Ray that is gone."""


class _Unsaved:
    """Tune pickles the parts of an experiment so as to restore it; we never do, and the books stay out of pickles."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Asking(_Unsaved, Searcher):  # type: ignore[misc]
    """Passes the proposals of the books on to Tune."""

    def __init__(
        self, books: Books, run: Run, share: Share, limit: "_Limit", room: Callable[[], float] = lambda: math.inf
    ) -> None:
        super().__init__()
        self._books = books
        self._limit = limit
        self._run = run
        self._room = room
        device = "cuda" if share.gpus else "cpu"
        self._share = {"threads": share.threads, "device": device, "processes": share.processes}
        self._out: dict[str, float] = {}  # since when, by Tune's own ids
        self._drawn: Proposal | None = None  # ahead

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial; nothing for now while there may be another later, for which Tune asks once a second.

        There are never more than there is `room` for.
        """
        if len(self._out) >= self._room():
            return None
        drawn = self._drawn if self._drawn is not None and self._books.is_out(self._drawn.number) else None
        proposal, self._drawn = drawn or self._books.next(), None
        if proposal is None:
            finished: str = Searcher.FINISHED
            return None if self._books.more() and not self._limit.asked else finished
        self._out[trial_id] = time.monotonic()
        return {
            "number": proposal.number,
            "pickled": pickle.dumps(proposal.config),  # the trial's config.yaml, which takes longer to read
            "folder": str(self._books.folder(proposal.number).resolve()),
            "reference": str(self._run.reference_path.resolve()),
            "place": str(self._run.place or ""),
            "micro_batches": (chunks := read_attempts(self._books.folder(proposal.number)).micro_batches),
            "alone": chunks > 1,
            **self._share,
        }

    def withdrawn(self, number: int) -> bool:
        """Whether the books have ended a trial that Tune still holds."""
        return not self._books.is_out(number)

    @property
    def interrupted(self) -> bool:
        """Whether a signal has asked for the end."""
        return self._limit.interrupted

    @property
    def over(self) -> bool:
        """Whether Tune was told to stop every trial."""
        return self._limit.over

    def draw_ahead(self) -> None:
        """Draw the next trial while all workers train, so that who is done first does not wait for the sampler."""
        if self._drawn is None and not self._limit.asked and self._out and len(self._out) >= self._room():
            self._drawn = self._books.next()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Make room; the books hear of endings from the callback, which hears of every result."""
        self._out.pop(trial_id, None)

    def choose(self, waiting: Sequence[Trial]) -> Trial | None:
        """Which trial a worker that is free takes: the newest, for workers are being started for the others.

        Were one of those to take it, Tune would end the worker that is starting for it, and where trials are shorter
        than such a start, no second worker would ever do anything. For who has waited for long none seems to come.
        """
        known = sorted((trial for trial in waiting if trial.trial_id in self._out), key=self._since)
        if known and time.monotonic() - self._since(known[0]) > SECONDS_TO_START:
            return known[0]
        return known[-1] if known else None

    def _since(self, trial: Trial) -> float:
        return self._out[trial.trial_id]

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth."""


class _Noting(_Unsaved, Callback):  # type: ignore[misc]
    """Notes every result and failure in the books, and keeps the screen."""

    def __init__(self, books: Books, asking: _Asking, screen: Screen, control: Control, workers: Workers) -> None:
        self._books = books
        self._asking = asking
        self._workers = workers
        self._screen = screen
        self._control = control
        self._remarks: set[str] = set()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._workers.note(trial.temporary_state.ray_actor)
        self._books.train(trial.config["number"])

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._control.look()
        self._books.hear()
        for notice in self._books.taken_notices():
            self._screen.say(notice)
        self._asking.draw_ahead()
        if self._asking.interrupted:
            self._screen.interrupted()
        self._screen.update(self._books)
        if self._asking.over:
            self._workers.end()  # Tune would wait for up to ten seconds for a report

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "failure" in result:
            row = self._failed(result["number"], result["failure"], result["fault"])
        elif "progress" in result:
            self._remark(result.pop("remark", ""))
            progress = Progress.from_dict(result.pop("progress"))  # or Tune would keep every metric's history
            stopped, by = bool(result.get("done")), self._control.stopper(result["number"])
            row = self._books.record(result["number"], progress, stopped=stopped, by=by)
        else:
            return
        self._ended(row)

    def _remark(self, remark: str) -> None:
        """Tell once what a worker has to say of its machine."""
        if remark and remark not in self._remarks:
            self._remarks.add(remark)
            self._screen.say(remark)

    def _failed(self, number: int, cause: str, fault: str) -> Row | None:
        if fault == "memory":
            return self._books.lack_memory(number, cause)
        if fault == "machine":
            self._books.halt(cause)
            return None
        return self._books.fail(number, cause)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if gone() or self._asking.over:  # no trial is to blame
            return
        error = error_of(trial)
        text = str(error or "its worker died").strip()
        logging.getLogger("ray").error("trial %s: %s", trial.config["number"], text)
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            row = self._books.lack_memory(trial.config["number"], "out of memory: Ray ended its worker; see ray.log")
        elif _machine_lost(error):
            where = f"the machine of #{trial.config['number']} was lost"
            self._screen.say(f"{where}; the trial goes on elsewhere from its last checkpoint")
            row = self._books.move(trial.config["number"], where)
        else:
            row = self._books.crash(trial.config["number"], text.splitlines()[-1])
        self._ended(row)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Let go of the statistics that Tune keeps of every number of every trial: a search may be long."""
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    def _ended(self, row: Row | None) -> None:
        if row is not None:
            self._screen.ended(row, self._books)
            self._control.ended(row)


def _machine_lost(error: Exception | None) -> bool:
    """Whether a worker died with its machine, taken away or not: Ray says only in words that it was not."""
    return isinstance(error, ray.exceptions.ActorDiedError) and (error.preempted or "its node has died" in str(error))


class _Limit(_Unsaved, Stopper):  # type: ignore[misc]
    """Stops everything when the budget is used up, and what a person wants stopped."""

    def __init__(self, books: Books, control: Control, interrupts: Interrupts) -> None:
        self._books = books
        self._control = control
        self._interrupts = interrupts
        self.over = False  # Tune was told to stop every trial

    @property
    def interrupted(self) -> bool:
        """Whether a signal has asked for the end."""
        return self._interrupts.asked

    @property
    def asked(self) -> bool:
        """Whether a person wants the search to stop."""
        return self.interrupted or self._control.stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._control.kills(result)

    def stop_all(self) -> bool:
        if gone():
            raise _Gone
        self.over = self.asked or bool(self._books.out_of_budget() or self._books.stuck())
        return self.over


def carry(
    space: SearchSpace,
    run: Run,
    books: Books,
    scheduler: TrialScheduler,
    screen: Screen,
    control: Control,
    share: Share,
    images: DataSet,
    interrupts: Interrupts,
) -> bool:
    """Train what the books ask for; False where a person stopped it. Raises RayGoneError where it can go on."""
    control.scheduler = scheduler
    limit = _Limit(books, control, interrupts)
    with interrupts.mode("note"):
        books.occupy(share.gpus)
        try:
            _fit(space, run, books, scheduler, limit, screen, control, share, images)
        except _Gone as error:
            if not limit.asked:
                raise RayGoneError(f"{run.shown}: Ray ended unexpectedly; see {run.folder / 'ray.log'}") from error
        finally:
            books.train_nobody()
    screen.rest(books)
    if limit.asked:
        screen.say(f"stopped after {duration(books.seconds())}; the same command continues")
    return not limit.asked


def _fit(
    space: SearchSpace,
    run: Run,
    books: Books,
    scheduler: TrialScheduler,
    limit: _Limit,
    screen: Screen,
    control: Control,
    share: Share,
    images: DataSet,
) -> None:
    check_room(share)
    if not share.gpus and space.budget.gpu_hours is not None:
        raise RunError(
            "budget.gpu_hours would never be used up, for there is no GPU; use budget.hours or budget.samples"
        )
    shell = tune.with_parameters(GanTrainable, images=shipped(images)) if joined() else GanTrainable
    shell = tune.with_resources(shell, functools.partial(placed, share))
    workers = Workers()
    scratch, asking = books.scratch, _Asking(books, run, share, limit, Room(share).trials)
    tuner = tune.Tuner(
        shell,
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=asking,
            scheduler=_queued(scheduler, asking),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="experiment",
            storage_path=str(scratch.resolve()),
            callbacks=[_Noting(books, asking, screen, control, workers)],
            stop=limit,
            failure_config=tune.FailureConfig(max_failures=0),  # the books issue a trial again
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a trial writes its own
            verbose=0,
        ),
    )
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with _pending_as_asked():
            tuner.fit()
    except (RuntimeError, OSError, ValueError, ray.exceptions.RayError, tune.TuneError) as error:
        if gone():
            raise _Gone from error
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            raise  # a disk's, which the search knows how to tell
        raise RunError(f"{run.shown}: Ray failed: {error}; nothing is lost, the same command continues") from error
    finally:
        workers.end()  # or one could write a checkpoint after the books have read them
        shutil.rmtree(scratch, ignore_errors=True)


def _queued(scheduler: TrialScheduler, asking: _Asking) -> TrialScheduler:
    """The scheduler, which gives a free worker to whom `asking` says; what else it chooses from it goes on choosing."""
    own = scheduler.choose_trial_to_run

    def choose(controller: Any) -> Trial | None:
        for trial in [trial for trial in controller.get_live_trials() if asking.withdrawn(trial.config["number"])]:
            controller.stop_trial(trial)
        waiting = [trial for trial in controller.get_live_trials() if trial.status == Trial.PENDING]
        return asking.choose(waiting) or own(controller)

    scheduler.choose_trial_to_run = choose
    return scheduler


@contextlib.contextmanager
def _pending_as_asked() -> Iterator[None]:
    """Let as many trials wait for a worker as the searcher gives: of its own Tune would start one worker at a time."""
    name = "TUNE_MAX_PENDING_TRIALS_PG"
    before = os.environ.get(name)
    os.environ[name] = before or str(MOST_PENDING)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
