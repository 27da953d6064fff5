"""What a person sees while a search runs: a picture in place on a terminal, and a line for each trial's end."""

import io
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO, cast

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gantune.results import Row
from gantune.screen import Picture, overview
from gantune.situation import label

if TYPE_CHECKING:
    from gantune.driver.books import Books  # with torch, which a search says that it loads

SECONDS_BETWEEN = 1.0
STOPPING = "stopping; what is running will continue from its last report"


class _Deaf(io.TextIOBase):
    """Passes text on to a stream until that takes no more: a closed pipe or a full disk ends no search."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._heard = True

    def write(self, text: str) -> int:
        """Text, if anybody reads it."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """What has been written is seen from here on, if anybody looks."""
        self._try(self._stream.flush)

    def _try(self, step: Callable[[], object]) -> None:
        if self._heard:
            try:
                step()
            except OSError:
                self._heard = False

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return self._stream.encoding


class Screen:
    """Writes to stderr: a picture in place on a terminal, plain lines elsewhere. Nobody need be there to read it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = cast(TextIO, _Deaf(stream or sys.stderr))
        self.redraws = self._stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
        self._lock = threading.RLock()  # a stage is repeated by a thread
        self._live: Live | None = None
        self._width = 0
        self._drawn = 0.0
        self._shown = False
        self._stage = ""
        self._stopping = False

    def say(self, text: str) -> None:
        """A line that stays, above the picture."""
        with self._lock:
            if self._live is not None:
                self._live.console.print(Text(text), soft_wrap=True)
                return
            self._clear()
            print(text, file=self._stream, flush=True)

    def passing(self, text: str) -> None:
        """A line that the next one replaces; shown on terminals only."""
        with self._lock:
            if self.redraws and self._live is None:
                width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be replaced
                self._clear()
                print(text[:width], end="", file=self._stream, flush=True)
                self._shown = bool(text)

    def ended(self, row: Row, books: "Books") -> None:
        """A trial has ended, or rests."""
        what = f"{label(row.trial, row.repeat)} {row.state} at {row.samples_seen:,} samples: {_outcome(row)}"
        self.say(what if self.redraws else f"{overview(books.situation())}  | {what}")
        self.update(books)

    def update(self, books: "Books") -> None:
        """Redraw the picture, at most once a second; a stage that begins gets a line that stays."""
        if books.stage != self._stage:
            self._stage = books.stage
            self.say(overview(books.situation()))
        if self.redraws and time.monotonic() - self._drawn > SECONDS_BETWEEN:
            self._draw(books)
            self._drawn = time.monotonic()

    def interrupted(self) -> None:
        """Somebody has asked for the end, and was answered on the terminal: what is below is drawn anew."""
        if not self._stopping:
            self._stopping = True
            self._leave()

    def rest(self, books: "Books") -> None:
        """Leave a line as it stands at the end."""
        self.close()
        if self.redraws:
            self.say(overview(books.situation()))

    def close(self) -> None:
        """Take the picture away."""
        if self._live is not None:
            self._live.update("")
            self._live.stop()
            self._live = None

    def _draw(self, books: "Books") -> None:
        picture = Picture(books.situation(), STOPPING if self._stopping else "")
        if self._live is not None and self._live.console.width < self._width:
            self._leave()  # its lines have been wrapped, so it could not be replaced
        if self._live is None:
            self._clear()
            console = Console(file=self._stream, force_terminal=True, force_jupyter=False, highlight=False)
            self._live = Live(
                console=console,
                auto_refresh=False,  # no thread of its own
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start()
            console.show_cursor(True)  # a search that is killed could not show it again
        self._width = self._live.console.width
        self._live.update(Group("", picture), refresh=True)

    def _leave(self) -> None:
        """Let the picture stand where it is, and begin another below it."""
        if self._live is not None:
            self._live.console.pop_render_hook()
            self._live.console.clear_live()
            self._live = None
            print(file=self._stream, flush=True)

    def _clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=self._stream)
            self._shown = False


def _outcome(row: Row) -> str:
    if row.state in ("collapsed", "failed"):
        return row.cause.splitlines()[0]
    if row.best_score is not None:
        return f"score {row.best_score:.4g}"
    return "no report" if row.score is None else f"score {row.score:.4g}, constraints not met"
