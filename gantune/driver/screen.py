"""What a person sees while a search runs: one line that is kept up to date, and a line for each trial's end."""

import shutil
import sys
import time
from typing import TextIO

from gantune.driver.books import Books
from gantune.results import Row
from gantune.spending import duration

BAR = 20
SECONDS_BETWEEN = 1.0


class Screen:
    """Writes to stderr: a line in place on a terminal, plain lines elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._drawn = 0.0
        self._shown = False
        self._stage = ""

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def passing(self, text: str) -> None:
        """A line that the next one replaces; shown on terminals only."""
        if self._live:
            self._clear()
            width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be replaced
            print(text[:width], end="", file=self._stream, flush=True)
            self._shown = True

    def ended(self, row: Row, books: Books) -> None:
        """A trial has ended, or rests."""
        name = f"#{row.trial}.{row.repeat}" if row.repeat else f"#{row.trial}"
        what = f"{name} {row.state} at {row.samples_seen:,} samples: {_outcome(row)}"
        self.say(what if self._live else f"{overview(books)}  | {what}")
        self._drawn = 0.0
        self.update(books)

    def update(self, books: Books) -> None:
        """Redraw the line, at most once a second; a stage that begins gets a line that stays."""
        if books.stage != self._stage:
            self._stage = books.stage
            self.say(overview(books))
        if self._live and time.monotonic() - self._drawn > SECONDS_BETWEEN:
            self._drawn = time.monotonic()
            self.passing(overview(books))

    def rest(self, books: Books) -> None:
        """Leave the line as it stands at the end."""
        if self._live:
            self.say(overview(books))

    def _clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=self._stream)
            self._shown = False


def overview(books: Books) -> str:
    """Progress, counts, best so far and time left, in one line."""
    done = sum(books.ended.values()) + books.resting
    filled = round(BAR * min(1.0, done / books.asked))
    parts = [f"[{'#' * filled}{'-' * (BAR - filled)}] {done}/{books.asked}", f"{books.running} running"]
    parts += [f"{books.resting} paused"] if books.resting else []
    parts += [books.stage] if books.stage else []
    parts += [f"{books.ended[state]} {state}" for state in ("pruned", "collapsed", "failed") if books.ended[state]]
    if books.best is not None:
        parts.append(f"best {books.best.score:.4g} (#{books.best.trial})")
    left = books.seconds_left()
    if left is not None and done < books.asked:
        parts.append(f"{duration(left)} left")
    return "  ".join(parts)


def _outcome(row: Row) -> str:
    if row.state in ("collapsed", "failed"):
        return row.cause.splitlines()[0]
    if row.best_score is not None:
        return f"score {row.best_score:.4g}"
    return "no report" if row.score is None else f"score {row.score:.4g}, constraints not met"
