"""A run as others than its driver see it: from its rows and manifest, and by who holds it."""

import platform
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gantune.lease import holder
from gantune.reports import Key, key_of
from gantune.run import Run
from gantune.situation import Outline, Situation, Tally
from gantune.stage import Stage, read_stage, read_training

State = Literal["preparing", "searching", "finished", "stopped", "silent"]
LOG_BYTES = 100_000
LOG_LINES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """Who drives a run. `began`: seconds since 1970; a run at a URI tells nothing of a stage.

    `training`: the trials that have a worker of it, None where it does not tell.
    """

    host: str = ""
    pid: int | None = None
    began: float | None = None
    stage: Stage | None = None  # None once it trains
    training: Collection[Key] | None = None
    at: float | None = None
    clock: float | None = None  # the run's, as it was `at` that time

    @property
    def here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == platform.node()

    def __str__(self) -> str:
        who = f"process {self.pid} on {'this machine' if self.here else self.host}" if self.host else "a process"
        return who if self.began is None else f"{who} since {time.strftime('%H:%M:%S', time.localtime(self.began))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A run at a moment. `preparing`: no driver trains yet; `silent`: no trial has reported, and nobody drives it.

    Where nobody drives it, all that is open waits to be continued.
    """

    state: State
    drivers: tuple[Driver, ...]
    situation: Situation

    @property
    def driven(self) -> bool:
        """Whether a search drives it."""
        return self.state in ("preparing", "searching")

    @property
    def stage(self) -> Stage | None:
        """Where the preparation is, while nothing trains."""
        return self.drivers[0].stage if self.state == "preparing" else None


class Follower:
    """Follows one run; every look reads only what is new."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._rows = run.results.for_a_reader()
        self._tally = Tally()
        self._mended: Tally | None = None  # with the reports that only checkpoints hold, while nobody drives

    def look(self, *, trials_only: bool = False) -> View:
        """The run now. Raises RunError where it cannot be read.

        trials_only: of the search's own trials, also while or after its finalists are trained again.
        """
        outline = Outline.of(self.run)
        drivers = drivers_of(self.run)
        sessions = self.run.manifest()["sessions"]
        tally = self._read(driven=bool(drivers), complete="seconds" in sessions[-1])
        confirming = tally.confirming and not trials_only
        out = {key for key in tally.running() | self._issued(tally) if bool(key[1]) == confirming}
        clock = self._clock(drivers, [session.get("seconds", 0.0) for session in sessions])
        told = [driver.training for driver in drivers if driver.training is not None]
        training = out if drivers and len(told) < len(drivers) else out & {key for each in told for key in each}
        situation = tally.situation(outline, clock=clock, out=training, waiting=out - training, confirming=confirming)
        if not drivers:
            situation = replace(situation, seconds_left=None)
        return View(state=self._state(outline, tally, drivers, out), drivers=drivers, situation=situation)

    def _read(self, *, driven: bool, complete: bool) -> Tally:
        """Read what is new, and, where nobody is about to write their rows, the reports that only checkpoints hold.

        complete: whether the last driver ended in order. Then a run at a URI is not asked: each checkpoint costs a
        request.
        """
        news = self._rows.news()
        for row in news:
            self._tally.hear(row)
        if driven or (complete and self.run.place is not None):
            self._mended = None
            return self._tally
        if news or self._mended is None:
            self._mended = Tally()
            for row in self.run.rows():
                self._mended.hear(row)
        return self._mended

    def _state(self, outline: Outline, tally: Tally, drivers: tuple[Driver, ...], out: set[Key]) -> State:
        if drivers:
            return "preparing" if all(driver.stage for driver in drivers) else "searching"
        if not tally.known:
            return "stopped" if out else "silent"
        over = outline.ended or (tally.over(outline) and not self._issued(tally))
        return "finished" if over else "stopped"

    def _issued(self, tally: Tally) -> set[Key]:
        """Trials that have their configuration and have not reported; of a run at a URI they are not looked for."""
        if self.run.place is not None:
            return set()
        names = {key_of(path.parent.name): path for path in self.run.folder.glob("trials/*/config.yaml")}
        return {key for key in names if key is not None and key not in tally.known}

    def _clock(self, drivers: tuple[Driver, ...], shown: Sequence[float]) -> float:
        """The run's clock: it stands still where nobody drives, and no row tells what it shows between reports."""
        clock = max([self._tally.meter.clock, *shown])
        if not drivers:
            return clock
        known = [(driver.at, clock if driver.clock is None else driver.clock) for driver in drivers]
        if not any(driver.stage for driver in drivers):
            known.append((self._rows.written(), self._tally.meter.clock))
        at, then = max(((at, then) for at, then in known if at is not None), default=(time.time(), clock))
        return max(clock, then + time.time() - at)


def drivers_of(run: Run) -> tuple[Driver, ...]:
    """Who drives a run, here or on another machine; nobody, or one or more."""
    if run.place is not None and (found := holder(run.place)) is not None:
        return (Driver(host=found.host, pid=found.pid, began=found.began, at=found.began),)
    sessions = run.manifest()["sessions"]
    held = list(run.files.held())
    numbers = [int(name) - 1 if name.isdecimal() and name != run.name else -1 for name in held]
    told = [sessions[number] if -1 <= number < len(sessions) and sessions else {} for number in numbers]
    folders = [run.folder / "drivers" / name if name != run.name else run.folder for name in held]
    return tuple(_driver(session, folder) for session, folder in zip(told, folders, strict=True))


def _driver(session: Mapping[str, Any], folder: Path) -> Driver:
    """A driver by its session; one that prepares may have none yet, and tells of itself with its stage."""
    stage = read_stage(folder)
    if stage is not None:
        return Driver(
            host=stage.host,
            pid=stage.pid,
            began=stage.entered,
            stage=stage,
            at=stage.written,
            clock=stage.seconds,
            training=(),
        )
    began = session.get("began")
    return Driver(
        host=session.get("host", ""),
        pid=session.get("pid"),
        began=began,
        at=began,
        clock=session.get("before"),
        training=None if (found := read_training(folder)) is None else tuple(sorted(found)),
    )


def last_words(run: Run) -> list[str]:
    """The last lines about a trial that failed, from the logs of this machine's drivers."""
    logs = sorted([run.folder / "ray.log", *run.folder.glob("drivers/*/ray.log")], key=_written)
    for log in reversed(logs):
        lines = _tail(log)
        starts = [at for at, line in enumerate(lines) if " ERROR " in line]
        if starts:
            return lines[starts[-1] :][:LOG_LINES]
    return []


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
