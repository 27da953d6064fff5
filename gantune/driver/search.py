"""A search from beginning to end: its run, its books, its finalists."""

import contextlib
import errno
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from gantune.audit import audit_space
from gantune.config import Pb2, Pbt, Scalar
from gantune.data.data_set import DataSet, open_data
from gantune.data.files import write_table
from gantune.driver.books import Books
from gantune.driver.confirmation import Confirmation
from gantune.driver.connection import connected, end_processes, start_again
from gantune.driver.control import Control
from gantune.driver.crew import Crew, SharedConfirmation, SharedLedger
from gantune.driver.database import Database
from gantune.driver.earlier import take_over
from gantune.driver.keeping import Keeping
from gantune.driver.ledger import Ledger
from gantune.driver.population import Population
from gantune.driver.preparation import Preparation
from gantune.driver.schedulers import CONTINUE, Generations, Remembering, build_scheduler
from gantune.driver.screen import Screen
from gantune.driver.sharing import settle
from gantune.driver.study import Study
from gantune.driver.trackers import Trackers, check_trackers
from gantune.driver.tune import RayGoneError, carry
from gantune.errors import CheckpointError, RunError, SpecError
from gantune.metrics.reference import Reference
from gantune.metrics.reference_file import check_reference, load_reference, prepare_reference, reference_wish
from gantune.objectives import direction_of, own_metrics
from gantune.packing import Share
from gantune.progress import Progress
from gantune.requests import Requests
from gantune.run import Run
from gantune.screen import unfinished
from gantune.space import SearchSpace
from gantune.trainer import choose_device
from gantune.whole import whole

BROKEN_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
MOST_RESTARTS = 10  # of a Ray that ends under one search


def search(
    space: SearchSpace,
    run: Run,
    screen: Screen,
    address: str | None = None,
    earlier: Sequence[Run] = (),
    storage: str | None = None,
    track: Sequence[str] = (),
    preparation: Preparation | None = None,
) -> bool:
    """Carry a run to its end, from wherever it stands; False where a person stopped it before.

    address: of a Ray cluster to join; None starts Ray on this machine. earlier: runs to learn from. storage: the URL
    of a database for the study; several drivers may then carry the run at once, each by a call of its own. track:
    who is told of every report, besides TensorBoard's files. preparation: of a command that has begun it.
    Raises SpecError, RunError, DataError, PluginError or AuditError with nothing lost; the same call goes on.
    """
    with contextlib.ExitStack() as stack:
        frame = preparation or stack.enter_context(Preparation(screen))
        try:
            return _search(space, run, frame, address, earlier, storage, track)
        except BaseException:
            if not (frame.interrupts.asked and frame.stages.name):
                raise
            return frame.stopped()  # whatever the library in which it was interrupted made of that


def _search(
    space: SearchSpace,
    run: Run,
    frame: Preparation,
    address: str | None,
    earlier: Sequence[Run],
    storage: str | None,
    track: Sequence[str],
) -> bool:
    screen, stack, report = frame.screen, frame.stack, frame.report
    track = check_trackers(track)
    database = _database(storage, space, run)
    crew = None if database is None else Crew(run)
    if frame.run is None:
        frame.take(run, together=None if crew is None else crew.together)
    if crew is not None:
        stack.enter_context(crew)
    with _disk_of(run):
        with _together(crew):
            place = _begin(run, space, frame, crew, database)
            report("opening the data")
            images = open_data(space.data, report)
            reference = _reference(space, run, images, report)
            report("opening the study")
            noise = reference.noise_scores[space.objective.metric]
            study = Study(place, space, noise, run.files.study_changed, _recorded(run))
            if study.restored:
                screen.say(f"{study.place}: lacked {study.restored} trials; they are entered again from the results")
            for other in earlier:
                screen.say(take_over(other, run, space, study))
            ledger = _books(run, space, study, crew)
        for notice in ledger.taken_notices():
            screen.say(notice)
        trackers = stack.enter_context(Trackers(run, track, screen.say))
        _let_go(ledger.keeping, screen)
        if frame.continued:
            screen.say(f"continuing {run.shown}: {sum(ledger.ended.values())} of {ledger.asked} trials have ended")
        _tell_of(space, images, reference, screen)
        session = _Session(space, run, images, frame, crew, address, trackers)
        return session.search(ledger) and session.confirm()


