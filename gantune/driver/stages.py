"""The stage of a search that trains nothing yet: on the screen, in the run's directory, and open to requests.

A thread repeats it, as some steps give no reports. It also looks for a request to stop and at `budget.hours`.
"""

import contextlib
import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gantune.clock import Clock
from gantune.driver.interrupts import Interrupts
from gantune.driver.screen import Screen
from gantune.screen import bar
from gantune.spending import duration
from gantune.stage import FILE, Stage, parse_report, write_stage

SECONDS_BETWEEN_LOOKS = 0.3
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_DRAWINGS = 0.5
SECONDS_BETWEEN_FILES = 1.0
SECONDS_TO_END = 1.0


class Stages:
    """What a search is doing before it trains. `report` takes texts, which may end in a percentage.

    `look`: called by the thread; it may ask for the end.
    """

    def __init__(self, screen: Screen, clock: Clock, interrupts: Interrupts) -> None:
        self._screen = screen
        self._clock = clock
        self._interrupts = interrupts
        self.look: Callable[[], object] = lambda: None
        self._folder: Path | None = None
        self._now = Stage(name="")
        self._text = ""
        self._since = self._drawn = self._told = self._written = 0.0
        self._on_disk: tuple[str, float | None] = ("", None)
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """The stage."""
        return self._now.name

    def report(self, text: str) -> None:
        """Note a stage, or how far it is. Raises Interrupted where the search is to end."""
        name, share = parse_report(text)
        with self._lock:
            new = name != self._now.name
            began = time.time() if new else self._now.began
            self._now, self._text = Stage(name=name, share=share, began=began), text
            if new:
                self._since = time.monotonic()
                self._show()
                self._write()
            if self._thread is None:
                self._begin()
        self._interrupts.check()

    def keep_in(self, folder: Path | None) -> None:
        """Write the stage to a folder from now on; None: to none any more."""
        with self._lock:
            if self._folder is not None and folder is None:
                with contextlib.suppress(OSError):
                    (self._folder / FILE).unlink(missing_ok=True)
            self._folder = folder
            self._write()

    def end(self) -> None:
        """Show and write no stage any more, until the next report."""
        with self._lock:
            self.keep_in(None)
            self._over.set()
            self._screen.passing("")
            thread, self._thread = self._thread, None
            self._now = Stage(name="")
        if thread is not None and thread is not threading.current_thread():
            thread.join(SECONDS_TO_END)

    def _begin(self) -> None:
        self._over = over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, args=(over,), daemon=True)
        self._thread.start()

    def _repeat(self, over: threading.Event) -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            with contextlib.suppress(Exception):  # the main thread meets it, too, and says so
                self.look()
            with self._lock:
                if over.is_set():
                    return
                now, every = time.monotonic(), SECONDS_BETWEEN_DRAWINGS if self._screen.redraws else None
                if now - self._told >= (every or SECONDS_BETWEEN_LINES):
                    self._show()
                if now - self._written >= SECONDS_BETWEEN_FILES:
                    self._write()

    def _show(self) -> None:
        """Draw the stage in place on a terminal, else print a line."""
        self._told = time.monotonic()
        lasted = time.monotonic() - self._since
        since = f", {duration(lasted)}" if lasted >= 1 else ""
        if not self._screen.redraws:
            self._screen.say(f"{self._text}{since}")
        elif self._now.share is None:
            self._screen.passing(f"{self._text}{since}")
        else:
            share = self._now.share
            self._screen.passing(f"{self._now.name}  [{bar(round(100 * share), 100, '#-')}] {share:.0%}{since}")

    def _write(self) -> None:
        """Write the stage where it has changed, or the clock has gone on for long."""
        if self._folder is None or not self._now.name:
            return
        due = time.monotonic() - self._written >= SECONDS_BETWEEN_LINES
        if not due and (self._now.name, self._now.share) == self._on_disk:
            return
        self._written, self._on_disk = time.monotonic(), (self._now.name, self._now.share)
        stage = replace(
            self._now,
            host=platform.node(),
            pid=os.getpid(),
            entered=self._clock.began,
            written=time.time(),
            seconds=self._clock.seconds(),
        )
        with contextlib.suppress(OSError):  # a full disk: what the search itself writes tells of it
            write_stage(self._folder, stage)
