"""Drivers that share one run: each open trial is trained by one of them, and every row counts for all.

They agree by locks on files, which the operating system frees when their holder dies: one under which they ask, so
that no two ask at once, and one in the folder of each trial, held by the driver that trains it. An open trial whose
lock is free has lost its driver, and whoever finds it continues it from its checkpoint.
"""

import contextlib
import time
from pathlib import Path

from filelock import FileLock, Timeout

from gantune.driver.books import Books
from gantune.driver.confirmation import Confirmation
from gantune.driver.ledger import GIVEN_UP, Ledger
from gantune.driver.study import Proposal, Study
from gantune.errors import RunError
from gantune.reports import Key
from gantune.results import BUDGET, ENDED, RESTS, USER, Row
from gantune.run import Run
from gantune.space import SearchSpace

SECONDS_BETWEEN = 1.0  # looks for what others did


class Crew:
    """One driver among those of a run. Its name is the number of its session in the manifest."""

    def __init__(self, run: Run) -> None:
        self._drivers = run.folder / "drivers"
        try:
            self._drivers.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{run.folder}: cannot be written: {error.strerror or error}; use --runs") from error
        self.together = FileLock(self._drivers / ".lock")
        self._claims: dict[Path, FileLock] = {}
        self.name = ""

    def enrol(self, run: Run) -> None:
        """Take a name; from then on this driver's rows lie in parts of their own."""
        number = len(run.manifest()["sessions"])
        self.name, run.session = f"{number:04d}", number - 1
        self.folder.mkdir(exist_ok=True)
        self.claim(self.folder)  # for as long as it lives
        run.results = run.results.written_by(self.name)

    @property
    def folder(self) -> Path:
        """What this driver alone writes: Ray's log and scratch."""
        return self._drivers / self.name

    def claim(self, folder: Path) -> bool:
        """Take a trial by its folder; False where another driver has it."""
        if folder in self._claims:  # it is issued again
            return True
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._claims[folder] = lock
        return True

    def release(self, folder: Path) -> None:
        """Give a trial away, all that is to be told of it being told."""
        lock = self._claims.pop(folder, None)
        if lock is not None:
            lock.release()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: object) -> None:
        """Give all trials away: those that are open will be continued by others."""
        for folder in list(self._claims):
            self.release(folder)


class _Shared(Books):
    """Books that hear of other drivers' rows, and issue what this driver has claimed."""

    _crew: Crew
    _heard: set[tuple[int, int, int, str]]
    _looked = 0.0  # when this driver last looked for others' rows
    _vain = 0.0  # when it last found nothing to train

    def _join(self, crew: Crew, run: Run) -> None:
        self._crew = crew
        self._heard = {_key(row) for row in run.results.rows()}

    @property
    def scratch(self) -> Path:
        """Every driver has its own."""
        return self._crew.folder / "ray"

    def hear(self) -> None:
        """Take in others' rows; at most once a second."""
        if time.monotonic() - self._looked > SECONDS_BETWEEN:
            self._catch_up()

    def _catch_up(self) -> None:
        """Take in others' rows, and their clock where it is ahead: the run has one."""
        self._looked = time.monotonic()
        for row in self._run.results.news():
            if _key(row) not in self._heard:
                self._heard.add(_key(row))
                self._clock.catch_up(row.run_seconds)
                self._tally.hear(row)
                self._take_in(row)

    def _take_in(self, row: Row) -> None:
        """Another driver's row, heard for the first time."""
        raise NotImplementedError

    def _out(self) -> set[Key]:
        """Also those of other drivers that have reported."""
        return super()._out() | {key for key in self._tally.running() if bool(key[1]) == self.confirming}

    def next(self) -> Proposal | None:
        """The next trial to train. After looking in vain, as while others train the last, it does not look at once."""
        if time.monotonic() - self._vain < SECONDS_BETWEEN:
            return None
        with self._crew.together:
            self._catch_up()
            found = None if self.out_of_budget() or self.stuck() else self._claimed()
        if found is None:
            self._vain = time.monotonic()
        return None if found is None else self._issue(found)

    def _claimed(self) -> Proposal | None:
        """What is to be trained next, claimed; called while no other driver asks."""
        raise NotImplementedError

    def more(self) -> bool:
        """Whether another trial may be there later: of a driver that dies, its trials are to be continued."""
        return bool(self.running) or not (self.stuck() or self.out_of_budget() or self.complete())

    def _close(self, number: int, state: str) -> None:
        super()._close(number, state)
        self._crew.release(self.folder(number))


