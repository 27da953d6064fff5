"""The clock of a run: seconds of search over all sessions, each counted from the moment its command was entered."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Clock:
    """Seconds of this session, on top of those `before` it. `began`: the same moment, in seconds since 1970."""

    began: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic)
    before: float = 0.0

    def seconds(self) -> float:
        """Return the run's seconds until now."""
        return self.before + self.here()

    def here(self) -> float:
        """Return the seconds of this session."""
        return time.monotonic() - self.started

    def catch_up(self, seconds: float) -> None:
        """Move the clock forward to what another session has shown."""
        self.before += max(0.0, seconds - self.seconds())