@dataclass
class _Session:
    """What a search of trials and the confirmation of its finalists have in common."""

    space: SearchSpace
    run: Run
    images: DataSet
    frame: Preparation
    crew: Crew | None
    address: str | None
    trackers: Trackers
    idle: bool = False  # there was nothing left to search

    @property
    def screen(self) -> Screen:
        """The frame's."""
        return self.frame.screen

    @cached_property
    def requests(self) -> Requests:
        """Those of the run."""
        return Requests(self.run)

    def search(self, ledger: Ledger) -> bool:
        """Train trials until all that was asked for is tried or spent; False where a person stopped it.

        Raises RunError where it does not come to that.
        """
        ledger.watch = self.trackers.note
        control = Control(self.requests, ledger, self.screen)
        control.look()  # what was asked of a driver that did not live to do it
        self.idle = ledger.complete() or bool(ledger.out_of_budget())
        if not self.idle:
            self.frame.report("trying whether every parameter has an effect")
            audit_space(self.space, self.images.shape)
            scheduler = self._carry(ledger, lambda: _schedule(self.space, ledger, self.requests), control)
            if scheduler is None:
                return False
            for rung in scheduler.certificate.rungs() if isinstance(scheduler, Remembering) else ():
                self.screen.say(str(rung))
        else:
            ledger.record_kept(_stops(_schedule(self.space, ledger, self.requests)))
        self.run.results.merge()
        if ledger.stuck():
            raise RunError(f"{self.run.shown}: stopped: {ledger.stuck()}")
        if spent := ledger.out_of_budget():
            ledger.close(spent)
            self.screen.say(f"search ended: {spent}")
            if text := unfinished(ledger.situation(), self.run.shown):
                self.screen.say(text)
        elif paused := ledger.resting:
            ledger.retire()
            self.screen.say(f"{paused - ledger.resting} paused trials end where they are, for better ones went on")
        if not spent and not ledger.complete():
            raise RunError(f"{self.run.shown}: Ray ended before all trials had; the same command continues")
        ledger.settle()
        _let_go(ledger.keeping, self.screen)
        if not spent and ledger.used_up():
            self.screen.say(f"search ended: all {ledger.asked} configurations of the space have been tried")
        return True

    def confirm(self) -> bool:
        """Train finalists under fresh seeds, where the space asks for it; False where a person stopped it.

        Raises RunError where their runs fail.
        """
        run, space, crew = self.run, self.space, self.crew
        books = Confirmation(run, space) if crew is None else SharedConfirmation(run, space, crew)
        if books.complete() or books.out_of_budget():
            if self.idle:
                more = "gantune resume --set budget.trials=N, or more of what is used up"
                self.screen.say(f"it is finished; for more: {more}")
        else:
            self.screen.say(f"confirming: {books.asked} runs of the finalists under fresh seeds")
            books.watch = self.trackers.note
            if self._carry(books, FIFOScheduler, Control(self.requests, books, self.screen)) is None:
                return False
            run.results.merge()
            _let_go(books.keeping, self.screen)
            if books.stuck():
                raise RunError(f"{run.shown}: stopped: {books.stuck()}")
            if not books.complete():
                why = books.out_of_budget() or "Ray ended before"
                books.close(why)
                self.screen.say(f"not every finalist is confirmed: {why}")
        with _together(crew):
            run.note_end()
        return True

    @cached_property
    def _share(self) -> Share:
        """What a trial occupies. Ray is there from here on."""
        self.frame.report("starting Ray")
        log = (self.run.folder if self.crew is None else self.crew.folder) / "ray.log"
        self.frame.interrupts.before_exit.append(end_processes)
        self.frame.stack.enter_context(connected(log, self.address))
        self.frame.stack.push(self.trackers)  # they end before Ray does, which some of them need
        self.frame.report("measuring what a trial costs")
        with _together(self.crew):
            return settle(self.space, self.run, self.images, self.screen.say, self.frame.report)

    def _carry(self, books: Books, schedule: Callable[[], TrialScheduler], control: Control) -> TrialScheduler | None:
        """Train what books ask for, starting a Ray of our own again that ends; None where a person stopped it."""
        space, run, screen, share = self.space, self.run, self.screen, self._share
        for restarts in range(MOST_RESTARTS + 1):
            try:
                scheduler = schedule()
                self.frame.train()
                done = carry(space, run, books, scheduler, screen, control, share, self.images, self.frame.interrupts)
                books.record_kept(_stops(scheduler))
                return scheduler if done else None
            except RayGoneError as error:
                books.recall()
                if restarts == MOST_RESTARTS:
                    raise RunError(f"{error}; it did so {restarts + 1} times; the same command continues") from error
                screen.say(
                    "Ray ended unexpectedly; it is started again, and what was out continues from its last report"
                )
                start_again()
        return None


def _database(storage: str | None, space: SearchSpace, run: Run) -> Database | None:
    """Where the study lies, if not beside the results. Raises SpecError where it cannot be used."""
    if storage is None:
        return None
    if isinstance(space.search.scheduler, Pbt | Pb2):
        raise SpecError("--storage: a population has one driver, who decides who takes over whom; leave it out")
    if run.place is not None:
        raise SpecError(f"--storage: drivers of one run need locks on files, which {run.place} has not; use a disk")
    database = Database(url=storage)
    database.check()
    return database