class SharedLedger(_Shared, Ledger):
    """Books of a search by several drivers, each of which trains what it has claimed."""

    def __init__(self, run: Run, space: SearchSpace, study: Study, crew: Crew) -> None:
        self._join(crew, run)
        super().__init__(run, space, study)

    def _take_in(self, row: Row) -> None:
        if row.repeat:
            return
        before = self._last.get(row.trial)
        self._note(row)
        self._waiting = [each for each in self._waiting if each.number != row.trial or not row.ended]
        self.heard.append(row)
        if row.state in ENDED and (before is None or before.state not in ENDED):
            self.ended[row.state] += 1

    def _lay(self, proposal: Proposal, row: Row) -> None:
        """What rests is nobody's; any driver may wake it."""
        super()._lay(proposal, row)
        self._study.leave(self._resting.pop(proposal.number).number)
        self._crew.release(self.folder(proposal.number))

    def _at_rest(self) -> list[int]:
        """Open trials that were told to rest; a driver may have woken one meanwhile."""
        return [n for n in self._study.elsewhere() if n in self._last and self._last[n].state == RESTS]

    @property
    def resting(self) -> int:
        """How many trials rest, whoever laid them."""
        return sum(row.state == RESTS for row in self._last.values())

    def _woken(self) -> Proposal | None:
        resting = self._at_rest()
        while resting and self.halts is not None and (number := self.halts.wakes(resting)) is not None:
            resting.remove(number)
            proposal = self._adopted(number)
            if proposal is not None:
                self._study.wake(number)
                return proposal
        return None

    def _adopted(self, number: int) -> Proposal | None:
        """A trial that rests, claimed; None where another driver has it, or it rests no more."""
        if not self._crew.claim(self.folder(number)):
            return None
        self._catch_up()
        proposal = self._study.take(number) if self._last[number].state == RESTS else None
        if proposal is None:
            self._crew.release(self.folder(number))
        return proposal

    def retire(self) -> None:
        """End what rests, where nobody trains any more what could wake it."""
        with self._crew.together:
            self._catch_up()
            if self._quiet():
                self._end_resting()

    def _end_resting(self) -> None:
        for number in self._at_rest():
            if (proposal := self._adopted(number)) is not None:
                self._prune(proposal, self._last[number].cause)

    def _quiet(self) -> bool:
        """Whether all that is open rests, and will not be woken."""
        resting = self._at_rest()
        if self._waiting or self._proposals or (self._study.proposed() < self._budget.trials and not self.used_up()):
            return False
        if set(self._study.elsewhere()) != set(resting) or (self.halts and self.halts.wakes(resting) is not None):
            return False
        if any(self._last[number].stopped_by == BUDGET for number in resting):
            return False
        return all(self._free(number) for number in resting)

    def _free(self, number: int) -> bool:
        free = self._crew.claim(self.folder(number))
        self._crew.release(self.folder(number))
        return free

    def more(self) -> bool:
        """Also none where all that is open rests."""
        if not super().more():
            return False
        if self.running:
            return True
        with self._crew.together:
            return not self._quiet()

    def _claimed(self) -> Proposal | None:
        begun = self._untold() or self._abandoned(begun=True) or self._continued()
        proposal = begun or self._abandoned() or self._woken()
        if proposal is None and self._study.proposed() < self._budget.trials:
            proposal = self._study.propose()
            if proposal is not None and not self._crew.claim(self.folder(proposal.number)):
                raise RunError(f"{self.folder(proposal.number)}: is locked, though trial #{proposal.number} is new")
        return proposal

    def _untold(self) -> Proposal | None:
        """A trial that was issued before, or whose end the results lack, claimed."""
        while self._waiting:
            proposal = self._waiting.pop(0)
            if self._crew.claim(self.folder(proposal.number)):
                return proposal
        return None

    def _continued(self) -> Proposal | None:
        """The next trial that the end of a budget paused, claimed."""
        paused = (number for number in self._at_rest() if self._last[number].stopped_by == BUDGET)
        for number in sorted(paused, key=self._priority):
            if (proposal := self._adopted(number)) is not None:
                self._study.wake(number)
                return proposal
        return None

    def _abandoned(self, *, begun: bool = False) -> Proposal | None:
        """An open trial whose driver is dead, claimed. One that had ended in the rows is told instead.

        begun: pass over what has no report.
        """
        for number in self._study.elsewhere():
            if begun and number not in self._last:
                continue
            if number in self._last and self._last[number].state == RESTS:
                continue
            if not self._crew.claim(self.folder(number)):
                continue
            proposal = self._study.take(number)  # told meanwhile, it is no longer open
            self._catch_up()  # only now: its driver may have written until the lock was free
            if proposal is not None:
                self._repeat(number, self.rows())
                last = self._last.get(number)
                if last is None or last.state not in (*ENDED, RESTS):
                    return proposal
                self._lay(proposal, last) if last.state == RESTS else self._tell(last)
            self._crew.release(self.folder(number))
        return None

    def fail(self, number: int, cause: str) -> Row | None:
        """Note that a trial could not be trained; for good, or another driver would try it again at once."""
        self._failures.append(cause)
        if number not in self._proposals:
            return None
        row = self._end(number, "failed", cause)
        self._tell(row)
        return row

    def state_of(self, trial: int) -> str:
        """As with one driver; `elsewhere` is what another one trains."""
        last = self._last.get(trial)
        if trial in self._proposals or trial not in self._study.elsewhere():
            return super().state_of(trial)
        return RESTS if last is not None and last.state == RESTS and self._free(trial) else "elsewhere"

    def withdraw(self, number: int, cause: str) -> Row:
        """End a trial that is not trained: of this driver's, or a paused one, which is nobody's."""
        if number in self._study.elsewhere() and (proposal := self._adopted(number)) is not None:
            return self._prune(proposal, cause, USER)
        return super().withdraw(number, cause)

    def _give_up(self, number: int) -> bool:
        with self._crew.together:
            proposal = self._adopted(number) if number in self._at_rest() else None
            if proposal is not None:
                self._prune(proposal, GIVEN_UP)
        return proposal is not None

    def together(self) -> contextlib.AbstractContextManager[object]:
        """While other drivers of the run wait."""
        return self._crew.together

    def complete(self) -> bool:
        """Whether every asked trial has ended, and the study knows it."""
        return super().complete() and not self._study.elsewhere()

    def close(self, cause: str) -> None:
        """Pause this driver's open trials and those of dead ones; wait for others to pause theirs."""
        with self._crew.together:
            super().close(cause)
        while True:
            with self._crew.together:
                self._catch_up()
                while (proposal := self._abandoned(begun=True)) is not None:
                    self._proposals[proposal.number] = proposal
                    self._pause(proposal, cause)
                given_back = {number for number in self._study.elsewhere() if number not in self._last}
                if {*self._study.elsewhere()} <= {*self._at_rest(), *filter(self._free, given_back)}:
                    return
            time.sleep(SECONDS_BETWEEN)

    def _give_back(self, number: int) -> None:
        self._study.leave(number)
        super()._give_back(number)
        self._crew.release(self.folder(number))


class SharedConfirmation(_Shared, Confirmation):
    """Books of the finalists' runs, of which each driver trains what it has claimed."""

    def __init__(self, run: Run, space: SearchSpace, crew: Crew) -> None:
        self._join(crew, run)
        super().__init__(run, space)

    def _take_in(self, row: Row) -> None:
        key = (row.trial, row.repeat)
        self._last[key] = row
        index = self._runs.index(key) if key in self._runs else None
        if row.state in ENDED and index in self._waiting:
            self._waiting.remove(index)
            self.ended[row.state] += 1

    def _claimed(self) -> Proposal | None:
        for index in list(self._waiting):
            if self._crew.claim(self.folder(index)):
                self._catch_up()  # its driver may have ended it until the lock was free
                if index in self._waiting:
                    self._waiting.remove(index)
                    return self._proposal(index)
                self._crew.release(self.folder(index))
        return None


def _key(row: Row) -> tuple[int, int, int, str]:
    return row.trial, row.repeat, row.samples_seen, row.state
