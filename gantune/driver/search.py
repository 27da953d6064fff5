"""A search from beginning to end: its run, its books, its finalists."""

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import ray
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from gantune.audit import audit_space
from gantune.config import Pb2, Pbt
from gantune.data.data_set import DataSet, open_data
from gantune.driver.away import driving
from gantune.driver.books import Books
from gantune.driver.confirmation import Confirmation
from gantune.driver.connection import connected, start_again
from gantune.driver.control import Control
from gantune.driver.crew import Crew, SharedConfirmation, SharedLedger
from gantune.driver.database import Database
from gantune.driver.earlier import take_over
from gantune.driver.keeping import Keeping
from gantune.driver.ledger import Ledger
from gantune.driver.population import Population
from gantune.driver.schedulers import Generations, Remembering, build_scheduler
from gantune.driver.screen import Screen
from gantune.driver.sharing import settle
from gantune.driver.study import Study
from gantune.driver.trackers import Trackers, check_trackers
from gantune.driver.tune import RayGoneError, carry
from gantune.errors import RunError, SpecError
from gantune.metrics.reference import Reference
from gantune.metrics.reference_file import check_reference, load_reference, prepare_reference
from gantune.objectives import direction_of, own_metrics
from gantune.packing import Share
from gantune.requests import Requests
from gantune.run import Run
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
) -> bool:
    """Carry a run to its end, from wherever it stands; False where a person stopped it before.

    address: of a Ray cluster to join; None starts Ray on this machine. earlier: runs to learn from. storage: the URL
    of a database for the study; several drivers may then carry the run at once, each by a call of its own. track:
    who is told of every report, besides TensorBoard's files.
    Raises SpecError, RunError, DataError, PluginError or AuditError with nothing lost; the same call goes on.
    """
    track = check_trackers(track)
    database = None if storage is None else Database(url=storage)
    if database is not None:
        if isinstance(space.search.scheduler, Pbt | Pb2):
            raise SpecError("--storage: a population has one driver, who decides who takes over whom; leave it out")
        if run.place is not None:
            raise SpecError(f"--storage: drivers of one run need locks on files, which {run.place} has not; use a disk")
        database.check()
    with contextlib.ExitStack() as stack:
        stack.callback(screen.close)
        alone = not run.driven()
        crew = None if database is None else stack.enter_context(Crew(run))
        if crew is None:
            stack.enter_context(run.lock())
            stack.enter_context(driving(run, screen.say))
        requests = Requests(run)
        if alone:
            requests.begin()
        stack.enter_context(_disk_of(run))
        images = open_data(space.data, screen.passing)
        agreed: contextlib.AbstractContextManager[object] = contextlib.nullcontext() if crew is None else crew.together
        with agreed:
            continued, place = _begin(run, space, crew, database)
            reference = _reference(space, run, images, screen)
            noise_score = reference.noise_scores[space.objective.metric]
            study = Study(place, space, noise_score, run.files.study_changed)
            for other in earlier:
                screen.say(take_over(other, run, space, study))
            ledger = _books(run, space, study, crew)
        trackers = stack.enter_context(Trackers(run, track, screen.say))
        ledger.watch = trackers.note
        _let_go(ledger.keeping, screen)
        if continued:
            screen.say(f"continuing {run.shown}: {sum(ledger.ended.values())} of {ledger.asked} trials have ended")
        seen = "" if reference.accuracy is None else f"; its features know {reference.accuracy:.0%} of unseen ones"
        screen.say(
            f"{images.name}: {len(images.examples):,} examples, {images.shape}; "
            f"score {reference.named(space.objective.metric)}, lower is better "
            f"(uniform noise scores {noise_score:.4g}{seen})"
        )
        for name in space.objective.others:
            screen.say(f"also {name}, {direction_of(name)} is better")
        control = Control(requests, ledger, screen)
        control.look()  # what was asked of a driver that did not live to do it
        log = (run.folder if crew is None else crew.folder) / "ray.log"
        share: Share | None = None
        idle = ledger.complete() or bool(ledger.out_of_budget())
        if not idle:
            screen.passing("trying whether every parameter has an effect")
            audit_space(space, images.shape)
            screen.passing("starting Ray")
            stack.enter_context(connected(log, address))
            stack.push(trackers)  # they end before Ray does, which some of them need
            with agreed:
                share = settle(space, run, images, screen.say)
            scheduler = _carry(
                space, run, ledger, lambda: _schedule(space, ledger, requests), screen, control, share, images
            )
            if scheduler is None:
                return False
            for rung in scheduler.certificate.rungs() if isinstance(scheduler, Remembering) else ():
                screen.say(str(rung))
        run.results.merge()
        if ledger.stuck():
            raise RunError(f"{run.shown}: stopped: {ledger.stuck()}")
        if ledger.out_of_budget():
            ledger.close(ledger.out_of_budget())
            screen.say(f"search ended: {ledger.out_of_budget()}")
        else:
            if paused := ledger.resting:
                ledger.retire()
                screen.say(f"{paused - ledger.resting} paused trials end where they are, for better ones went on")
            if not ledger.complete():
                raise RunError(f"{run.shown}: Ray ended before all trials had; the same command continues")
        ledger.settle()
        _let_go(ledger.keeping, screen)
        if ledger.used_up() and not ledger.out_of_budget():
            screen.say(f"search ended: all {ledger.asked} configurations of the space have been tried")
        confirmation = Confirmation(run, space) if crew is None else SharedConfirmation(run, space, crew)
        if confirmation.complete() or confirmation.out_of_budget():
            if idle:
                screen.say("it is finished; for more: gantune resume --set budget.trials=N, or more of what is used up")
            with agreed:
                run.note_end()
            return True
        screen.say(f"confirming: {confirmation.asked} runs of the finalists under fresh seeds")
        if not ray.is_initialized():
            stack.enter_context(connected(log, address))
            stack.push(trackers)
        confirmation.watch = trackers.note
        with agreed:
            share = share or settle(space, run, images, screen.say)
        control = Control(requests, confirmation, screen)
        if _carry(space, run, confirmation, FIFOScheduler, screen, control, share, images) is None:
            return False
        run.results.merge()
        _let_go(confirmation.keeping, screen)
        if confirmation.stuck():
            raise RunError(f"{run.shown}: stopped: {confirmation.stuck()}")
        if not confirmation.complete():
            screen.say(f"not every finalist is confirmed: {confirmation.out_of_budget() or 'Ray ended before'}")
        with agreed:
            run.note_end()
        return True


