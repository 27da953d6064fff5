"""What a person sees while a search runs: one line that is kept up to date, and a line for each trial's end."""

import shutil
import sys
import time
from typing import TextIO

from gantune.results import Row
from gantune.search.ledger import Ledger

BAR = 20
SECONDS_BETWEEN = 1.0


class Screen:
    """Writes to stderr: a line in place on a terminal, plain lines elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._drawn = 0.0
        self._shown = False

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

    def ended(self, row: Row, ledger: Ledger) -> None:
        """A trial has ended."""
        what = f"#{row.trial} {row.state} at {row.samples_seen:,} samples: {_outcome(row)}"
        self.say(what if self._live else f"{overview(ledger)}  | {what}")
        self._drawn = 0.0
        self.update(ledger)

    def update(self, ledger: Ledger) -> None:
        """Redraw the line, at most once a second."""
        if self._live and time.monotonic() - self._drawn > SECONDS_BETWEEN:
            self._drawn = time.monotonic()
            self.passing(overview(ledger))

    def rest(self, ledger: Ledger) -> None:
        """Leave the line as it stands at the end."""
        if self._live:
            self.say(overview(ledger))

    def _clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=self._stream)
            self._shown = False


def overview(ledger: Ledger) -> str:
    """Progress, counts, best so far and time left, in one line."""
    done = sum(ledger.ended.values())
    filled = round(BAR * min(1.0, done / ledger.asked))
    parts = [f"[{'#' * filled}{'-' * (BAR - filled)}] {done}/{ledger.asked}", f"{ledger.running} running"]
    parts += [f"{ledger.ended[state]} {state}" for state in ("pruned", "collapsed", "failed") if ledger.ended[state]]
    if ledger.best is not None:
        parts.append(f"best {ledger.best.score:.4g} (#{ledger.best.trial})")
    left = ledger.seconds_left()
    if left is not None and done < ledger.asked:
        parts.append(f"{duration(left)} left")
    return "  ".join(parts)


def _outcome(row: Row) -> str:
    if row.state in ("collapsed", "failed"):
        return row.cause.splitlines()[0]
    if row.best_score is not None:
        return f"score {row.best_score:.4g}"
    return "no report" if row.score is None else f"score {row.score:.4g}, constraints not met"


def duration(seconds: float) -> str:
    """Seconds as 45s, 3m20s or 2h05m."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
