"""The frame of a search: its signals, its clock, its run and, until trials train, its stage.

A command opens it before it imports torch and Ray, so that the first second already shows, and can be stopped.
"""

import contextlib
from types import TracebackType

import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import ArrowException

from gantune.clock import Clock
from gantune.driver.away import driving
from gantune.driver.interrupts import Interrupts
from gantune.driver.screen import Screen
from gantune.driver.stages import Stages
from gantune.errors import GantuneError
from gantune.requests import Requests
from gantune.run import MADE, MADE_FOLDERS, Run
from gantune.space import SearchSpace
from gantune.spending import duration
from gantune.stage import FILE, read_stage

LOADING = "loading PyTorch and Ray"


class Preparation:
    """A search from the moment its command was entered, as a context manager.

    own_process: whether the process is a command's, and ends with it. `stack`: what ends before the run is left.
    """

    def __init__(self, screen: Screen, clock: Clock | None = None, *, own_process: bool = False) -> None:
        self.screen = screen
        self.clock = clock or Clock()
        self.interrupts = Interrupts(own_process=own_process)
        self.stages = Stages(screen, self.clock, self.interrupts)
        self.report = self.stages.report
        self.stack = contextlib.ExitStack()
        self.run: Run | None = None
        self.requests: Requests | None = None
        self.begun = False
        self.continued = False  # the run has existed
        self._together: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        self._alone = True  # no other driver may have the run
        self._made = False  # the run, by this session
        self._trained = False
        self._left = False
        self._seconds: float | None = None  # budget.hours, where it is to be looked at

    def __enter__(self) -> "Preparation":
        self.stack.enter_context(self.interrupts)
        self.stack.callback(self.screen.close)
        self.stack.callback(self.stages.end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)

    def loading(self) -> contextlib.AbstractContextManager[None]:
        """Return the context of imports: a signal ends the process there, as they survive no exception."""
        self.report(LOADING)
        return self.interrupts.mode("end")

    def take(self, run: Run, together: contextlib.AbstractContextManager[object] | None = None) -> None:
        """Take the run for this driver, and tell of the stage there. Raises RunError where another one has it.

        together: the lock of several drivers of one run; each tells of its stage in a folder of its own.
        """
        self.run, run.clock = run, self.clock
        alone = together is None or not run.driven()
        if together is None:
            self.stack.enter_context(run.lock())
            self.stack.enter_context(driving(run, self.screen.say))
        else:
            self._together, self._alone = together, False
        self.requests = Requests(run)
        if alone:
            self.requests.begin()
        self.clock.before = _shown_before(run)
        self._made = together is None and not (run.folder / "manifest.json").exists() and not run.trained()
        self.stack.push(self._leave)
        self.interrupts.before_exit.append(self._leave)
        self.stages.look = self._look
        self.stages.keep_in(run.folder if self._alone and run.place is None else None)

    def begin(self, space: SearchSpace, storage: str | None = None) -> None:
        """Make the run or continue it. Raises RunError where it was made from another space."""
        assert self.run is not None
        self.continued = self.run.begin(space, storage=storage)
        if not self.continued:
            self.clock.before = 0.0
        self.begun = True
        hours = space.budget.hours
        if hours is not None and self.clock.before < hours * 3600:
            self._seconds = hours * 3600

    def train(self) -> None:
        """Tell of no stage any more: trials train, and their books see to budgets."""
        self._trained, self._seconds = True, None
        self.stages.end()

    def stopped(self) -> bool:
        """Say why the search ends before trials train; False where a person stopped it."""
        assert self.interrupts.asked
        stage = self.stages.name
        if self.interrupts.cause == "hours" and self.run is not None:
            used = duration(self.clock.seconds())
            self.screen.say(
                f"search ended: budget.hours is used up: the preparation took all of it ({used}, now {stage}); what is "
                f"prepared is kept: gantune resume {self.run.shown} --set budget.hours=N"
            )
            return True
        self.screen.say(f"stopped while {stage}; the same command continues")
        return False

    def _look(self) -> None:
        """Ask for the end where somebody wants it, or where the hours are used up."""
        if self.interrupts.asked or self.requests is None:
            return
        if self._seconds is not None and self.clock.seconds() >= self._seconds:
            self.interrupts.ask("hours")
        for request in self.requests.pending():
            if request.verb == "stop":
                self.requests.reply(request, "accepted", "stopping")
                self.interrupts.ask("stop")

    def _leave(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Note the clock; a run that this session has made, and failed to prepare, is removed again."""
        if self._left or self.run is None:
            return
        self._left = True
        self.stages.keep_in(None)
        failed = kind is not None and issubclass(kind, Exception) and not self.interrupts.asked
        with contextlib.suppress(GantuneError, OSError), self._together:
            if failed and self._made and not self._trained:
                self.run.files.clear((*MADE, FILE, ".lock"), (*MADE_FOLDERS, "requests"))
                self.run.folder.rmdir()
            elif (self.run.folder / "manifest.json").exists() and (self.begun or self._alone):
                self.run.note_clock()


def _shown_before(run: Run) -> float:
    """Return what the run's clock has shown at most, by its rows, its sessions and the stage of a killed one."""
    if not (run.folder / "manifest.json").exists():
        return 0.0
    shown: list[float] = [session.get("seconds", 0.0) for session in run.manifest()["sessions"]]
    if (stage := read_stage(run.folder)) is not None:
        shown.append(stage.seconds)
    with contextlib.suppress(OSError, ValueError, ArrowException):  # whoever reads all of the rows says what is wrong
        rows = ds.dataset(run.folder / "results", format="parquet").to_table(columns=["run_seconds"])
        shown.append(pc.max(rows["run_seconds"]).as_py() or 0.0)
    return max(shown)