def _books(run: Run, space: SearchSpace, study: Study, crew: Crew | None) -> Ledger:
    if isinstance(space.search.scheduler, Pbt | Pb2):
        return Population(run, space, study)
    return Ledger(run, space, study) if crew is None else SharedLedger(run, space, study, crew)


def _let_go(keeping: Keeping, screen: Screen) -> None:
    """Delete the checkpoints that nobody asks for any more, where no trial's end brought it about."""
    keeping.sweep()
    if keeping.trouble:
        screen.say(keeping.trouble)


def _begin(run: Run, space: SearchSpace, crew: Crew | None, database: Database | None) -> tuple[bool, Path | Database]:
    """Whether the run existed, and where its study lies."""
    if crew is None or database is None:
        return run.begin(space), run.study_path
    with run.lock():  # one driver alone would hold it
        continued = run.begin(space, storage=database.shown)
    crew.enrol(run)
    return continued, replace(database, study=run.manifest()["study"], driver=crew.name)


def _schedule(space: SearchSpace, ledger: Ledger, requests: Requests) -> TrialScheduler:
    if isinstance(ledger, Population):
        return Generations(ledger)
    scheduler = build_scheduler(space, ledger.rows(), requests.promoted(), ledger.heard)
    ledger.halts = scheduler if isinstance(scheduler, Remembering) else None
    return scheduler


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


def _carry(
    space: SearchSpace,
    run: Run,
    books: Books,
    schedule: Callable[[], TrialScheduler],
    screen: Screen,
    control: Control,
    share: Share,
    images: DataSet,
) -> TrialScheduler | None:
    """Train what the books ask for, starting a Ray of our own again that ends; None where a person stopped it."""
    for restarts in range(MOST_RESTARTS + 1):
        try:
            scheduler = schedule()
            return scheduler if carry(space, run, books, scheduler, screen, control, share, images) else None
        except RayGoneError as error:
            books.recall()
            if restarts == MOST_RESTARTS:
                raise RunError(f"{error}; it did so {restarts + 1} times; the same command continues") from error
            screen.say("Ray ended unexpectedly; it is started again, and what was out continues from its last report")
            start_again()
    return None


def _reference(space: SearchSpace, run: Run, images: DataSet, screen: Screen) -> Reference:
    """The run's own copy of the yardstick, made at its beginning and the same ever after."""
    if not run.reference_path.exists():
        prepared = prepare_reference(images, space.objective.features, screen.passing, choose_device("auto"))
        with whole(run.reference_path) as partial:
            shutil.copyfile(prepared, partial)
        run.files.send_once(run.reference_path)
    reference = load_reference(run.reference_path)
    check_reference(images, space.objective, reference)
    reference.try_own(own_metrics(space.objective))
    run.settle(reference.named(space.objective.metric), reference.key)
    return reference