def _together(crew: Crew | None) -> contextlib.AbstractContextManager[object]:
    """While other drivers of the run wait."""
    return contextlib.nullcontext() if crew is None else crew.together


def _tell_of(space: SearchSpace, images: DataSet, reference: Reference, screen: Screen) -> None:
    """Say what is trained on and how it is scored."""
    metric = space.objective.metric
    seen = "" if reference.accuracy is None else f"; its features know {reference.accuracy:.0%} of unseen ones"
    screen.say(
        f"{images.name}: {len(images.examples):,} examples, {images.shape}; "
        f"score {reference.named(metric)}, lower is better "
        f"(uniform noise scores {reference.noise_scores[metric]:.4g}{seen})"
    )
    for name in space.objective.others:
        screen.say(f"also {name}, {direction_of(name)} is better")


def _books(run: Run, space: SearchSpace, study: Study, crew: Crew | None) -> Ledger:
    if isinstance(space.search.scheduler, Pbt | Pb2):
        return Population(run, space, study)
    return Ledger(run, space, study) if crew is None else SharedLedger(run, space, study, crew)


def _recorded(run: Run) -> dict[int, Mapping[str, Scalar]]:
    """The parameters that trials began with, of all that reported."""
    rows = (row for row in reversed(run.rows()) if not row.repeat)
    return {row.trial: json.loads(row.config) for row in rows}


def _let_go(keeping: Keeping, screen: Screen) -> None:
    """Delete the checkpoints that nobody asks for any more, where no trial's end brought it about."""
    keeping.sweep()
    if keeping.trouble:
        screen.say(keeping.trouble)


def _begin(
    run: Run, space: SearchSpace, frame: Preparation, crew: Crew | None, database: Database | None
) -> Path | Database:
    """Begin the run where the command has not; return where its study lies."""
    if crew is None or database is None:
        if not frame.begun:
            frame.begin(space)
        return run.study_path
    with run.lock():  # one driver alone would hold it
        frame.begin(space, database.shown)
    crew.enrol(run)
    frame.stages.keep_in(crew.folder)
    return replace(database, study=run.manifest()["study"], driver=crew.name)


def _schedule(space: SearchSpace, ledger: Ledger, requests: Requests) -> TrialScheduler:
    if isinstance(ledger, Population):
        return Generations(ledger)
    scheduler = build_scheduler(space, ledger.rows(), requests.promoted(), ledger.heard)
    ledger.halts = scheduler if isinstance(scheduler, Remembering) else None
    return scheduler


def _stops(scheduler: TrialScheduler) -> Callable[[int, Progress], bool]:
    """What a scheduler decides on a report that Tune did not live to hand it: whether its trial goes on."""
    if not isinstance(scheduler, Remembering):
        return lambda number, progress: False
    return lambda number, progress: (
        progress.score is not None
        and scheduler.decide(number, progress.samples_seen, progress.score, progress.metrics) != CONTINUE
    )


@contextlib.contextmanager
def _disk_of(run: Run) -> Iterator[None]:
    """Raise RunError for a disk that is full, read-only or broken, wherever it is met; the journal is Optuna's."""
    try:
        yield
    except OSError as error:
        if error.errno not in BROKEN_DISK:
            raise
        where = error.filename or run.folder
        raise RunError(
            f"{where}: {error.strerror}; nothing is lost: mend the disk, and the same command continues"
        ) from error


def _reference(space: SearchSpace, run: Run, images: DataSet, report: Callable[[str], None]) -> Reference:
    """The run's own copy of the yardstick, made at its beginning and the same ever after."""
    reference = _kept_reference(run)
    if reference is not None and not run.trained():  # nothing is measured against it yet
        reference = reference if reference.wish == reference_wish(images, space.objective.features) else None
    if reference is None:
        report("preparing the features of the score")
        prepared = prepare_reference(images, space.objective.features, report, choose_device("auto"))
        with whole(run.reference_path) as partial:
            shutil.copyfile(prepared, partial)
        run.data_path.unlink(missing_ok=True)
        run.files.send_once(run.reference_path)
        reference = load_reference(run.reference_path)
    check_reference(images, space.objective, reference, run.data_path)
    run.note_data(space.data.dataset)
    if images.files is not None and not run.data_path.exists():
        write_table(images.files, run.data_path)
        run.files.send_once(run.data_path)
    reference.try_own(own_metrics(space.objective))
    run.settle(reference.named(space.objective.metric), reference.key)
    return reference


def _kept_reference(run: Run) -> Reference | None:
    """The reference in the run's directory, None where it is missing or damaged."""
    with contextlib.suppress(CheckpointError):
        return load_reference(run.reference_path)
    return None
